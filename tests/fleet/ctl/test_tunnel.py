"""Through ssh: which node is taken, where a unit's commands run, and that nothing is left behind.

``ssh`` is a script (fake_ssh.py) that forwards for real but logs in nowhere; the real one is tested on virtual
machines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fleet.ctl import reach, transport
from tests.eventually import eventually

pytestmark = pytest.mark.slow

A, B = "a" * 32, "b" * 32
Fleetctl = Any  # tests/fleet/ctl/conftest.py
ROOT = Path(__file__).parents[3]


@pytest.fixture
def ssh(fleetctl: Fleetctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the fake ssh first on the PATH; returns its log. Its node 2202 is machine A."""
    programs, temporary, log = tmp_path / "bin", tmp_path / "tmp", tmp_path / "ssh.log"
    programs.mkdir()
    temporary.mkdir()
    log.touch()
    program = programs / "ssh"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I {Path(__file__).with_name("fake_ssh.py")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SSH_LOG", str(log))
    monkeypatch.setenv("FAKE_SSH_MACHINE_ID", A)
    monkeypatch.setenv("FAKE_SSH_API", str(fleetctl.socket))
    monkeypatch.setenv("FAKE_SSH_BROKEN_API", str(tmp_path / "none.sock"))
    monkeypatch.setenv("FLEETCTL_KNOWN_HOSTS_FILE", str(tmp_path / "known" / "hosts"))
    monkeypatch.delenv("FLEETCTL_ENDPOINT")
    # Folders of tunnels are made here, so that the test sees what is left. It is long: /tmp would be taken instead.
    monkeypatch.setattr(transport, "_short_temporary_folder", lambda: str(temporary))
    return log


def left_over(ssh: Path) -> list[Path]:
    return list((ssh.parent / "tmp").iterdir())


class TestWhichNode:
    def test_the_only_one(self, fleetctl: Fleetctl, ssh: Path) -> None:
        said = fleetctl("--tunnel", "127.0.0.1:2202", "list-machines", "--no-legend", "--fields", "ip")
        assert said == (0, "10.77.0.11\n10.77.0.12\n", "")
        assert left_over(ssh) == []

    def test_a_dead_one_is_skipped(self, fleetctl: Fleetctl, ssh: Path) -> None:
        assert fleetctl("--tunnel", "127.0.0.1:2201, 127.0.0.1:2202", "list-machines").code == 0
        assert left_over(ssh) == []

    def test_one_without_a_working_fleetd_is_skipped(self, fleetctl: Fleetctl, ssh: Path) -> None:
        assert fleetctl("--tunnel", "127.0.0.1:2204,127.0.0.1:2202", "list-machines").code == 0
        assert left_over(ssh) == []

    def test_a_silent_one_is_overtaken(self, fleetctl: Fleetctl, ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reach, "STAGGER_S", 1.0)  # also the patience with the one that answers
        begin = time.monotonic()
        assert fleetctl("--tunnel", "127.0.0.1:2203,127.0.0.1:2202", "list-machines").code == 0
        assert time.monotonic() - begin < 30
        assert left_over(ssh) == []

    def test_one_that_waits_for_a_leader_is_overtaken(
        self, fleetctl: Fleetctl, ssh: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is cut off from the others, say, and its fleetd waits out an election that will not come."""
        monkeypatch.setattr(reach, "STAGGER_S", 1.0)
        monkeypatch.setenv("FAKE_SSH_LATE_S", "60")
        begin = time.monotonic()
        assert fleetctl("--tunnel", "127.0.0.1:2206,127.0.0.1:2202", "list-machines").code == 0
        assert time.monotonic() - begin < 30
        assert left_over(ssh) == []

    def test_when_all_wait_for_a_leader_so_do_we(
        self, fleetctl: Fleetctl, ssh: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reach, "STAGGER_S", 0.3)
        monkeypatch.setenv("FAKE_SSH_LATE_S", "1.5")
        nodes = "127.0.0.1:2206,127.0.0.1:2204,127.0.0.1:2206"
        assert fleetctl("--tunnel", nodes, "list-machines").code == 0
        assert left_over(ssh) == []

    def test_one_that_dies_while_a_unit_is_waited_for(
        self, fleetctl: Fleetctl, ssh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another way is opened, and the command goes on where it was."""
        file = tmp_path / "hello.service"
        file.write_text("[Service]\nExecStart=/bin/sleep 1000\n")
        opened: list[transport.Tunnel] = []
        start = transport.Tunnel.__init__

        def note(tunnel: transport.Tunnel, *arguments: Any) -> None:
            start(tunnel, *arguments)
            opened.append(tunnel)

        monkeypatch.setattr(transport.Tunnel, "__init__", note)
        fleetctl.world.meanwhile[3] = lambda: os.killpg(opened[-1]._process.pid, signal.SIGKILL)
        said = fleetctl("--tunnel", "127.0.0.1:2202,127.0.0.1:2206", "start", str(file))
        assert said.code == 0, said
        assert said.out == "Unit hello.service launched on aaaaaaaa.../10.77.0.11\n"
        assert len(opened) > 1

    def test_none(self, fleetctl: Fleetctl, ssh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reach, "STAGGER_S", 0.05)
        said = fleetctl("--ssh-timeout", "8", "--tunnel", "127.0.0.1:2201,127.0.0.1:2203", "list-machines")
        assert said == (
            1,
            "",
            (
                "fleetctl: error: no node can be reached through ssh:\n"
                "  127.0.0.1:2201: connect to host 127.0.0.1 port 2201: Connection refused\n"
                "  127.0.0.1:2203: no answer within 8 s\n\n"
                "hint: is the node up? check --tunnel and --ssh-timeout\n"
            ),
        )
        assert left_over(ssh) == []

    def test_a_changed_host_key(self, fleetctl: Fleetctl, ssh: Path) -> None:
        said = fleetctl("--tunnel", "127.0.0.1:2205", "list-machines")
        assert said.code == 1
        assert "127.0.0.1:2205: Host key verification failed." in said.err
        assert f"remove its line from {ssh.parent}/known/hosts" in said.err

    def test_no_fleetd_behind_the_only_one(self, fleetctl: Fleetctl, ssh: Path) -> None:
        said = fleetctl("--tunnel", "127.0.0.1:2204", "list-machines")
        assert said.code == 1
        assert "unix:///run/fleet.sock on 127.0.0.1:2204" in said.err
        assert "hint: is fleet.service running on that node?" in said.err


class TestOptions:
    def test_strict(self, fleetctl: Fleetctl, ssh: Path, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.touch()
        options = ("--ssh-identity-file", str(key), "--ssh-username", "me", "--strict-host-key-checking")
        assert fleetctl("--tunnel", "127.0.0.1:2202", *options, "list-machines").code == 0
        line = ssh.read_text()
        assert "StrictHostKeyChecking=accept-new" in line
        assert f'UserKnownHostsFile="{ssh.parent}/known/hosts"' in line
        assert f'IdentityFile="{key}"' in line
        assert "-l me -p 2202 -- 127.0.0.1" in line
        assert ":/run/fleet.sock " in line

    def test_not_strict(self, fleetctl: Fleetctl, ssh: Path) -> None:
        fleetctl("--tunnel", "127.0.0.1:2202", "--strict-host-key-checking=false", "list-machines")
        assert "StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null" in ssh.read_text()

    def test_a_missing_key(self, fleetctl: Fleetctl, ssh: Path) -> None:
        said = fleetctl("--tunnel", "127.0.0.1:2202", "--ssh-identity-file", "/nonexistent", "list-machines")
        assert said.code == 1
        assert "/nonexistent: there is no ssh key" in said.err


class TestOnMachines:
    """Machine A is the tunnel's own node; B is another one."""

    @pytest.fixture(autouse=True)
    def _units(self, fleetctl: Fleetctl, ssh: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FLEETCTL_TUNNEL", "127.0.0.1:2202")
        (folder / "hello.service").write_text("[Service]\nExecStart=/bin/true\n")
        (folder / "g.service").write_text("[Service]\nExecStart=/bin/true\n[X-Fleet]\nGlobal=true\n")
        fleetctl("start", "hello.service", "g.service")

    def test_status_on_the_own_node(self, fleetctl: Fleetctl) -> None:
        said = fleetctl("status", "hello.service")
        assert said == (3, "core@127.0.0.1:2202: systemctl status --no-pager -l -- hello.service\n", "")

    def test_status_of_a_global_unit_is_that_of_all_machines(self, fleetctl: Fleetctl) -> None:
        assert fleetctl("status", "g.service").out == (
            "aaaaaaaa.../10.77.0.11:\n"
            "core@127.0.0.1:2202: systemctl status --no-pager -l -- g.service\n"
            "\n"
            "bbbbbbbb.../10.77.0.12:\n"
            "core@10.77.0.12:22 by a hop: systemctl status --no-pager -l -- g.service\n"
        )

    def test_journal(self, fleetctl: Fleetctl) -> None:
        said = fleetctl("journal", "-n", "5", "-f", "--sudo", "hello")
        assert said.code == 3
        assert said.out.endswith(": sudo journalctl --unit hello.service --no-pager -n 5 --output short --follow\n")

    def test_journal_of_a_global_unit_needs_a_machine(self, fleetctl: Fleetctl) -> None:
        said = fleetctl("journal", "g.service")
        assert said.code == 2
        assert f"--machine: {A} {B}" in said.err
        assert "10.77.0.12:22 by a hop" in fleetctl("journal", "--machine", "bbbb", "g.service").out

    def test_ssh(self, fleetctl: Fleetctl) -> None:
        assert fleetctl("ssh", "hello.service", "uptime", "-p") == (3, "core@127.0.0.1:2202: uptime -p\n", "")
        assert "10.77.0.12:22 by a hop: true" in fleetctl("ssh", "bbbb", "true").out
        assert "10.77.0.12:2022 by a hop: true" in fleetctl("ssh", "--ssh-port", "2022", "10.77.0.12", "true").out
        assert "core@127.0.0.1:2202: docker ps" in fleetctl("ssh", "--unit", "hello", "docker", "ps").out

    def test_ssh_to_nowhere(self, fleetctl: Fleetctl) -> None:
        assert "no machine has an id that begins with cccc" in fleetctl("ssh", "--machine", "cccc", "true").err
        assert "no such unit in the cluster: nothing.service" in fleetctl("ssh", "nothing", "true").err
        assert "g.service can be 2 machines" in fleetctl("ssh", "g.service", "true").err

    def test_an_address_that_is_none_never_reaches_a_command_line(self, fleetctl: Fleetctl, ssh: Path) -> None:
        evil = type(fleetctl.world.machines()[0])("c" * 32, "$(touch /tmp/x)")
        fleetctl.world.add_machine(evil)
        said = fleetctl("ssh", "cccc", "true")
        assert said.code == 1
        assert "is no IP address" in said.err
        assert "touch" not in ssh.read_text()

    def test_on_the_node_itself_no_ssh_is_needed(
        self, fleetctl: Fleetctl, ssh: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine_id = folder / "machine-id"
        machine_id.write_text(A + "\n")
        monkeypatch.setattr(reach, "MACHINE_ID_FILE", machine_id)
        monkeypatch.delenv("FLEETCTL_TUNNEL")
        ssh.write_text("")
        said = fleetctl("--endpoint", f"unix://{fleetctl.socket}", "ssh", "hello.service", "echo here; exit 4")
        assert said == (4, "here\n", "")
        assert ssh.read_text() == ""


class TestNothingIsLeftBehind:
    @pytest.fixture
    def slow_start(self, fleetctl: Fleetctl, ssh: Path, folder: Path) -> Callable[[], subprocess.Popen[bytes]]:
        """Starts, in a process of its own, a fleetctl that waits for ever for a unit, with its tunnel open."""
        (folder / "hello.service").write_text("[Service]\nExecStart=/bin/true\n")
        module = sys.modules[type(fleetctl).__module__]
        fleetctl.world.scripts["hello.service"] = module.Script(reason="no machine has metadata disk=tape")
        program = (
            f"import signal, sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job is born without
            "from fleet.ctl import cli, transport\n"
            f"transport._short_temporary_folder = lambda: {str(ssh.parent / 'tmp')!r}\n"
            "sys.exit(cli.main())\n"
        )

        def start() -> subprocess.Popen[bytes]:
            arguments = ["--tunnel", "127.0.0.1:2202", "start", "hello.service"]
            process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE)
            assert process.stderr is not None
            assert b"disk=tape" in process.stderr.readline()
            assert len(left_over(ssh)) == 1
            return process

        return start

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
    def test_when_killed(
        self, slow_start: Callable[[], subprocess.Popen[bytes]], ssh: Path, number: signal.Signals, code: int
    ) -> None:
        """Ctrl-C and SIGTERM clean up by hand; SIGKILL does it by the pipe that closes."""
        process = slow_start()
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
        assert process.returncode == code
        assert b"Traceback" not in printed
        eventually(lambda: not left_over(ssh), "the folder of the tunnel is still there")


class TestAddress:
    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [
            ("node-1", "node-1", 22),
            ("10.0.0.1:2201", "10.0.0.1", 2201),
            ("[fe80::1]:5", "fe80::1", 5),
            ("::1", "::1", 22),
        ],
    )
    def test_parse(self, text: str, host: str, port: int) -> None:
        assert transport.Address.parse(text) == transport.Address(host, port)

    def test_a_tunnel_is_a_list(self) -> None:
        assert [str(each) for each in transport.parse_tunnel("a:1, b,")] == ["a:1", "b:22"]

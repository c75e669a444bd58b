"""``vagrant up`` as a person does it, with libvirt: our box, our Vagrantfile, Debian's vagrant, on a computer of the
test's own.

One node, emulated or not, as this computer can: it comes up, is a cluster, keeps its data when it is switched off and
on, and is gone without a trace in the end. Two boots.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from builder.pipeline.build import build_image
from builder.pipeline.order import Settings
from terminal import Phases

from .conftest import until
from .firmware import BOOT_S, COMMAND_S, fastest
from .libvirtd import Computer, computer

pytestmark = pytest.mark.needs("machine")

ROOT: Final = Path(__file__).parent.parent
NEEDED: Final = ("vagrant", "libvirtd", "virtlogd", "dnsmasq", "qemu-img", "iptables")
STATUS: Final = "cat /run/cloudconfig/status.json"
DOCKER: Final = 2375
DAEMONS: Final = ["bash", "libvirtd", "virtlogd"]
"""All that runs on that computer when no user does anything there."""


@dataclass(frozen=True)
class Desk:
    """A user at that computer, in this checkout, whose Vagrant keeps everything in ``folder``."""

    computer: Computer
    folder: Path

    def vagrant(self, *words: str | Path, boots: int = 0) -> str:
        """Run it; it must succeed. Returns what it said. ``boots``: how many it waits for."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("VAGRANT_", "NUM_INSTANCES"))},
            "HOME": str(self.folder),
            "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
            "VAGRANT_HOME": str(self.folder / "home"),
            "VAGRANT_DOTFILE_PATH": str(self.folder / "state"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "FLOTILLA_VAGRANT_CONFIG": str(self.folder / "config.rb"),
        }
        timeout = (COMMAND_S * 2 + BOOT_S * 3 * boots) * fastest().factor
        done = self.computer.run("vagrant", *words, "--no-tty", environment=environment, timeout=timeout)
        print(f"$ vagrant {' '.join(map(str, words))}\n{done.stdout}")
        assert done.returncode == 0, done.stdout
        return done.stdout

    def ssh(self, command: str) -> str:
        """Run a command on the node, as ``core``. It must succeed."""
        return self.vagrant("ssh", "node-1", "--command", command)

    def answers(self, command: str) -> bool:
        """Whether it succeeds on the node."""
        return self.ssh(f"if {command} >/dev/null 2>&1; then echo yes; else echo no; fi").strip() == "yes"

    @property
    def token(self) -> str:
        """Of the cluster that there is."""
        found = json.loads((self.folder / "state/flotilla/cluster.json").read_text())["token"]
        assert isinstance(found, str)
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk with the box on it."""
    missing = [program for program in NEEDED if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.fail(f"no {', '.join(missing)} here: scripts/setup --tests installs what is missing")
    box = build_image(Settings(target="vagrant", phases=Phases(sys.__stderr__))).directory / "node-libvirt.box"
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "letter").write_text("from the desk\n")
    (tmp_path / "config.rb").write_text(f"""
        $enable_serial_logging = false
        $expose_docker_tcp = {DOCKER}
        $shared_folders = {{ "{shared}" => "/home/core/shared" }}
    """)
    with computer(tmp_path / "computer") as host:
        desk = Desk(host, tmp_path)
        desk.vagrant("validate")
        desk.vagrant("box", "add", "--name", "flotilla", box)
        yield desk


def own_processes(folder: Path) -> list[str]:
    """Command lines on the real computer that name ``folder``."""
    listed = subprocess.run(["ps", "-e", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line]


def network() -> str:
    """Cards and addresses of the real computer."""
    return subprocess.run(["ip", "-brief", "address"], capture_output=True, text=True, check=True).stdout


@pytest.mark.vm
@pytest.mark.full
def test_one_node_under_libvirt(desk: Desk) -> None:
    """Up, what it can do, off and on, gone."""
    up_with = network()
    desk.vagrant("up", "--provider=libvirt", boots=1)
    status = json.loads(desk.ssh(STATUS))
    assert (status["result"], status["errors"], status["datasource"]) == ("done", [], "nocloud")
    token = desk.token
    patience = 6 * COMMAND_S * fastest().factor
    until("etcd is healthy", lambda: desk.answers("etcdctl endpoint health"), patience, pause=5)
    until("fleet lists the machine", lambda: "192.168.58.101" in desk.ssh("fleetctl list-machines"), patience, pause=5)
    assert "Server Version: " in desk.ssh("sudo docker info 2>/dev/null")
    until("all units are well", lambda: desk.answers("systemctl is-system-running"), patience, pause=5)
    # Its own key, and no other; its own discovery service, that knows one token.
    assert desk.ssh("grep ^ssh- .ssh/authorized_keys") == (desk.folder / "state/flotilla/key.pub").read_text()
    assert token in desk.ssh("sudo cat /var/lib/private/discovery/registry")
    # Docker's port ends at this computer, and is not seen by whoever shares the network of the nodes.
    answer = desk.computer.run("curl", "-sS", f"http://127.0.0.1:{DOCKER}/version")
    assert '"ApiVersion"' in answer.stdout, answer.stdout
    assert f"Listen=127.0.0.1:{DOCKER} " in desk.ssh("systemctl show --property Listen docker-tcp.socket")
    assert desk.ssh("cat shared/letter") == "from the desk\n"

    desk.ssh("etcdctl put /kept by-etcd && echo by-me >kept && sync")
    machine = desk.ssh("cat /etc/machine-id")
    desk.vagrant("halt", boots=1)
    assert not [line for line in desk.computer.processes() if line.startswith("qemu")]
    desk.vagrant("up", boots=1)
    until("etcd is healthy again", lambda: desk.answers("etcdctl endpoint health"), patience, pause=5)
    assert desk.ssh("etcdctl get --print-value-only /kept && cat kept") == "by-etcd\nby-me\n"
    assert desk.ssh("cat /etc/machine-id") == machine
    assert desk.token == token, "the same cluster"
    # What is in memory is written at each boot; of the rest, who had registered, and no more.
    changed = [path for path in json.loads(desk.ssh(STATUS))["changed"] if not path.startswith("/run/")]
    assert changed == ["/etc/flotilla/discovery.json"]

    desk.vagrant("destroy", "--force")
    assert not (desk.folder / "state/flotilla").exists(), "the next cluster gets a token and a key of its own"
    assert desk.computer.processes() == DAEMONS
    assert desk.computer.cards() == ["lo"]
    assert network() == up_with, "this computer's own network was never touched"


@pytest.mark.vm
def test_that_computer_ends_with_its_test(tmp_path: Path) -> None:
    """Daemons too: they are no children of the test."""
    before = network()
    with computer(tmp_path / "computer") as host:
        # It asks a few programs what they can; then there are these.
        until("only daemons are left", lambda: host.processes() == DAEMONS, COMMAND_S * fastest().factor)
        assert host.cards() == ["lo"]
        inside = int(host.run("sh", "-c", "readlink /proc/self/ns/net | tr -cd 0-9").stdout)
    assert own_processes(tmp_path) == []
    for links in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            assert str(inside) not in str(links.readlink())
        except OSError:
            continue  # it ended while we looked, or is another user's
    assert network() == before

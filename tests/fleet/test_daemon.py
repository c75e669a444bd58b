"""fleetd as a whole: its loop with real threads, its command line, and once with a real etcd."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from etcd import Client
from etcd.fake import FakeEtcd
from etcd.protocol import Etcd
from fleet.agent.unitstore import UnitStore
from fleet.config import Config, ConfigError
from fleet.daemon import Daemon, inherited_sockets, notify, run, this_machine
from fleet.model.entities import Machine
from fleet.model.registry import PREFIX, Registry
from terminal import Failure, command
from tests.eventually import WITHIN_S, eventually
from tests.fleet.clusters import unit
from tests.fleet.systembus import SystemBus
from tests.fleet.world import FakeSystemd


class Running:
    """A daemon in a thread, with a fake systemd."""

    def __init__(self, client: Etcd, folder: Path, name: str, ttl_s: int, prefix: str) -> None:
        self.registry = Registry(client, prefix)
        units = folder / name / "systemd"
        units.mkdir(parents=True, exist_ok=True)
        self.systemd = FakeSystemd(units)
        store = UnitStore(folder / name / "fleet", units)
        store.prepare()
        config = Config(agent_ttl=ttl_s, engine_reconcile_interval=0.5)
        self.daemon = Daemon(self.registry, Machine(name, boot=f"boot-{name}"), store, config)
        self.meaning = ""
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.meaning = self.daemon.run(self.systemd)

    def stop(self) -> None:
        self.daemon.stop()
        self.thread.join(WITHIN_S)
        assert not self.thread.is_alive()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def start(client: Etcd, name: str, ttl_s: int = 30, prefix: str = PREFIX) -> Running:
        made.append(Running(client, tmp_path, name, ttl_s, prefix))
        return made[-1]

    yield start
    for each in made:
        if each.thread.is_alive():
            each.stop()


class TestLoop:
    """The queue, the threads, and what is left behind."""

    def test_a_unit_runs_and_outlives_the_daemon(self, running: Callable[..., Running]) -> None:
        etcd = FakeEtcd()
        registry = Registry(etcd)
        node = running(etcd.connect(), "a")
        registry.create_unit(unit("x.service"))
        eventually(lambda: node.systemd.active.get("x.service"))
        node.systemd.active["x.service"] = False
        node.daemon.changed(["x.service"])
        eventually(lambda: [state for state in registry.states() if state.active == "inactive"])
        node.systemd.active["x.service"] = True
        node.stop()
        assert node.systemd.active == {"x.service": True}
        assert node.meaning == (
            "1 unit runs on, and nothing starts or stops any; unless fleetd is back within 30 s, the cluster starts "
            "what can move elsewhere, too"
        )
        assert "stop x.service" not in node.systemd.log
        assert [machine.id for machine in registry.machines()] == ["a"], "its lease runs on for the next daemon"
        assert etcd.get(registry.key_leader) is None, "but another may lead at once"

    def test_a_machine_that_shuts_down_leaves_when_its_units_have_stopped(
        self, running: Callable[..., Running]
    ) -> None:
        etcd = FakeEtcd()
        registry = Registry(etcd)
        node = running(etcd.connect(), "a")
        registry.create_unit(unit("x.service"))
        eventually(lambda: [state for state in registry.states() if state.active == "active"])
        node.systemd.shuts_down = True
        node.daemon.stop()
        node.systemd.active["x.service"] = False
        assert [machine.id for machine in registry.machines()] == ["a"], "a copy elsewhere would run beside it"
        node.daemon.changed(["x.service"])
        node.thread.join(WITHIN_S)
        assert node.meaning == "this machine shuts down; the cluster starts elsewhere what can move"
        assert (registry.machines(), registry.states()) == ([], [])
        assert "stop x.service" not in node.systemd.log, "systemd does that"

    def test_settings_that_are_read_again_reach_the_cluster(self, running: Callable[..., Running]) -> None:
        """Under the same lease: no one may take this machine for another."""
        etcd = FakeEtcd()
        registry = Registry(etcd)
        node = running(etcd.connect(), "a")
        eventually(lambda: etcd.get(registry.key_machine("a")))
        before = etcd.get(registry.key_machine("a"))
        node.daemon._read = lambda: (
            Config(metadata={"disk": "ssd"}),
            Machine("a", metadata={"disk": "ssd"}, boot="boot-a"),
        )
        node.daemon.reload()
        eventually(lambda: registry.machines()[0].metadata == {"disk": "ssd"})
        after = etcd.get(registry.key_machine("a"))
        assert before is not None
        assert after is not None
        assert (after.lease, after.create_revision) == (before.lease, before.create_revision)

    def test_etcd_may_come_later(self, running: Callable[..., Running]) -> None:
        etcd = FakeEtcd()
        client = etcd.connect()
        client.reachable = False
        node = running(client, "a")
        time.sleep(0.1)  # in which it tries, and does not give up
        assert node.thread.is_alive()
        client.reachable = True
        eventually(lambda: Registry(etcd).machines())

    def test_a_watch_that_breaks_is_opened_again(self, running: Callable[..., Running]) -> None:
        etcd = FakeEtcd()
        registry = Registry(etcd)
        client = etcd.connect()
        node = running(client, "a")
        registry.create_unit(unit("1.service"))
        eventually(lambda: node.systemd.active.get("1.service"))
        client.reachable = False
        client.reachable = True
        registry.create_unit(unit("2.service"))
        eventually(lambda: node.systemd.active.get("2.service"))
        assert node.systemd.starts == {"1.service": 1, "2.service": 1}


@pytest.mark.slow
@pytest.mark.etcd
def test_failover_on_a_real_etcd(
    real_etcd: str, running: Callable[..., Running], request: pytest.FixtureRequest
) -> None:
    """Two daemons, leases of 3 s, real watches: the one that stops answering loses its unit to the other."""
    clients = [Client([real_etcd]) for _ in range(3)]
    for client in clients:
        request.addfinalizer(client.close)
    registry = Registry(clients[0], "/test-failover/")
    nodes = {
        name: running(client, name, ttl_s=3, prefix=registry.prefix)
        for name, client in zip("ab", clients[1:], strict=True)
    }
    eventually(lambda: len(registry.machines()) == 2)
    registry.create_unit(unit("x.service"))
    registry.create_unit(unit("g.service", "Global=true"))
    eventually(lambda: len(registry.states()) == 3)
    victim = registry.placements()["x.service"]
    (survivor,) = nodes.keys() - {victim}
    nodes[victim].stop()
    eventually(lambda: nodes[survivor].systemd.active.get("x.service"))
    assert registry.placements() == {"x.service": survivor}
    assert nodes[survivor].systemd.starts == {"x.service": 1, "g.service": 1}
    assert registry.problems() == []


class Process:
    """The console script in a process of its own. Without ``etcd`` nothing listens where that would be, which must not
    matter.
    """

    def __init__(
        self,
        folder: Path,
        ttl_s: int = 30,
        *,
        machine: str = "a" * 32,
        etcd: str = "http://127.0.0.1:9",
        prefix: str = PREFIX,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.api = folder / "api.sock"
        self.settings = folder / "fleet.conf"
        self.settings.write_text(f"metadata=disk=ssd\nagent_ttl={ttl_s}s\n")
        self.bus = SystemBus(folder)
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(folder / "notify"))
        self.notified.settimeout(20)
        root = folder / "root"
        code = (
            "import sys, pathlib, fleet.daemon as d; from terminal import command; "
            f"d.SYSTEMD_FOLDER = pathlib.Path({str(root / 'systemd')!r}); "
            f"d.this_machine = lambda config: d.Machine({machine!r}, metadata=config.metadata, boot='b'); "
            "sys.exit(command('fleetd', d.run))"
        )
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address,
            "NOTIFY_SOCKET": str(folder / "notify"),
            "FLEET_ETCD_SERVERS": etcd,
            "FLEET_ETCD_KEY_PREFIX": prefix,
            "FLEET_UNITS_DIRECTORY": str(root),
        }
        self.errors = folder / "errors"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "--socket", str(self.api), "--config", str(self.settings)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(self.api))
            client.sendall(b"GET /fleet/v1/machines HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b" 503 " in client.recv(200)

    def reported(self) -> bytes:
        """What it reports to systemd next, apart from being alive."""
        while (text := self.notified.recv(200)).startswith(b"WATCHDOG"):
            pass
        return text

    def says(self, text: str) -> bool:
        return text in self.errors.read_text()

    def report(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGUSR1)
        assert self.process.stdout is not None
        found = json.loads(self.process.stdout.readline())
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.notified.close()
        self.bus.close()


class TestProcess:
    """The console script in a process of its own."""

    @pytest.fixture
    def fleetd(self, tmp_path: Path) -> Iterator[Process]:
        made = Process(tmp_path)
        yield made
        made.close()

    def test_it_serves_says_ready_and_ends_in_order(self, fleetd: Process) -> None:
        assert fleetd.notified.recv(200) == b"READY=1\nSTATUS=running"
        assert fleetd.answers()
        fleetd.process.send_signal(signal.SIGTERM)
        assert fleetd.process.wait(timeout=60) == 0, fleetd.errors.read_text()
        assert fleetd.reported() == b"STOPPING=1\nSTATUS=no unit of fleet runs here"
        assert not fleetd.says("Traceback")
        assert fleetd.says("stopping: no unit of fleet runs here")
        assert not fleetd.api.exists()

    def test_one_that_is_stopped_is_silent_and_its_death_says_where(self, tmp_path: Path) -> None:
        """systemd, which waits for a third of the lease, then sends SIGABRT. Its etcd is not there; that is no hang."""
        fleetd = Process(tmp_path, ttl_s=9)
        try:
            assert fleetd.reported() == b"READY=1\nSTATUS=running"
            assert fleetd.notified.recv(200) == b"WATCHDOG_USEC=3000000\nWATCHDOG=1"
            assert [fleetd.notified.recv(200) for _ in range(6)] == 6 * [b"WATCHDOG=1"]
            fleetd.process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, fleetd.process.pid, os.WSTOPPED)
            fleetd.notified.settimeout(0)
            with pytest.raises(BlockingIOError):
                while True:
                    fleetd.notified.recv(200)  # sent before
            fleetd.notified.settimeout(2)
            with pytest.raises(TimeoutError):
                fleetd.notified.recv(200)
            for each in (signal.SIGABRT, signal.SIGCONT):
                fleetd.process.send_signal(each)
            ended = fleetd.process.wait(timeout=60)
            assert fleetd.says("Fatal Python error: Aborted")
            # Python walks through the stacks of threads that may run meanwhile, and rarely falls: dead it is, too.
            assert ended == -signal.SIGSEGV or (ended == -signal.SIGABRT and fleetd.says("in _run"))
        finally:
            fleetd.close()

    def test_hup_and_usr1_end_nothing(self, fleetd: Process) -> None:
        """HUP reads the settings again, and those of a running daemon change; USR1 prints what it knows."""
        assert fleetd.notified.recv(200) == b"READY=1\nSTATUS=running"
        eventually(lambda: fleetd.says("units run on as they are"))
        report = fleetd.report()
        assert (report["machine"], report["metadata"], report["units"]) == ("a" * 32, {"disk": "ssd"}, {})
        assert "cannot connect to etcd" in report["trouble"]
        fleetd.settings.write_text("metadata=disk=hdd,zone=1\nagent_ttl=1m\n")
        fleetd.process.send_signal(signal.SIGHUP)
        eventually(lambda: fleetd.says("changed: agent_ttl, metadata"))
        eventually(lambda: fleetd.says("restart fleetd for the new agent_ttl"))
        assert fleetd.report()["metadata"] == {"disk": "hdd", "zone": "1"}
        fleetd.settings.write_text("nonsense=1\n")
        fleetd.process.send_signal(signal.SIGHUP)
        eventually(lambda: fleetd.says("the configuration stays as it was"))
        assert fleetd.report()["metadata"] == {"disk": "hdd", "zone": "1"}
        assert fleetd.answers(), "on the socket that it had"
        assert fleetd.process.poll() is None


class TestCommandLine:
    """``--help``, ``--check-config``, and mistakes."""

    @pytest.fixture(autouse=True)
    def _own_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("FLEET_")]:
            monkeypatch.delenv(name)
        monkeypatch.setattr(signal, "signal", lambda *_: None)

    def test_help_teaches_by_example(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            command("fleetd", run, ["--help"])
        assert caught.value.code == 0
        assert "FLEET_METADATA=disk=ssd fleetd" in capsys.readouterr().out

    def test_check_config(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "fleet.conf"
        file.write_text("agent_ttl=10s\nenable_grpc=true\n")
        assert command("fleetd", run, ["--check-config", "--config", str(file)]) == 0
        printed = capsys.readouterr()
        assert printed.out == "the configuration is right\n"
        assert printed.err == "fleetd: warning: the setting enable_grpc has no effect\n"
        assert command("fleetd", run, ["--check-config", "--json", "--config", str(file)]) == 0
        assert json.loads(capsys.readouterr().out)["agent_ttl"] == 10

    def test_an_error_is_reported_with_its_place_and_the_next_step(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "fleet.conf"
        file.write_text("\nagent_tll=10s\n")
        assert command("fleetd", run, ["--config", str(file)]) == 1
        assert capsys.readouterr().err == (
            f"fleetd: error: {file} line 2: there is no setting agent_tll\n\nhint: the nearest is agent_ttl\n"
        )

    def test_wrong_usage(self) -> None:
        with pytest.raises(SystemExit) as caught:
            command("fleetd", run, ["--nonsense"])
        assert caught.value.code == 2


class TestSurroundings:
    """What systemd and the machine give us."""

    def test_sockets_are_those_passed_to_this_process(self) -> None:
        assert inherited_sockets({}) == []
        assert inherited_sockets({"LISTEN_PID": "1", "LISTEN_FDS": "3"}) == []
        with pytest.raises(ConfigError):
            inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"})
        assert inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"}) == []

    def test_notify_reaches_a_path_and_a_name(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        notify("READY=1", {})
        for address, bound in ((str(tmp_path / "s"), str(tmp_path / "s")), (f"@{tmp_path}", f"\0{tmp_path}")):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
                listening.bind(bound)
                notify("READY=1", {"NOTIFY_SOCKET": address})
                assert listening.recv(100) == b"READY=1"
        notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "none")})
        assert "cannot report 'READY=1' to systemd" in caplog.text

    def test_who_this_machine_is(self, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
        (tmp_path / "proc/sys/kernel/random/boot_id").write_text("boot\n")
        with pytest.raises(Failure, match="cannot identify this machine"):
            this_machine(Config(), tmp_path)
        (tmp_path / "etc/machine-id").write_text("uninitialized\n")
        with pytest.raises(Failure, match="not 32 hexadecimal digits"):
            this_machine(Config(), tmp_path)
        (tmp_path / "etc/machine-id").write_text("0123456789abcdef" * 2 + "\n")
        machine = this_machine(Config(public_ip="10.0.0.1", metadata={"a": "b"}), tmp_path)
        assert machine == Machine("0123456789abcdef" * 2, "10.0.0.1", {"a": "b"}, "boot")

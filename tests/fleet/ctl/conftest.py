"""A cluster of one process: the real fleetctl, HTTP API and registry over the fake etcd, and an engine and agents that
we play.

The played part answers at once and obeys the test: it runs after each change of a unit, so nothing here depends on
timing.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from etcd.errors import Unavailable
from etcd.fake import FakeEtcd
from fleet.api.handlers import Api
from fleet.api.server import ApiServer
from fleet.ctl import cli, waiting
from fleet.model import codec
from fleet.model.entities import Desired, Machine, Placement, Unit, UnitState
from fleet.model.registry import LOCAL, Registry
from unitfile.text import UnitFile
from webserver.message import Request, Response

A, B = "a" * 32, "b" * 32
HELLO = "[Unit]\nDescription=Hello\n\n[Service]\nExecStart=/bin/sleep 1000\n"


class Said(NamedTuple):
    """What one run of fleetctl gave."""

    code: int
    out: str
    err: str


@dataclass
class Script:
    """How the played cluster treats one unit: a reason to place it nowhere, and what systemd says, look after look (the
    last one stays).
    """

    reason: str = ""
    says: list[tuple[str, str]] = field(default_factory=lambda: [("active", "running")])
    error: str = ""
    stays: bool = False  # its machine never does what is ordered


class World(Registry):
    """A registry whose engine and agents are played."""

    def __init__(self, client: FakeEtcd) -> None:
        super().__init__(client)
        self.scripts: dict[str, Script] = {}
        self.away_after = 0  # so many looks from now etcd is away for one of them
        self.meanwhile: dict[int, Callable[[], object]] = {}  # what happens during the n-th look from now

    def add_machine(self, machine: Machine) -> None:
        self.client.put(self.key_machine(machine.id), codec.machine_bytes(machine))

    def ask(self, wanted: Mapping[str, tuple[UnitFile | None, Desired]], *, by: str = LOCAL) -> None:
        super().ask(wanted, by=by)
        self.step()

    def delete_unit(self, name: str, *, by: str = LOCAL) -> None:
        super().delete_unit(name, by=by)
        self.step()

    def on_machines(self, units: Mapping[str, str]) -> dict[str, tuple[list[Placement], list[UnitState]]]:
        """Each question about units is a look, after which the next thing on their scripts happens."""
        self.meanwhile = {number - 1: event for number, event in self.meanwhile.items()}
        if event := self.meanwhile.pop(0, None):
            event()
        if self.away_after:
            self.away_after -= 1
            if not self.away_after:
                raise Unavailable("played")
        found = super().on_machines(units)
        for unit in units:
            script = self.scripts.get(unit)
            if script is not None and len(script.says) > 1 and found[unit][1]:
                script.says.pop(0)
                self.step()
        return found

    def step(self) -> None:
        units = {unit.name: unit for unit in self.units()}
        machines = self.machines()
        for name in {*units, *(state.name for state in self.states())}:
            unit = units.get(name)
            script = self.scripts.setdefault(name, Script())
            if script.stays:
                continue
            everywhere = unit is not None and unit.unitfile.get("X-Fleet", "Global") == ("true",)
            homes = machines if everywhere else machines[:1]
            if unit is None or unit.desired is Desired.INACTIVE or script.reason:
                for each in machines:
                    self.client.delete(self.key_schedule(each.id, name))
                    self.client.delete(self.key_state(each.id, name))
                if script.reason and unit is not None:
                    self.client.put(self.key_status(name), codec.status_bytes(script.reason))
                continue
            for each in homes:
                self.run(unit, each, script, everywhere=everywhere)

    def run(self, unit: Unit, machine: Machine, script: Script, *, everywhere: bool) -> None:
        text, digest = unit.unitfile.serialize(), unit.unitfile.hash()
        order = Placement(unit.name, machine.id, unit.desired, text, digest, everywhere, "least loaded")
        active, sub = script.says[0] if unit.desired is Desired.LAUNCHED else ("inactive", "dead")
        state = UnitState(unit.name, machine.id, "loaded", active, sub, digest, unit.desired, script.error)
        self.client.put(self.key_schedule(machine.id, unit.name), codec.placement_bytes(order))
        self.client.put(self.key_state(machine.id, unit.name), codec.state_bytes(state))


class Fleetctl:
    """Runs fleetctl in this process through its real entry point."""

    def __init__(self, world: World, api: Path, capfd: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.socket = api
        self.requests: list[str] = []
        self.serve()
        self._capfd = capfd
        self._patch = patch

    def serve(self) -> None:
        """Begin to listen."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(self.socket))
        listening.listen()
        self._server = ApiServer(self.world, sockets=[listening])
        self._server.start()

    def go_away(self) -> None:
        """As a fleetd that ends: connections break, and no server listens."""
        self._server.stop()
        self.socket.unlink(missing_ok=True)

    def __call__(self, *arguments: str) -> Said:
        self._capfd.readouterr()
        self._patch.setattr(sys, "argv", ["fleetctl", *arguments])
        try:
            code = cli.main()
        except SystemExit as stop:  # argparse's own end, for --help and usage errors
            code = stop.code if isinstance(stop.code, int) else 1
        sys.stdout.flush()
        out, err = self._capfd.readouterr()
        return Said(code, out, err)


@pytest.fixture
def world() -> World:
    made = World(FakeEtcd())
    made.add_machine(Machine(A, "10.77.0.11", {"disk": "ssd", "az": "1"}))
    made.add_machine(Machine(B, "10.77.0.12"))
    return made


@pytest.fixture
def fleetctl(
    world: World,
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Fleetctl]:
    path = tmp_path_factory.mktemp("api") / "fleet.sock"
    for name in (
        "CONTEXT",
        "CA_FILE",
        "CERT_FILE",
        "KEY_FILE",
        "TUNNEL",
        "ENDPOINT",
        "SSH_IDENTITY_FILE",
        "KNOWN_HOSTS_FILE",
        "STRICT_HOST_KEY_CHECKING",
    ):
        monkeypatch.delenv(f"FLEETCTL_{name}", raising=False)
    monkeypatch.setenv("FLEETCTL_ENDPOINT", f"unix://{path}")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    # The played cluster is as fast as we look; so look often, and let what lasts ten seconds last a moment.
    monkeypatch.setattr(waiting, "POLL_S", 0.002)
    monkeypatch.setattr(waiting, "ATTEMPT_S", 0.05)
    monkeypatch.setattr(waiting, "SETTLED_S", 0.02)
    monkeypatch.setattr(waiting, "QUIET_S", 0.0)
    made = Fleetctl(world, path, capfd, monkeypatch)
    handle = Api.handle

    def noted(api: Api, request: Request) -> Response:
        made.requests.append(f"{request.method} {request.target}")
        return handle(api, request)

    monkeypatch.setattr(Api, "handle", noted)
    made.go_away()
    made.serve()  # with the notes
    yield made
    made.go_away()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where fleetctl runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unit_file(folder: Path) -> Callable[..., Path]:
    """Writes a unit file into the folder."""

    def write(name: str = "hello.service", text: str = HELLO) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write

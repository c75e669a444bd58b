"""The control plane of fleet_scale.py: etcd, engines and agents as processes, the units, and the table of results."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.hollow import ZONES, machine
from builder.debian.tools import Tools
from etcd import Client, Op
from etcd.wire import key_fields
from fleet.model import codec
from fleet.model.entities import Desired, Placement, Unit, UnitState
from fleet.model.registry import Registry
from unitfile.text import UnitFile
from webserver.unix import UnixConnection

SUBMITTERS = 8
LEASE_S = 5
AGENT_TTL_S = 30
ROOT = Path(__file__).parents[1]


def unit_of(number: int) -> Unit:
    """The unit of this number, ten to a group of Conflicts."""
    fleet = []
    group = number // 20
    if number % 2 == 0:
        fleet.append(f"Conflicts=app-{group:04}-even-*.service")
    if number % 4 == 1:
        fleet.append(f"MachineMetadata=zone={ZONES[number // 4 % 4]}")
    lines = [
        *("[Unit]", f"Description=Unit {number} of group {group}", "After=network-online.target", ""),
        *("[Service]", f"ExecStart=/usr/bin/sleep {number}", "Restart=always", "RestartSec=5"),
        *(["", "[X-Fleet]", *fleet] if fleet else []),
    ]
    parity = "odd" if number % 2 else "even"
    name = f"app-{group:04}-{parity}-{number % 20:02}.service"
    return Unit.of(name, UnitFile.parse("\n".join(lines) + "\n"), Desired.LAUNCHED)


@dataclass
class Rows:
    """Samples by row. A sample is ``None`` for what never came about."""

    samples: dict[str, list[float | None]] = field(default_factory=dict)

    def add(self, name: str, value: float | None) -> None:
        """One more sample of this row."""
        self.samples.setdefault(name, []).append(value)
        print(f"  {name}: {'never' if value is None else f'{value:.4g}'}", file=sys.stderr, flush=True)

    def table(self) -> list[list[str]]:
        """Rows of (name, min, median, max)."""
        return [[name, *self._spread(values)] for name, values in self.samples.items()]

    @staticmethod
    def _spread(values: Sequence[float | None]) -> list[str]:
        ordered = sorted(float("inf") if each is None else each for each in values)
        found = (ordered[0], statistics.median(ordered), ordered[-1])
        return ["never" if each == float("inf") else f"{each:.4g}" for each in found]


class ControlPlane:
    """etcd, engines and agents as processes, all ended by :meth:`close`; ``client`` and ``registry`` are ours to look
    with.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ports = []
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                probe = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                ports.append(probe.getsockname()[1])
        self.endpoint, peer = (f"http://127.0.0.1:{port}" for port in ports)
        binary = os.environ.get("FLOTILLA_ETCD") or str(Tools.ours().path("etcd"))
        self._etcd = (
            *(binary, f"--data-dir={folder / 'etcd'}", "--log-level=warn"),
            *(f"--listen-client-urls={self.endpoint}", f"--advertise-client-urls={self.endpoint}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            f"--initial-cluster=default={peer}",
        )
        self._start("etcd", *self._etcd)
        self.client = Client([self.endpoint], timeout=60)
        self.registry = Registry(self.client)
        self.until(self.client.health, "etcd does not begin to serve")

    def engine(self, name: str) -> None:
        """Start an engine with its API."""
        with contextlib.suppress(FileNotFoundError):
            self.socket(name).unlink()
        self._hollow(name, "--engine", name)
        self.until(self.socket(name).exists, f"{name} does not begin to serve")

    def agents(self, machines: int) -> None:
        """Start the agents of so many machines, and wait until all are registered. A tenth has a process of its own,
        ``agents-0``, that can be killed.
        """
        bounds = [0, machines // 10, machines * 11 // 20, machines]
        for number, (first, end) in enumerate(pairwise(bounds)):
            self._hollow(f"agents-{number}", "--agents", str(first), str(end - first))
        self.until(lambda: self.count("machines/") == machines, "not all agents register")

    def socket(self, name: str) -> Path:
        """Where an engine's API is."""
        return self.folder / name

    def leader(self) -> str:
        """The name of the engine that leads; waits for one."""
        self.until(lambda: self.client.get(self.registry.key_leader), "no engine leads")
        found = self.client.get(self.registry.key_leader)
        assert found is not None
        return codec.leader("engine/leader", found.value)

    def standby(self) -> str:
        """The name of the engine that is ready to succeed; waits for one that has nothing to do."""
        key = self.registry.key_standby(0)
        self.until(lambda: self.client.get(key), "no engine stands by")
        self.calm()
        found = self.client.get(key)
        assert found is not None
        return codec.leader("", found.value)

    def follower(self) -> str:
        """The name of an engine without a post."""
        busy = (self.leader(), self.standby())
        return next(name for name in self.processes if name.startswith("engine") and name not in busy)

    def calm(self) -> None:
        """Wait until engines and agents have next to nothing to do for two seconds."""
        before = sum(self.cpu().values())
        quiet = 0

        def is_calm() -> bool:
            nonlocal before, quiet
            time.sleep(0.5)
            now = sum(self.cpu().values())
            quiet = quiet + 1 if now - before < 0.25 else 0
            before = now
            return quiet >= 4

        self.until(is_calm, "there is no rest")

    def restart_etcd(self) -> None:
        """SIGKILL, and start again on the same data and ports."""
        self.kill("etcd")
        self._start("etcd", *self._etcd)
        self.until(self.client.health, "etcd does not come back")

    def rss_mb(self, name: str) -> float:
        """Memory of a process."""
        pages = int(Path(f"/proc/{self.processes[name].pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def kill(self, name: str) -> None:
        """SIGKILL."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def count(self, part: str) -> int:
        """How many keys begin with this part."""
        body = json.dumps(key_fields(self.registry.prefix + part, prefix=True) | {"count_only": True}).encode()
        with urllib.request.urlopen(f"{self.endpoint}/v3/kv/range", body, timeout=60) as answer:
            return int(json.load(answer).get("count", 0))

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU so far, by process."""
        found = {}
        for name, process in self.processes.items():
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            found[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def fsync_ms(self, quantile: float) -> float:
        """This quantile of etcd's WAL fsyncs so far, as the upper bound of its bucket."""
        with urllib.request.urlopen(f"{self.endpoint}/metrics", timeout=60) as answer:
            text = answer.read().decode()
        found = re.findall(r'etcd_disk_wal_fsync_duration_seconds_bucket\{le="([^"]+)"\} (\d+)', text)
        total = int(found[-1][1])
        return next(float(bound) * 1000 for bound, count in found if int(count) >= quantile * total)

    def until(self, condition: Callable[[], object], otherwise: str, seconds: float = 3600.0) -> None:
        """Look until ``condition()`` is true; a process of ours that ended, or the time, ends the bench."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            if ended or time.monotonic() >= deadline:
                logs = "".join((self.folder / f"{name}.log").read_text()[-3000:] for name in ended)
                sys.exit(f"{otherwise}; ended: {', '.join(ended) or 'none'}\n{logs}")
            time.sleep(0.05)

    def close(self) -> None:
        """End all processes."""
        self.client.close()
        for name in list(self.processes):
            self.kill(name)

    def _hollow(self, name: str, *options: str) -> None:
        fixed = ["--etcd", self.endpoint, "--folder", str(self.folder)]
        times = ["--lease", str(LEASE_S), "--agent-ttl", str(AGENT_TTL_S)]
        self._start(name, sys.executable, "-m", "bench.hollow", *fixed, *times, *options)

    def _start(self, name: str, *argv: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(argv, stdout=log, stderr=log, cwd=ROOT)


def submit(path: Path, units: Sequence[Unit]) -> None:
    """Submit these over one connection; exits when one is refused."""
    connection = UnixConnection(path, host="fleet")
    for unit in units:
        options = [{"section": each.section, "name": each.name, "value": each.value} for each in unit.unitfile.options]
        body = json.dumps({"desiredState": "launched", "options": options})
        connection.request("PUT", f"/fleet/v1/units/{unit.name}", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        reply = answer.read()
        if answer.status != 201:
            print(f"{unit.name}: HTTP {answer.status} {reply!r}", file=sys.stderr)
            os._exit(1)
    connection.close()


def violations(placements: Iterable[Placement], units: Sequence[Unit]) -> int:
    """Units that are nowhere or twice, in the wrong zone, or with one of their own group of Conflicts."""
    where: dict[str, list[str]] = {}
    for each in placements:
        where.setdefault(each.unit, []).append(each.machine)
    wrong = sum(len(where.get(unit.name, ())) != 1 for unit in units)
    together: Counter[tuple[str, str]] = Counter()
    for unit in units:
        for host in where.get(unit.name, ()):
            for zone in unit.unitfile.get("X-Fleet", "MachineMetadata"):
                wrong += ZONES[int(host, 16) % 4] != zone.removeprefix("zone=")
            for conflicts in unit.unitfile.get("X-Fleet", "Conflicts"):
                together[host, conflicts] += 1
    return wrong + sum(count - 1 for count in together.values())


def prefill(plane: ControlPlane, machines: int, units: int) -> None:
    """Write what the phase fill leaves, in transactions of a hundred keys. Machines and states have no lease here."""
    registry = plane.registry
    ops: list[Op] = []

    def put(key: str, value: bytes) -> None:
        ops.append(Op.put(key, value))
        if len(ops) == 100:
            plane.client.txn([], ops)
            ops.clear()

    hosts = [machine(number) for number in range(machines)]
    for host in hosts:
        put(registry.key_machine(host.id), codec.machine_bytes(host))
    for number in range(units):
        unit = unit_of(number)
        zone = number // 4 % 4 if number % 4 == 1 else number % 4
        host = hosts[(number // 4 * 4 + zone) % machines]
        text, digest = unit.unitfile.serialize(), unit.unitfile.hash()
        put(registry.key_unit(unit.name), codec.unit_bytes(unit))
        order = Placement(unit.name, host.id, unit.desired, text, digest, reason=f"least loaded of {machines} machines")
        put(registry.key_schedule(host.id, unit.name), codec.placement_bytes(order))
        state = UnitState(unit.name, host.id, "loaded", "active", "running", digest, Desired.LAUNCHED)
        put(registry.key_state(host.id, unit.name), codec.state_bytes(state))
    plane.client.txn([], ops)


@contextlib.contextmanager
def control_plane(engines: int = 3) -> Iterator[ControlPlane]:
    """One with an empty etcd, on the disk of the temporary folder."""
    with tempfile.TemporaryDirectory(prefix="fleet-scale-") as folder:
        plane = ControlPlane(Path(folder))
        try:
            for number in range(engines):
                plane.engine(f"engine-{number}")
            yield plane
        finally:
            plane.close()

"""Does fleet scale? A whole control plane on this computer, with as many machines and units as requested.

Real: etcd (one member, fsync, a disk), three engines with the HTTP API in processes of their own, the agents with their
registration, leases, watches and unit files (bench/hollow.py). Not real: systemd, and a network. Phases, each of which
can be run alone:

* **fill**: all units are submitted over the API's socket on eight connections; until each has an order and its machine
  says that it runs;
* **read**: a process of its own reads the whole prefix into a view, as a new leader does;
* **failover**: the leader is killed (SIGKILL) and a unit submitted; until that unit has its order.

Half of the units have Conflicts in groups of ten, a quarter wants one of four zones. Without the phase `fill` the state
that it would leave is written to etcd directly. Each run begins with an empty etcd. CPU is that of etcd, engines, API
and agents, not of who submits and looks.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.hollow import ZONES, machine
from bench.report import machine as computer
from bench.report import report
from builder.debian.tools import Tools
from etcd import Client, Op
from etcd.wire import key_fields
from fleet.model import codec
from fleet.model.entities import Desired, Placement, Unit, UnitState
from fleet.model.registry import Registry
from unitfile.text import UnitFile
from webserver.unix import UnixConnection

PHASES = ("fill", "read", "failover")
SUBMITTERS = 8
AGENT_PROCESSES = 2
LEASE_S = 10
AGENT_TTL_S = 30
FAILOVER_MAX_S = 120.0
"""A control plane that has not decided by then counts as one that never will: its row says ``never``."""
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
        self._start(
            "etcd",
            *(binary, f"--data-dir={folder / 'etcd'}", "--log-level=warn"),
            *(f"--listen-client-urls={self.endpoint}", f"--advertise-client-urls={self.endpoint}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            f"--initial-cluster=default={peer}",
        )
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
        """Start the agents of so many machines, and wait until all are registered."""
        bounds = [machines * number // AGENT_PROCESSES for number in range(AGENT_PROCESSES + 1)]
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


def fill(plane: ControlPlane, machines: int, units: int, rows: Rows) -> None:
    """Phase 1."""
    plane.agents(machines)
    leader = plane.leader()
    follower = next(name for name in plane.processes if name.startswith("engine") and name != leader)
    made = [unit_of(number) for number in range(units)]
    before, begin = plane.cpu(), time.monotonic()
    threads = [
        threading.Thread(target=submit, args=(plane.socket(follower), made[part::SUBMITTERS]), daemon=True)
        for part in range(SUBMITTERS)
    ]
    for thread in threads:
        thread.start()
    plane.until(lambda: plane.count("schedule/") == units, "not all units are placed")
    placed = time.monotonic() - begin
    plane.until(lambda: _all_run(plane, units), "not all units run")
    rows.add("fill: units placed a second", units / placed)
    rows.add("fill: seconds until all run", time.monotonic() - begin)
    used = {name: value - before[name] for name, value in plane.cpu().items()}
    parts = {
        "etcd": used["etcd"],
        "leader": used[leader],
        "API and followers": sum(used[each] for each in used if each.startswith("engine") and each != leader),
        "agents": sum(value for name, value in used.items() if name.startswith("agents")),
    }
    rows.add("fill: CPU ms a unit", sum(parts.values()) / units * 1000)
    for name, value in parts.items():
        rows.add(f"fill: CPU ms a unit, {name}", value / units * 1000)
    view = plane.registry.overview()
    counts = Counter(machine for machine, _ in view.placements)
    rows.add("fill: spread of units over machines", max(counts.values()) - min(counts[each] for each in view.alive))
    rows.add("fill: violations", violations(view.placements.values(), made))


def _all_run(plane: ControlPlane, units: int) -> bool:
    """Whether all units run; read in full only when each has a state."""
    return plane.count("states/") == units and all(each.active == "active" for each in plane.registry.states())


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


def read(plane: ControlPlane, rows: Rows) -> None:
    """Phase 2."""
    code = (
        "import sys, time; from etcd import Client; from fleet.daemon import calm_collector;"
        "from fleet.model.registry import Registry; calm_collector(); registry = Registry(Client([sys.argv[1]]));"
        "wall, cpu = time.monotonic(), time.process_time(); view = registry.overview();"
        "print(time.monotonic() - wall, time.process_time() - cpu)"
    )
    before = plane.cpu()["etcd"]
    argv = [sys.executable, "-c", code, plane.endpoint]
    read = subprocess.run(argv, check=True, capture_output=True, cwd=ROOT).stdout.split()
    rows.add("read: seconds", float(read[0]))
    rows.add("read: CPU s, reader", float(read[1]))
    rows.add("read: CPU s, etcd", plane.cpu()["etcd"] - before)


def failover(plane: ControlPlane, rows: Rows) -> None:
    """Phase 3."""
    leader = plane.leader()
    fresh = Unit.of("fresh.service", UnitFile.parse("[Service]\nExecStart=/usr/bin/sleep 1\n"), Desired.LAUNCHED)
    decided = threading.Event()
    watch = plane.client.watch(plane.registry.prefix + "schedule/")

    def look() -> None:
        for batch in watch:
            if any(event.kind == "put" and event.kv.key.endswith("/" + fresh.name) for event in batch.events):
                decided.set()
                return

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    begin, before = time.monotonic(), plane.cpu()
    plane.kill(leader)
    plane.registry.create_unit(fresh)
    took = time.monotonic() - begin if decided.wait(FAILOVER_MAX_S) else None
    watch.close()
    looking.join()
    rows.add("failover: seconds from SIGKILL to the first decision", took)
    used = {name: value - before[name] for name, value in plane.cpu().items()}
    rows.add("failover: CPU s of the engines", sum(value for name, value in used.items() if name.startswith("engine")))


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


def main() -> None:
    """All runs, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", type=int, default=1000, metavar="M")
    parser.add_argument("--units", type=int, default=50_000, metavar="U")
    parser.add_argument("--quick", action="store_true", help="300 machines and 10,000 units, one run")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--phases", default=",".join(PHASES), help=f"of {','.join(PHASES)} (default: all)")
    parser.add_argument("--json", action="store_true", help="only the line of JSON")
    options = parser.parse_args()
    if options.quick:
        options.machines, options.units, options.runs = 300, 10_000, 1
    phases = options.phases.split(",")
    if not set(phases) <= set(PHASES):
        parser.error(f"--phases takes some of {','.join(PHASES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without ending what was started
    rows, facts = Rows(), computer()
    for number in range(options.runs):
        print(f"run {number + 1} of {options.runs}", file=sys.stderr, flush=True)
        with control_plane() as plane:
            if "fill" in phases:
                fill(plane, options.machines, options.units, rows)
            else:
                prefill(plane, options.machines, options.units)
            if "read" in phases:
                read(plane, rows)
            if "failover" in phases:
                failover(plane, rows)
            rows.add("fsync p99 ms (at most)", plane.fsync_ms(0.99))
            rows.add("load", os.getloadavg()[0])
    facts |= {"machines": options.machines, "units": options.units, "lease_s": LEASE_S, "samples": rows.samples}
    if options.json:
        print(json.dumps(facts))
    else:
        report(("", "min", "median", "max"), rows.table(), facts)


if __name__ == "__main__":
    main()

"""Does fleet scale? A whole control plane on this computer, with as many machines and units as requested.

Real: etcd (one member, fsync, a disk), three engines with the HTTP API in processes of their own, the agents with their
registration, leases, watches and unit files (bench/hollow.py). Not real: systemd, and a network. Phases, each of which
can be run alone:

* **fill**: all units are submitted over the API's socket on eight connections; until each has an order and its machine
  says that it runs; then memory, and ten seconds of rest;
* **lists**: ``fleetctl`` list-units, list-unit-files and why, by a fleetd with a view of the cluster and one without;
* **latency**, **start**, **adverse**, **outage**, **loss**: see :mod:`bench.fleet_load`; they need the phase fill;
* **read**: a process of its own reads the whole prefix into a view, as a new leader does;
* **failover**: the leader is killed (SIGKILL) and a unit submitted; until that unit has its order;
* **cold**: the same, and the engine that stands by is killed with it.

Half of the units have Conflicts in groups of ten, a quarter wants one of four zones. Without a phase that needs agents
the state that it would leave is written to etcd directly. Each run begins with an empty etcd. CPU is that of etcd,
engines, API and agents, not of who submits and looks.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

from bench.fleet_load import Watcher, adverse, latency, lists, loss, outage, start
from bench.fleet_plane import (
    LEASE_S,
    ROOT,
    SUBMITTERS,
    ControlPlane,
    Rows,
    control_plane,
    prefill,
    submit,
    unit_of,
    violations,
)
from bench.report import machine as computer
from bench.report import report
from fleet.model.entities import Desired, Unit
from unitfile.text import UnitFile

AFTER_FILL = {"latency": latency, "start": start, "adverse": adverse, "outage": outage, "loss": loss}
"""What needs agents, and so the phase fill before it, in this order; a tenth of the agents is dead after the last."""

PHASES = ("fill", "lists", *AFTER_FILL, "read", "failover", "cold")
IDLE_S = 10.0
FAILOVER_MAX_S = 120.0
"""A control plane that has not decided by then counts as one that never will: its row says ``never``."""


def fill(plane: ControlPlane, machines: int, units: int, rows: Rows) -> None:
    """All units are submitted over the API."""
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


def idle(plane: ControlPlane, rows: Rows) -> None:
    """Memory of the processes, and what they do when there is nothing to do."""
    leader, standby, follower = plane.leader(), plane.standby(), plane.follower()
    for what, name in (("leader", leader), ("standby", standby), ("follower", follower), ("etcd", "etcd")):
        rows.add(f"idle: RSS MB, {what}", plane.rss_mb(name))
    before, revision, begin = plane.cpu(), plane.registry.revision(), time.monotonic()
    time.sleep(IDLE_S)
    used = {name: (value - before[name]) / (time.monotonic() - begin) for name, value in plane.cpu().items()}
    rows.add("idle: writes", plane.registry.revision() - revision)
    rows.add("idle: cores, etcd", used["etcd"])
    rows.add("idle: cores, engines", sum(value for name, value in used.items() if name.startswith("engine")))
    rows.add("idle: cores, agents", sum(value for name, value in used.items() if name.startswith("agents")))


def read(plane: ControlPlane, rows: Rows) -> None:
    """What a new leader reads."""
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


def failover(plane: ControlPlane, rows: Rows, *, is_cold: bool = False) -> None:
    """The leader is killed, and if ``is_cold`` the engine that stands by, too."""
    leader, standby = plane.leader(), plane.standby()
    text = "[Service]\nExecStart=/usr/bin/sleep 1\n"
    fresh = Unit.of(f"fresh-{time.monotonic_ns()}.service", UnitFile.parse(text), Desired.LAUNCHED)
    with Watcher(plane, "schedule/") as watcher:
        begin, before = time.monotonic(), plane.cpu()
        killed = [leader, standby] if is_cold else [leader]
        for name in killed:
            plane.kill(name)
        plane.registry.create_unit(fresh)
        at = watcher.wait({fresh.name}, FAILOVER_MAX_S)
    phase = "cold" if is_cold else "failover"
    rows.add(f"{phase}: seconds from SIGKILL to the first decision", None if at is None else at - begin)
    used = {name: value - before[name] for name, value in plane.cpu().items()}
    rows.add(f"{phase}: CPU s of the engines", sum(value for name, value in used.items() if name.startswith("engine")))
    for name in killed:
        plane.engine(name)


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
            if not AFTER_FILL.keys().isdisjoint(phases) or "fill" in phases:
                fill(plane, options.machines, options.units, rows)
            else:
                prefill(plane, options.machines, options.units)
            idle(plane, rows)
            if "lists" in phases:
                lists(plane, rows)
            for name, phase in AFTER_FILL.items():
                if name in phases:
                    phase(plane, options.machines, rows)
            if "read" in phases:
                read(plane, rows)
            if "failover" in phases:
                failover(plane, rows)
            if "cold" in phases:
                failover(plane, rows, is_cold=True)
            rows.add("fsync p99 ms (at most)", plane.fsync_ms(0.99))
            rows.add("load", os.getloadavg()[0])
    facts |= {"machines": options.machines, "units": options.units, "lease_s": LEASE_S, "samples": rows.samples}
    if options.json:
        print(json.dumps(facts))
    else:
        report(("", "min", "median", "max"), rows.table(), facts)


if __name__ == "__main__":
    main()

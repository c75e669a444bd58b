"""Phases of fleet_scale.py on a control plane that runs: what users wait for, and workloads that are hard."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from types import TracebackType
from urllib.parse import quote

from bench.fleet_plane import AGENT_TTL_S, ROOT, ControlPlane, Rows
from etcd.errors import Unavailable
from webserver.unix import UnixConnection

WAIT_S = 300.0
"""What takes longer counts as never."""

CHANGES_A_SECOND = 20


class Watcher:
    """A watch of a part of the prefix, which notes when a unit came to be there (of ``states/``: active)."""

    def __init__(self, plane: ControlPlane, part: str) -> None:
        self._plane = plane
        self._part = part
        self._watch = plane.client.watch(plane.registry.prefix + part)
        self._seen = threading.Condition()
        self.at: dict[str, float] = {}
        self.count: Counter[str] = Counter()
        """How many machines each unit came to."""
        self.hosts: dict[str, str] = {}
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        with contextlib.suppress(Unavailable):  # etcd is restarted
            self._note()

    def _note(self) -> None:
        for batch in self._watch:
            now = time.monotonic()
            with self._seen:
                for event in batch.events:
                    host, _, name = event.kv.key.removeprefix(self._plane.registry.prefix + self._part).partition("/")
                    if event.kind == "put" and (self._part != "states/" or b'"active":"active"' in event.kv.value):
                        self.at[name] = now
                        self.hosts[name] = host
                        self.count[name] += 1
                self._seen.notify_all()

    def wait(self, names: Collection[str], seconds: float = WAIT_S, *, times: int = 1) -> float | None:
        """When the last of these units came; ``None`` when they did not all come in time."""
        with self._seen:
            came = self._seen.wait_for(lambda: all(self.count[name] >= times for name in names), seconds)
            return max(self.at[name] for name in names) if came else None

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.close()
        self._thread.join()


class Submitter:
    """A client of the API, over one kept connection to one engine."""

    def __init__(self, plane: ControlPlane, engine: str) -> None:
        self._connection = UnixConnection(plane.socket(engine), host="fleet")

    def submit(self, name: str, **fleet: str) -> None:
        """Request a unit that runs, with these options in ``[X-Fleet]``."""
        options = [{"section": "Service", "name": "ExecStart", "value": "/usr/bin/sleep 1"}]
        options += [{"section": "X-Fleet", "name": key, "value": value} for key, value in fleet.items()]
        self._request("PUT", name, json.dumps({"desiredState": "launched", "options": options}))

    def destroy(self, name: str) -> None:
        """Destroy a unit."""
        self._request("DELETE", name, None)

    def _request(self, method: str, name: str, body: str | None) -> None:
        target = f"/fleet/v1/units/{quote(name)}"
        self._connection.request(method, target, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        reply = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {name}: HTTP {answer.status} {reply!r}")


def fleetctl(plane: ControlPlane, engine: str, *argv: str) -> float:
    """Seconds that this command took; it must succeed."""
    code = "import sys; from fleet.ctl.cli import main; sys.exit(main())"
    begin = time.monotonic()
    endpoint = f"--endpoint=unix://{plane.socket(engine)}"
    done = subprocess.run(
        [sys.executable, "-c", code, endpoint, *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"fleetctl {argv[0]}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return time.monotonic() - begin


def lists(plane: ControlPlane, rows: Rows) -> None:
    """fleetctl, as its user sees it: with a fleetd that has a view of the cluster, and with one that has none."""
    one = next(iter(plane.registry.client.range(plane.registry.prefix + "units/app-0000").kvs)).key.rpartition("/")[2]
    commands: Sequence[tuple[str, ...]] = (("why", one), ("list-units",), ("list-unit-files",))
    for what, engine in (("of a follower", plane.follower()), ("of the leader", plane.leader())):
        for command in commands:
            before = plane.cpu()[engine]
            rows.add(f"lists: {command[0]} {what}, s", fleetctl(plane, engine, *command))
            rows.add(f"lists: {command[0]} {what}, CPU s of fleetd", plane.cpu()[engine] - before)


def _quantiles(rows: Rows, name: str, seconds: Sequence[float]) -> None:
    ordered = sorted(seconds)
    rows.add(f"{name} p50 ms", statistics.median(ordered) * 1000)
    rows.add(f"{name} p99 ms", ordered[len(ordered) * 99 // 100] * 1000)


def latency(plane: ControlPlane, _machines: int, rows: Rows) -> None:
    """From submit to active, one after the other, and with twenty changes a second; beside etcd's own put."""
    plane.calm()
    client = Submitter(plane, plane.follower())
    puts = []
    for _ in range(200):
        begin = time.monotonic()
        plane.client.put("/bench", b"x" * 240)
        puts.append(time.monotonic() - begin)
    _quantiles(rows, "latency: a put of etcd,", puts)
    with Watcher(plane, "states/") as watcher:
        took = []
        for number in range(100):
            name = f"one-{number}.service"
            begin = time.monotonic()
            client.submit(name)
            at = watcher.wait({name})
            assert at is not None, f"{name} does not run"
            took.append(at - begin)
        _quantiles(rows, "latency: submit to active, idle,", took)
        begun: dict[str, float] = {}
        first = time.monotonic()
        for number in range(CHANGES_A_SECOND * 10):
            time.sleep(max(0.0, first + number / CHANGES_A_SECOND - time.monotonic()))
            name = f"many-{number}.service"
            begun[name] = time.monotonic()
            client.submit(name)
        assert watcher.wait(begun) is not None, "not all units run"
        took = [watcher.at[name] - begin for name, begin in begun.items()]
        _quantiles(rows, f"latency: submit to active, at {CHANGES_A_SECOND}/s,", took)
    for name in (*(f"one-{number}.service" for number in range(100)), *begun):
        client.destroy(name)
    plane.calm()


def start(plane: ControlPlane, _machines: int, rows: Rows) -> None:
    """``fleetctl start`` of a thousand unit files, until each runs."""
    folder = plane.folder / "start"
    folder.mkdir()
    paths = [folder / f"start-{number}.service" for number in range(1000)]
    for path in paths:
        path.write_text("[Service]\nExecStart=/usr/bin/sleep 1\n")
    rows.add("start of 1,000: s", fleetctl(plane, plane.follower(), "start", *map(str, paths)))
    rows.add("destroy of 1,000: s", fleetctl(plane, plane.follower(), "destroy", *(path.name for path in paths)))
    plane.calm()


def adverse(plane: ControlPlane, machines: int, rows: Rows) -> None:
    """Workloads that ask the scheduler for more than the usual."""
    client = Submitter(plane, plane.follower())
    leader = plane.leader()
    made: list[str] = []

    def until_active(what: str, names: Sequence[str], times: int = 1, **fleet: str) -> None:
        before, begin = plane.cpu()[leader], time.monotonic()
        with Watcher(plane, "states/") as watcher:
            for name in names:
                client.submit(name, **fleet)
            at = watcher.wait(names, times=times)
            rows.add(f"adverse: {what}, s until active", None if at is None else at - begin)
            rows.add(f"adverse: {what}, CPU s of the leader", plane.cpu()[leader] - before)
            hosts = {watcher.hosts.get(name) for name in names}
        made.extend(names)
        if "Conflicts" in fleet:
            rows.add(f"adverse: {what}, violations", len(names) - len(hosts))
        if "MachineOf" in fleet:
            rows.add(f"adverse: {what}, violations", len(hosts) - 1)

    until_active("a Global unit comes", ["global.service"], machines, Global="true")
    until_active(
        "100 that conflict with each other",
        [f"alone-{number}.service" for number in range(min(100, machines))],
        Conflicts="alone-*.service",
    )
    until_active("one", ["one.service"])
    until_active("200 with MachineOf", [f"peer-{number}.service" for number in range(200)], MachineOf="one.service")
    # Units that no machine can take come and go, while others want to run.
    stopping = threading.Event()
    churner = Submitter(plane, plane.follower())

    def churn() -> None:
        number = 0
        while not stopping.wait(1 / CHANGES_A_SECOND):
            churner.submit(f"nowhere-{number}.service", MachineMetadata="zone=none")
            if number >= 200:
                churner.destroy(f"nowhere-{number - 200}.service")
            number += 1

    churning = threading.Thread(target=churn, daemon=True)
    churning.start()
    took = []
    with Watcher(plane, "states/") as watcher:
        for number in range(100):
            name = f"beside-{number}.service"
            made.append(name)
            begin = time.monotonic()
            client.submit(name)
            at = watcher.wait({name})
            assert at is not None, f"{name} does not run"
            took.append(at - begin)
            time.sleep(0.1)
    stopping.set()
    churning.join()
    _quantiles(rows, "adverse: submit to active beside 20/s that fit nowhere,", took)
    made += [each.key.rpartition("/")[2] for each in plane.client.range(plane.registry.prefix + "units/nowhere-").kvs]
    for name in made:
        client.destroy(name)
    plane.calm()


def outage(plane: ControlPlane, _machines: int, rows: Rows) -> None:
    """etcd is killed and started again: all machines come back at once, and no unit notices."""
    client = Submitter(plane, plane.follower())
    with Watcher(plane, "states/") as before:
        begin = time.monotonic()
        plane.restart_etcd()
        touched = len(before.at)
    with Watcher(plane, "states/") as watcher:
        while True:
            try:
                client.submit("after.service")
                break
            except (RuntimeError, OSError):
                client = Submitter(plane, plane.follower())
        at = watcher.wait({"after.service"})
        rows.add("outage: s from etcd's SIGKILL until a new unit is active", None if at is None else at - begin)
        time.sleep(AGENT_TTL_S + 5)
        rows.add("outage: units touched", touched + len(watcher.at.keys() - {"after.service"}))
    client.destroy("after.service")
    plane.calm()


def loss(plane: ControlPlane, machines: int, rows: Rows) -> None:
    """A tenth of the machines vanishes."""
    lost = {f"{number:032x}" for number in range(machines // 10)}
    prefix = plane.registry.prefix + "schedule/"
    keys = [each.key.removeprefix(prefix).partition("/") for each in plane.client.range(prefix).kvs]
    moving = {name for host, _, name in keys if host in lost}
    with Watcher(plane, "states/") as watcher:
        begin = time.monotonic()
        plane.kill("agents-0")
        at = watcher.wait(moving)
        rows.add("loss: units of a tenth of the machines", len(moving))
        rows.add("loss: s from SIGKILL until all are active elsewhere", None if at is None else at - begin)
        rows.add("loss: units touched on living machines", len(watcher.at.keys() - moving))
    plane.calm()

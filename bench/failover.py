#!/usr/bin/env python3
"""How long until the units of a dead node run elsewhere, and what is taken for a death that is none.

* **kills**: a random node's plug is pulled, with the etcd leader's and the fleet leader's among them as chance has it.
  The time is from the pull to systemd on other nodes saying that all of its units are active. p50 and p95 by what the
  node led, for each lease. A unit of another node that moved counts as a false eviction.
* **disturbances**: what must move nothing. *etcd*: SIGKILL of the leading etcd. *links*: half of the frames between all
  nodes are lost and the others 75 ms late, for a minute. *pause*: a node stands still for three fifths of the lease.
  *outage*: ten minutes in which no etcd runs. After each, a lease and some seconds pass; units that moved are counted.

Nodes run in namespaces (``docs/namespaces.md``), so it wants root. A lease is ``agent_ttl`` of fleet.

    python -m bench.clusters --kills 20 --ttls 8,12,20,30 --runs 20
"""

from __future__ import annotations

import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from bench.report import machine, report
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle.up import Options, up
from terminal import Failure, Phases

NAME = "bench-failover"
FLEET = "/flotilla/fleet/"
TEXT = "[Service]\nExecStart=/usr/bin/sleep infinity\n"
POLL_S = 0.1
PATIENCE_S = 180.0
SETTLE_S = 5.0
"""After a lease, until whatever it caused has happened."""
LINKS_S, OUTAGE_S = 60.0, 600.0


@dataclass
class Found:
    """Of one lease: (seconds, what the victim led) of each kill, and units that moved without cause, a run each."""

    kills: list[tuple[float, str]] = field(default_factory=list)
    moved: dict[str, list[int]] = field(default_factory=dict)


def measure(size: int, ttls: Sequence[int], kills: int, runs: int, kinds: Sequence[str], seed: int) -> int:
    """Measure and report; returns the exit code."""
    facts = machine()
    found: dict[int, Found] = {}
    for ttl in ttls:
        chance = random.Random(seed)
        cluster = up(
            Options(size=size, name=NAME, agent_ttl=f"{ttl}s", driver="namespaces"), Phases(sys.stderr)
        ).cluster
        try:
            found[ttl] = _measured(Bench(cluster, ttl, chance), kills, runs, kinds)
        finally:
            command = [str(Path(sys.executable).parent / "cluster-down"), "--name", NAME]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = [_kill_row(ttl, led, found[ttl].kills) for ttl in ttls for led in ("", "etcd", "fleet", "both", "neither")]
    rows += [
        [f"lease {ttl} s, {kind}: units that moved", "-", "-", str(len(counts)), str(sum(counts))]
        for ttl in ttls
        for kind, counts in found[ttl].moved.items()
    ]
    values = {str(ttl): {"kills": each.kills, "moved": each.moved} for ttl, each in found.items()}
    report(["what", "p50 s", "p95 s", "runs", "false"], rows, {**facts, "size": size, "seed": seed, "ttls": values})
    return 0


def _measured(bench: Bench, kills: int, runs: int, kinds: Sequence[str]) -> Found:
    found = Found()
    others: list[int] = []
    for number in range(kills):
        seconds, led, moved = bench.kill()
        print(f"kill {number + 1} of {kills}, lease {bench.ttl}: {led}: {seconds:.1f} s", file=sys.stderr, flush=True)
        found.kills.append((seconds, led))
        others.append(moved)
    if others:
        found.moved["kills"] = others
    for kind in kinds:
        for number in range(runs):
            moved = bench.disturbed(kind)
            print(f"{kind} {number + 1} of {runs}, lease {bench.ttl}: {moved} moved", file=sys.stderr, flush=True)
            found.moved.setdefault(kind, []).append(moved)
    return found


def _kill_row(ttl: int, led: str, kills: Sequence[tuple[float, str]]) -> list[str]:
    values = sorted(seconds for seconds, of in kills if led in ("", of))
    what = f"lease {ttl} s, killed: {f'led {led}' if led else 'any'}"
    if not values:
        return [what, "-", "-", "0", ""]
    return [what, f"{statistics.median(values):.1f}", f"{percentile(values, 0.95):.1f}", str(len(values)), ""]


def percentile(values: Sequence[float], share: float) -> float:
    """The value of sorted ``values`` that ``share`` of them do not exceed: the nearest rank."""
    return values[max(0, math.ceil(len(values) * share) - 1)]


class Bench:
    """A cluster with one unit a node, and what is done to it."""

    def __init__(self, cluster: Cluster, ttl: int, chance: random.Random) -> None:
        self.ttl = ttl
        self._cluster = cluster
        self._chance = chance
        self._units = [f"bench-{node.number}.service" for node in cluster.nodes]
        self._ids = {node.ask("cat /etc/machine-id").strip(): node for node in cluster.nodes}

    def kill(self) -> tuple[float, str, int]:
        """Pull a plug: the seconds until its units run elsewhere, what it led, and how many others moved."""
        before = self._spread()
        victim = self._chance.choice(self._cluster.nodes)
        time.sleep(self._chance.uniform(0, self.ttl / 3))  # at any time since the lease's last renewal
        leads = {"etcd": self._leads_etcd(victim), "fleet": self._leader_of_fleet() is victim}
        led = "both" if all(leads.values()) else next((what for what, is_so in leads.items() if is_so), "neither")
        waiting = [unit for unit, home in before.items() if home is victim]
        others = [node for node in self._cluster.nodes if node is not victim]
        begin = time.monotonic()
        fault = victim.kill()
        self._until(f"{waiting} elsewhere", lambda: all(self._is_active(unit, others) for unit in waiting))
        seconds = time.monotonic() - begin
        fault.heal()
        after = self._placements(others[0])
        return seconds, led, sum(after.get(unit) is not before[unit] for unit in before.keys() - set(waiting))

    def disturbed(self, kind: str) -> int:
        """Disturb the cluster; how many units moved."""
        before = self._spread()
        {"etcd": self._kill_etcd, "links": self._bad_links, "pause": self._pause, "outage": self._outage}[kind]()
        time.sleep(self.ttl + SETTLE_S)
        self._until("all are well", self._is_well)
        after = self._placements(self._cluster.nodes[0])
        return sum(after.get(unit) is not home for unit, home in before.items())

    def _kill_etcd(self) -> None:
        leader = next(node for node in self._cluster.nodes if self._leads_etcd(node))
        leader.ask("systemctl kill --signal=KILL etcd")

    def _bad_links(self) -> None:
        with ExitStack() as bad:
            for one, other in combinations(self._cluster.nodes, 2):
                bad.enter_context(self._cluster.net.degrade(one, other, loss=0.5, delay="75ms"))
            time.sleep(LINKS_S)

    def _pause(self) -> None:
        with self._chance.choice(self._cluster.nodes).pause():
            time.sleep(0.6 * self.ttl)

    def _outage(self) -> None:
        for node in self._cluster.nodes:
            node.ask("systemctl stop etcd")
        time.sleep(OUTAGE_S)
        for node in self._cluster.nodes:
            node.ask("systemctl start --no-block etcd")

    def _spread(self) -> dict[str, Node]:
        """All nodes are well and have one unit each: where."""
        self._until("all are well", self._is_well)
        with tempfile.TemporaryDirectory() as folder:
            for unit in self._units:
                (Path(folder) / unit).write_text(TEXT)
            self._fleetctl("destroy", *self._units)
            self._until("no unit is there", lambda: not self._placements(self._cluster.nodes[0]))
            self._fleetctl("start", *(str(Path(folder) / unit) for unit in self._units))
        found = self._placements(self._cluster.nodes[0])
        assert len({node.name for node in found.values()}) == len(self._units), found
        return found

    def _is_well(self) -> bool:
        """Whether each node has a healthy etcd and is registered, and one leads."""
        for node in self._cluster.nodes:
            if not self._etcd(node, "/v3/maintenance/status", {}).get("leader"):
                return False
            if len(self._keys(node, "machines/")) < len(self._cluster.nodes):
                return False
        return self._leader_of_fleet() is not None

    def _leads_etcd(self, node: Node) -> bool:
        answer = self._etcd(node, "/v3/maintenance/status", {})
        return bool(answer["header"]["member_id"] == answer.get("leader"))

    def _leader_of_fleet(self) -> Node | None:
        values = list(self._keys(self._cluster.nodes[0], "engine/").values())
        return self._ids[json.loads(values[0])["machine"]] if values else None

    def _placements(self, by: Node) -> dict[str, Node]:
        return {key.rpartition("/")[2]: self._ids[key.split("/")[-2]] for key in self._keys(by, "schedule/")}

    def _is_active(self, unit: str, nodes: Sequence[Node]) -> bool:
        return any(node.root(f"systemctl is-active --quiet {unit}").rc == 0 for node in nodes)

    def _keys(self, by: Node, part: str) -> dict[str, str]:
        prefix = FLEET + part
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = self._etcd(by, "/v3/kv/range", {"key": _coded(prefix), "range_end": _coded(end)})
        return {b64decode(kv["key"]).decode(): b64decode(kv["value"]).decode() for kv in answer.get("kvs", [])}

    def _etcd(self, node: Node, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What a node's etcd answers; raises :class:`Failure` for an error of it, or none."""
        status, text = node.etcd("POST", path, body)
        if status != 200:
            raise Failure(f"etcd answers with status {status}", where=node.name)
        answer: dict[str, Any] = json.loads(text)
        return answer

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if holds():
                    return
                trouble = ""
            except (Failure, OSError, ValueError) as error:  # not yet
                trouble = f": {error}"
            if time.monotonic() > deadline:
                raise SystemExit(f"after {PATIENCE_S:.0f} s not {what}{trouble}")
            time.sleep(POLL_S)

    def _fleetctl(self, *arguments: str) -> None:
        command = [str(Path(sys.executable).parent / "fleetctl"), *arguments]
        environment = {"PATH": "/usr/bin:/bin", **self._cluster.exports()}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode and arguments[0] != "destroy":
            raise SystemExit(f"fleetctl {' '.join(arguments)}: {done.stderr}")


def _coded(text: str) -> str:
    return b64encode(text.encode()).decode()

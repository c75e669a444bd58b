"""Random faults from a seed on three real nodes: etcd keeps its word, and fleet keeps one copy of what is to run once.

``pytest --cluster-seed=N`` (or ``FLOTILLA_SEED=N``) repeats a run's plan of faults and its clients' dice.

How long may two copies of a unit run? A machine that is cut off runs on, since to it a dead etcd looks like a dead
link; so while a node is not in a majority of nodes that run and see each other
(:func:`cluster.testing.chaos.majorities`) nothing is required of it. When it is back it registers, reads its orders and
stops what was moved. What that takes is :data:`BACK_S`: the rest of a lease of its own (``agent_ttl``), an election of
etcd, one request that times out, and systemd's stop. After that, and among nodes that were never apart, two copies at
one instant are an error.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.consistency import Operation
from cluster.consistency.clients import Locks, Registers, Sets, Workload, client_on, judge, work
from cluster.consistency.copies import Sample, doubles, runs
from cluster.consistency.history import dump
from cluster.testing.chaos import Chaos, estranged
from terminal import Failure

from ..conftest import TTL_S, Fleetctl

pytestmark = pytest.mark.needs("clock", "disk")

UNITS = [f"solo@{number}.service" for number in (1, 2, 3)]
SOLO = """\
[Unit]
Description=There is one of it

[Service]
ExecStart=/usr/bin/sleep infinity
"""
STORM_S = 150
BACK_S = TTL_S + 10 + 5 + 15
"""A lease, an election (5 s, and one more), a request's timeout, a stop on an emulated machine."""
SAMPLE_S = 2.0
MENU = ("kill", "pause", "isolate", "partition", "bridge", "cut", "degrade", "clock")


class Sampler:
    """Asks every node, again and again, which of the units are active there: through its root shell, which no fault
    touches.
    """

    QUESTION = (
        "cat /proc/sys/kernel/random/boot_id; systemctl show --property=Id,ActiveState,ActiveEnterTimestampMonotonic "
        + " ".join(UNITS)
    )

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.samples: list[Sample] = []
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join()

    def now(self) -> dict[str, list[int]]:
        """Where each unit is active, by one sample of every node. Raises :class:`Failure`."""
        found: dict[str, list[int]] = {unit: [] for unit in UNITS}
        with ThreadPoolExecutor(len(self.cluster.nodes)) as executor:
            for samples in executor.map(self.sample, self.cluster.nodes):
                for sample in samples:
                    if sample.incarnation is not None:
                        found[sample.unit].append(sample.node)
        return found

    def sample(self, node: Node) -> list[Sample]:
        """One look at ``node``. Raises :class:`Failure`."""
        begin = time.monotonic()
        boot, _, units = node.ask(self.QUESTION, timeout=30).partition("\n")
        end = time.monotonic()
        found = []
        for block in units.strip().split("\n\n"):
            properties = dict(line.split("=", 1) for line in block.splitlines())
            is_active = properties["ActiveState"] in ("active", "deactivating")
            incarnation = f"{boot} {properties['ActiveEnterTimestampMonotonic']}" if is_active else None
            found.append(Sample(node.number, properties["Id"], begin, end, incarnation))
        return found

    def _run(self) -> None:
        def follow(node: Node) -> None:
            while not self.stop.wait(SAMPLE_S):
                try:
                    self.samples += self.sample(node)
                except Failure:
                    continue  # it is off or paused: nothing was seen

        with ThreadPoolExecutor(len(self.cluster.nodes)) as executor:
            list(executor.map(follow, self.cluster.nodes))


class Load:
    """Clients of etcd on every node, for each kind of object."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.workloads: dict[str, Workload] = {
            "registers": Registers("/chaos/"),
            "sets": Sets("/chaos/"),
            "locks": Locks("/chaos/", ttl_s=15),
        }
        self.histories: dict[str, list[Operation]] = {}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(name, cluster, seed), name=name) for name in self.workloads
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, cluster: Cluster, seed: int) -> None:
        clients = [client_on(node) for node in cluster.nodes]
        self.histories[name] = work(self.workloads[name], clients, seed, self._stop, pause_s=0.2)


@pytest.mark.full
@pytest.mark.cluster(size=3, agent_ttl=f"{TTL_S}s", examples=True)
def test_etcd_keeps_its_word_and_fleet_one_copy(cluster: Cluster, chaos: Chaos, tmp_path: Path) -> None:
    fleetctl = Fleetctl(cluster)
    for unit in UNITS:
        (tmp_path / unit).write_text(SOLO)
    fleetctl.check("start", *(tmp_path / unit for unit in UNITS))
    sampler = Sampler(cluster)
    assert all(len(nodes) == 1 for nodes in sampler.now().values())
    with Load(cluster, chaos.seed) as load, sampler:
        with chaos.storm(STORM_S, menu=MENU, gap_s=10, length_s=(5, 45)) as storm:
            storm.wait()
        cluster.mark("the storm is over")
        over = time.monotonic()
        cluster.eventually(lambda: len(fleetctl.machines()) == 3, within=30, what="three machines")
        cluster.eventually(
            lambda: all(len(nodes) == 1 for nodes in sampler.now().values()), within=15, what="one copy of each unit"
        )
        print(f"well again after {time.monotonic() - over:.0f} s")
        time.sleep(5)  # what is healed is used, too
    for name, history in load.histories.items():
        (tmp_path / f"{name}.jsonl").write_text(dump(history))
        outcomes = {outcome: sum(each.outcome == outcome for each in history) for outcome in ("ok", "unknown", "fail")}
        print(f"{name}: {outcomes}, in {tmp_path / name}.jsonl")
        assert outcomes["ok"] > 50
        violations = judge(load.workloads[name], history)
        assert violations == [], "\n\n".join(map(str, violations))
    excused = estranged(storm.plan.nodes, storm.felt, BACK_S, time.monotonic())
    ran = runs(sampler.samples)
    print(
        f"{len(sampler.samples)} samples, {len(ran)} runs; together with what was excused: {len(doubles(ran, {}))} doubles"
    )
    found = doubles(ran, excused)
    assert found == [], "\n".join(map(str, found))

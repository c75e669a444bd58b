"""etcd on real nodes under faults, each test in a fresh cluster: rows 4, 5, 8 to 11 of the suite that etcd's and
CoreOS's own left us.

A test's name is its ancestor's, as far as Python lets it: etcd's functional tests, Jepsen's nemeses, kola's clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypedDict

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from terminal import Failure

from . import keys
from .conftest import until
from .keys import leader, others

pytestmark = pytest.mark.needs()

ELECTION_S = 60
"""For a new leader: an election timeout of 5 s (tcg), a second round if votes were split, on a computer that has other
things to do.
"""
HEAL_S = 90


def refuses(what: Callable[[], object]) -> bool:
    """Whether etcd refuses, or does not answer in time."""
    try:
        what()
    except Failure:
        return True
    return False


def written(node: Node, prefix: str, count: int = 10) -> dict[str, str]:
    """Keys that ``node`` has acknowledged."""
    pairs = {f"{prefix}{number}": f"value {number}" for number in range(count)}
    for key, value in pairs.items():
        keys.put(node, key, value)
    return pairs


def elected(cluster: Cluster, among: list[Node], seconds: float = ELECTION_S) -> Node:
    """The leader, as soon as exactly one of ``among`` says that it is; the others may be cut off and believe anything."""
    found: list[Node] = []

    def one() -> bool:
        found[:] = [node for node in among if not refuses(partial(keys.member, node)) and keys.member(node).leads]
        return len(found) == 1

    until("a leader", one, seconds)
    return found[0]


def agreed(cluster: Cluster) -> bool:
    """Whether all members are there and name the same leader."""
    try:
        named = {keys.member(node).leader for node in cluster.nodes}
    except Failure:
        return False
    return len(named) == 1 and named != {"0"}


def read(node: Node, names: list[str]) -> dict[str, str | None]:
    """What ``node`` says that these keys are; read again while it refuses, since an election is no loss."""
    found: dict[str, str | None] = {}

    def answered() -> bool:
        with suppress(Failure):
            found.update({name: keys.get(node, name) for name in names})
        return found.keys() == set(names)

    until(f"{node.name} answers", answered, HEAL_S)
    return found


def converged(cluster: Cluster, expected: dict[str, str]) -> None:
    """All members agree on the leader, and have every one of ``expected``."""
    until("all members agree on a leader", lambda: agreed(cluster), HEAL_S)
    for node in cluster.nodes:
        assert read(node, list(expected)) == expected, f"{node.name} lost acknowledged writes"


@pytest.mark.fast
def test_sigterm_leader(fresh: Cluster) -> None:
    """The leader's plug is pulled: what it had acknowledged is there, and a new one takes writes."""
    first = leader(fresh)
    kept = written(first, "/before/")
    first.kill()
    rest = others(fresh, first)
    second = elected(fresh, rest)
    assert second.name != first.name
    kept |= written(rest[0], "/after/")
    for node in rest:
        assert {key: keys.get(node, key) for key in kept} == kept


@pytest.mark.fast
def test_sigterm_quorum(fresh: Cluster) -> None:
    """Two of three are gone: no write and no linearizable read, a serializable one by choice; back, it goes on."""
    alone = leader(fresh)
    kept = written(alone, "/before/")
    gone = others(fresh, alone)
    faults = [node.pause() for node in gone]
    until("writes are refused", lambda: refuses(lambda: keys.put(alone, "/lost", "?")), ELECTION_S)
    assert refuses(lambda: keys.get(alone, "/before/1"))
    assert keys.get(alone, "/before/1", serializable=True) == "value 1"
    for fault in faults:
        fault.heal()
    until("writes are taken", lambda: not refuses(lambda: keys.put(alone, "/again", "yes")), HEAL_S)
    converged(fresh, kept | {"/again": "yes"})


@pytest.mark.fast
def test_blackhole_peer_port_leader(fresh: Cluster) -> None:
    """The leader is alone: the majority elects another, and the old one, which still hears its clients, gives them
    nothing stale.
    """
    old = leader(fresh)
    kept = written(old, "/before/")
    with fresh.net.isolate(old):
        rest = others(fresh, old)
        new = elected(fresh, rest)
        kept |= written(new, "/after/")
        keys.put(new, "/before/1", "newer")
        assert refuses(lambda: keys.get(old, "/before/1")), "a stale linearizable read"
        assert keys.get(old, "/before/1", serializable=True) == "value 1"
        assert refuses(lambda: keys.put(old, "/lost", "?"))
    kept["/before/1"] = "newer"
    converged(fresh, kept)


@pytest.mark.full
def test_partition_bridge(fresh: Cluster) -> None:
    """Two nodes that see only the third: it is in both majorities, and there is one leader at a time."""
    bridge = fresh.nodes[1]
    with fresh.net.bridge(bridge):
        until("a write by way of the bridge", lambda: not refuses(lambda: keys.put(bridge, "/bridge", "1")), ELECTION_S)
        kept = written(bridge, "/during/", 5)
    converged(fresh, kept | {"/bridge": "1"})


@pytest.mark.full
def test_blackhole_one_way(fresh: Cluster) -> None:
    """The leader hears no member, and all hear it: its heartbeats must not keep a leader in office whom no answer
    reaches.
    """
    old = leader(fresh)
    kept = written(old, "/before/")
    deaf = [fresh.net.cut(node, to=old) for node in others(fresh, old)]
    rest = others(fresh, old)
    until("a leader that can write", lambda: not refuses(lambda: keys.put(rest[0], "/after", "1")), 2 * ELECTION_S)
    for fault in deaf:
        fault.heal()
    converged(fresh, kept | {"/after": "1"})


class Degraded(TypedDict, total=False):
    """What a link suffers, as :meth:`cluster.net.Net.degrade` takes it."""

    delay: str
    jitter: str
    loss: str
    reorder: str
    duplicate: str
    rate: str


@pytest.mark.parametrize(
    ("ancestor", "degraded"),
    [
        ("delay_peer_network", {"delay": "75ms", "jitter": "50ms"}),
        ("drop_peer_network", {"loss": "50%"}),
        ("reorder_and_duplicate", {"delay": "20ms", "reorder": "20%", "duplicate": "20%"}),
        ("slow_peer_network", {"rate": "1mbit"}),
    ],
)
@pytest.mark.full
def test_degraded(fresh: Cluster, ancestor: str, degraded: Degraded) -> None:
    """Bad links between all nodes: acknowledged writes are kept, and all agree in the end.

    Half of the frames lost may cost the leader.
    """
    numbers = [node.number for node in fresh.nodes]
    for one in numbers:
        for other in numbers[one:]:
            fresh.net.degrade(one, other, **degraded, seed=one * 10 + other)
    kept: dict[str, str] = {}
    for number in range(10):
        node = fresh.nodes[number % 3]
        if not refuses(partial(keys.put, node, f"/{ancestor}/{number}", "yes")):
            kept[f"/{ancestor}/{number}"] = "yes"
    assert kept or degraded.get("loss"), "no write at all"
    fresh.net.heal()
    converged(fresh, kept)


@pytest.mark.fast
def test_pause_leader(fresh: Cluster) -> None:
    """etcd issue 20418, Jepsen's pause: a leader that slept through an election must not answer from before it."""
    old = leader(fresh)
    keys.put(old, "/value", "old")
    asleep = old.pause()
    new = elected(fresh, others(fresh, old))
    keys.put(new, "/value", "new")
    asleep.heal()
    answers = set()

    def answered() -> bool:
        try:
            answers.add(keys.get(old, "/value"))
        except Failure:
            return False
        return True

    until("it answers", answered, HEAL_S)
    assert answers == {"new"}, "a stale linearizable read"


@pytest.mark.full
@pytest.mark.needs("clock")
def test_clock_bump(fresh: Cluster) -> None:
    """Wall clocks jump by an hour to and fro: leases count by another clock, and fleet's machines stay."""
    machines = fresh.nodes[0].check("fleetctl list-machines --no-legend").splitlines()
    assert len(machines) == 3
    granted = keys.ask(fresh.nodes[0], "/v3/lease/grant", {"TTL": 600, "ID": 77})
    assert int(granted["TTL"]) == 600
    for node, hours in zip(fresh.nodes, (1, -1, 2), strict=True):
        before = float(node.root("date +%s.%N").out)
        node.clock_set(before + hours * 3600)
    left = int(keys.ask(fresh.nodes[1], "/v3/lease/timetolive", {"ID": 77})["TTL"])
    assert 300 < left <= 600
    assert len(fresh.nodes[0].check("fleetctl list-machines --no-legend").splitlines()) == 3
    kept = written(fresh.nodes[2], "/bumped/")
    converged(fresh, kept)
    for node in fresh.nodes:
        ordered = node.root(
            "journalctl -b -o json --output-fields=__MONOTONIC_TIMESTAMP -n 300 | grep -o '\"__MONOTONIC_TIMESTAMP\":\"[0-9]*' | grep -o '[0-9]*$'"
        ).out.split()
        assert ordered == sorted(ordered, key=int), f"{node.name}: the journal is out of order"
        assert len(ordered) > 100


@pytest.mark.full
def test_v2_backup_restore(fresh: Cluster, tmp_path: Path) -> None:
    """cl.etcd-member.v2-backup-restore: a snapshot of one member makes a new cluster of three, with every key."""
    kept = written(fresh.nodes[0], "/backup/", 20)
    first = fresh.nodes[0]
    first.root("etcdctl snapshot save /var/tmp/backup.db", 300)
    backup = tmp_path / "backup.b64"
    backup.write_text(first.root("base64 -w0 /var/tmp/backup.db").out)
    for node in fresh.nodes:
        node.root("systemctl stop etcd && rm -rf /var/lib/etcd/data", 300)
    initial = ",".join(f"{node.name}=http://{node.address}:2380" for node in fresh.nodes)
    for node in fresh.nodes:
        restored = node.root(
            "base64 -d > /var/tmp/backup.db && ETCDCTL_API=3 etcdctl snapshot restore /var/tmp/backup.db"
            f" --name {node.name} --initial-cluster {initial} --initial-advertise-peer-urls http://{node.address}:2380"
            " --initial-cluster-token restored --data-dir /var/lib/etcd/data && chown -R etcd: /var/lib/etcd/data",
            300,
            stdin=backup,
        )
        assert restored.rc == 0, restored.err
    for node in fresh.nodes:
        node.root("systemctl start --no-block etcd")
    until("the new cluster takes writes", lambda: not refuses(lambda: keys.put(first, "/new", "1")), HEAL_S)
    converged(fresh, kept | {"/new": "1"})

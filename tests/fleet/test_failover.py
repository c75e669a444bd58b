"""How long a failover takes, and what must not be one: under virtual time, with seeds.

A run that fails prints its seed; ``FLOTILLA_SEED`` repeats it.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fleet.engine.planner import GRACE_S
from tests.fleet.world import TICK_S, TTL_S, Node, World

SLACK_S = 4 * TICK_S
"""From an event to the step that sees it, the plan, the order's way to its agent, and its start."""
ELECTION_S = 5
SEEDS = 12


class Cluster:
    """Machines with one unit each, at a random phase of their leases' renewals."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(folder, *"abcdefg"[: self.random.randint(3, 7)])
        self.units = [f"{number}.service" for number in range(len(self.world.nodes))]
        for name in self.units:
            self.world.submit(name)
            self.world.run(self.random.choice([0.5, 1, 2, 4]))
        self.world.run(self.random.uniform(5, 60))

    def draw(self) -> Node:
        return self.world.nodes[self.random.choice(sorted(self.world.nodes))]

    def trouble_of_the_engine(self) -> str:
        """Something that leaves the leader, or a new one, with a young view."""
        leader = self.world.leader()
        kind = self.random.choice(["none", "watch", "killed", "link"])
        if kind == "watch":
            leader.client.reachable = False
            leader.client.reachable = True
        elif kind == "killed":
            leader.kill_daemon()
            leader.start_daemon()
        elif kind == "link":
            leader.client.reachable = False
            self.world.run(self.random.choice([1, 5, 12]))
            leader.client.reachable = True
        return kind

    def moved_within(self, victim: Node, seconds: float) -> None:
        """The victim's units run elsewhere by then, and no other one was touched."""
        units = [name for name in self.units if self.world.placed(name) == victim.id]
        with self.world.undisturbed(*set(self.units) - set(units)):
            self.world.run(seconds)
        assert not [name for name in units if self.world.running(name) in ([], [victim.id])]

    def lose_the_leader_of_etcd(self, seconds: float) -> None:
        """Nothing is answered until there is another one. Meanwhile no lease ends, and it renews them all (etcd's lessor
        does, when it is promoted).
        """
        for node in self.world.nodes.values():
            node.client.reachable = False
        for _ in range(round(seconds / TICK_S)):
            self.world.run(TICK_S)
            for lease in list(self.world.etcd.store._leases):
                self.world.etcd.store.renew(lease)
        for node in self.world.nodes.values():
            node.client.reachable = True


@pytest.fixture(params=range(SEEDS))
def cluster(tmp_path: Path, seed: int, request: pytest.FixtureRequest) -> Cluster:
    print(f"seed {seed} + {request.param}")
    return Cluster(tmp_path, seed + int(request.param))


def test_a_dead_machine_costs_its_lease_and_the_grace(cluster: Cluster) -> None:
    """Whether it led or not, and however young the leader's view is."""
    print(cluster.trouble_of_the_engine())
    victim = cluster.draw()
    victim.cut_power()
    cluster.moved_within(victim, TTL_S + GRACE_S + SLACK_S)


def test_machines_that_died_long_ago_do_not_slow_a_successor(tmp_path: Path) -> None:
    """It has watched how they died, one by one, and how its predecessor moved their units."""
    world = World(tmp_path, *"abcdefg")
    for name in "0123456":
        world.submit(f"{name}.service")
    world.run(10)
    leader = world.leader()
    standby = next(each for each in world.nodes.values() if each.engine is not None and each.engine._seat is not None)
    others = [each for each in world.nodes.values() if each not in (leader, standby)]
    for dead in others[:3]:
        dead.cut_power()
        world.run(2 * TTL_S + 10)
    moving = [f"{name}.service" for name in "0123456" if world.placed(f"{name}.service") == leader.id]
    leader.cut_power()
    world.run(TTL_S + GRACE_S + SLACK_S)
    assert world.leader() is standby
    assert moving
    assert not [name for name in moving if world.running(name) in ([], [leader.id])]


def test_that_of_a_leader_of_etcd_costs_an_election_more(cluster: Cluster) -> None:
    victim = cluster.draw()
    victim.cut_power()
    cluster.lose_the_leader_of_etcd(ELECTION_S)
    cluster.moved_within(victim, TTL_S + GRACE_S + SLACK_S)


def test_a_machine_that_shuts_down_costs_the_grace(cluster: Cluster) -> None:
    victim = cluster.draw()
    victim.shut_down()
    cluster.moved_within(victim, GRACE_S + SLACK_S)


def test_many_that_shut_down_are_evicted_slowly(cluster: Cluster) -> None:
    """Half of the machines leave at once: a mistake is likelier than the wish to run all on the other half."""
    world = cluster.world
    leaving = cluster.random.sample(list(world.nodes.values()), (len(world.nodes) + 1) // 2)
    for each in leaving:
        each.shut_down()
    world.run(GRACE_S + SLACK_S)
    homes = set(world.registry.placements().values())
    assert len([each for each in leaving if each.id not in homes]) <= 1
    world.run(len(leaving) * TTL_S + SLACK_S)
    assert not {each.id for each in leaving} & set(world.registry.placements().values())


def test_an_election_of_etcd_changes_nothing(cluster: Cluster) -> None:
    """The leader of fleet leads on, no machine registers again, no unit moves."""
    leader, revision = cluster.world.leader(), cluster.world.etcd.store.revision
    with cluster.world.undisturbed(*cluster.units):
        cluster.lose_the_leader_of_etcd(cluster.random.uniform(1, 9))
        cluster.world.run(TTL_S + 10)
    assert cluster.world.leader() is leader
    assert cluster.world.etcd.store.revision == revision


def test_an_outage_moves_nothing(cluster: Cluster) -> None:
    """All are cut off at once, for so long that the leases of none, some, most or all of them run out meanwhile; they
    are back within two seconds of each other.
    """
    with cluster.world.undisturbed(*cluster.units):
        for node in cluster.world.nodes.values():
            node.client.reachable = False
        cluster.world.run(cluster.random.uniform(TTL_S / 2, TTL_S + 10))
        for node in cluster.random.sample(list(cluster.world.nodes.values()), len(cluster.world.nodes)):
            node.client.reachable = True
            cluster.world.run(cluster.random.choice([0, 0, 0.5]))
        cluster.world.run(3 * TTL_S)
    assert len(cluster.world.registry.machines()) == len(cluster.world.nodes)

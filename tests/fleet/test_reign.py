"""A reign ends when etcd says so, and not while the leader reads: under virtual time, and once with threads and a real
etcd.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from etcd import Client
from etcd.errors import Unavailable
from etcd.fake import FakeEtcd
from etcd.protocol import RangeResult
from fleet.agent.unitstore import UnitStore
from fleet.config import Config
from fleet.daemon import Daemon
from fleet.engine.engine import Engine
from fleet.engine.leadership import Leadership
from fleet.engine.planner import GRACE_S
from fleet.model import codec
from fleet.model.entities import Machine
from fleet.model.registry import Registry
from tests.eventually import eventually
from tests.fleet.clusters import unit
from tests.fleet.world import TTL_S, FakeSystemd, Follower, World

LEASE_S = 10
"""Of the engines in a World."""


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, "a", "b", "c")
    world.submit("0.service")
    world.run(5)
    return world


class TestReading:
    """To read everything takes longer than the lease, and no engine stands by."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        world = World(tmp_path, "a", "b", "c", standbys=0)
        world.submit("0.service")
        world.run(5)
        return world

    def test_a_successor_decides_however_long_it_reads(self, world: World) -> None:
        for node in world.nodes.values():
            node.client.reading_s = 4.5 * LEASE_S
            node.client.meanwhile = lambda: world.submit("1.service")
        world.leader().kill_daemon()
        world.run(LEASE_S + 5)
        new = world.leader()
        assert new.client.readings == 1
        assert len(world.running("1.service")) == 1
        world.submit("2.service")
        world.run(3)
        assert len(world.running("2.service")) == 1
        assert world.leader() is new

    def test_a_reign_that_ended_meanwhile_is_over(self, world: World) -> None:
        ended: list[int] = []

        def end() -> None:
            if not ended:
                world.etcd.delete(world.registry.key_leader)
                ended.append(world.etcd.store.revision)

        for node in world.nodes.values():
            node.client.reading_s = 3 * LEASE_S
            node.client.meanwhile = end
        world.leader().kill_daemon()
        world.run(LEASE_S + 5)
        (reign,) = [each for each in world.nodes.values() if each.engine is not None and each.engine.is_leading]
        held = world.etcd.get(world.registry.key_leader)
        assert held is not None
        assert held.create_revision > ended[0]
        world.submit("1.service")
        world.run(3)
        assert world.leader() is reign
        assert len(world.running("1.service")) == 1

    def test_who_dies_while_it_reads_has_the_grace_from_then_on(self, tmp_path: Path) -> None:
        """The others' leases survived, so the new leader need not wait for a TTL of its own."""
        world = World(tmp_path, *"abcdefg", standbys=0)  # so many that two dead ones are no partition
        for name in ("0.service", "1.service", "2.service"):
            world.submit(name)
        world.run(3)
        old, successor, victim = list(world.nodes.values())[:3]
        assert (world.leader(), world.placed("2.service")) == (old, "c")
        successor.client.reading_s = 2 * TTL_S
        successor.client.meanwhile = victim.cut_power
        old.kill_daemon()
        world.run(LEASE_S + GRACE_S + 2)  # and the reading, in which the victim's lease ends
        assert world.leader() is successor
        assert world.placed("2.service") not in (None, "c")


class TestStandbys:
    """One engine follows everything, and succeeds the leader without reading."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        world = World(tmp_path, *"abcdefg")
        world.submit("0.service")
        world.run(5)
        return world

    def posts(self, world: World) -> dict[str, str]:
        found = world.etcd.range(world.registry.prefix + "engine/").kvs
        return {each.key.rpartition("engine/")[2]: codec.leader(each.key, each.value) for each in found}

    def test_there_is_one_and_the_others_read_nothing(self, world: World) -> None:
        posts = self.posts(world)
        assert sorted(posts) == ["leader", "standby/0"]
        assert len(set(posts.values())) == 2
        assert {each for each, node in world.nodes.items() if node.client.readings} == set(posts.values())

    def test_it_succeeds_without_reading(self, world: World) -> None:
        posts = self.posts(world)
        warm = {posts["standby/0"]}
        readings = {each: world.nodes[each].client.readings for each in warm}
        world.submit("1.service")
        world.leader().kill_daemon()
        world.submit("2.service")
        world.run(LEASE_S + 1)
        assert world.leaders()[0] in warm
        assert len(world.running("1.service")) == len(world.running("2.service")) == 1
        assert {each: world.nodes[each].client.readings for each in warm} == readings
        world.run(5)
        after = self.posts(world)
        assert sorted(after) == ["leader", "standby/0"], "its post is taken by another"
        assert len(set(after.values())) == 2

    def test_both_may_die_at_once(self, world: World) -> None:
        for each in self.posts(world).values():
            world.nodes[each].kill_daemon()
        world.submit("1.service")
        world.run(LEASE_S + 6)
        assert len(world.running("1.service")) == 1
        assert len(set(self.posts(world).values())) == 2

    def test_what_the_leader_left_undone_long_ago_is_done(self, world: World) -> None:
        """Its successor trusts that it planned, and looks all the same."""
        world.submit("1.service")
        world.run(3)
        leader = world.leader()
        assert world.running("1.service") not in ([], [leader.id])
        assert leader.engine is not None
        leader.engine._written = 1 << 40  # it waits for ever, and keeps its lease
        leader.engine._heard_at = 1 << 40
        world.registry.delete_unit("1.service")
        world.run(100)
        assert len(world.running("1.service")) == 1
        leader.kill_daemon()
        world.run(LEASE_S + 3)
        assert world.running("1.service") == []

    def test_a_machine_that_died_with_the_leader_loses_its_units_as_soon_as_its_lease_ends(self, world: World) -> None:
        world.run(TTL_S)
        leader = world.leader()
        assert world.placed("0.service") == leader.id
        leader.cut_power()
        world.run(TTL_S + 5)
        assert world.placed("0.service") not in (None, leader.id)

    def test_an_orderly_end_leaves_no_post(self, world: World) -> None:
        for node in world.nodes.values():
            assert node.engine is not None
            node.engine.resign()
            node.kill_daemon()
        assert self.posts(world) == {}


class TestTrouble:
    """Watches break and answers are lost; the leader goes on with what it knows."""

    def test_a_broken_watch_is_resumed(self, world: World) -> None:
        leader = world.leader()
        readings = leader.client.readings
        leader.client.reachable = False
        world.submit("1.service")
        world.run(2)
        leader.client.reachable = True
        world.run(5)
        assert world.leader() is leader
        assert len(world.running("1.service")) == 1
        assert leader.client.readings == readings

    def test_only_a_compacted_one_is_read_again(self, world: World) -> None:
        leader = world.leader()
        readings = leader.client.readings
        leader.client.reachable = False
        world.submit("1.service")
        world.run(2)
        world.submit("2.service")
        world.etcd.compact(world.etcd.store.revision)
        leader.client.reachable = True
        world.run(5)
        assert world.leader() is leader
        assert len(world.running("1.service")) == len(world.running("2.service")) == 1
        assert leader.client.readings == readings + 1

    @pytest.mark.parametrize("is_applied", [True, False])
    def test_a_write_without_an_answer_is_sent_again(self, world: World, is_applied: bool) -> None:
        leader = world.leader()
        readings = leader.client.readings
        assert leader.engine is not None
        world.submit("1.service")
        leader._followers[1].pump()
        if is_applied:
            leader.client.lose_reply()
        else:
            leader.client.reachable = False
        leader.engine.step(world.now)
        leader.client.reachable = True
        assert (world.placed("1.service") is not None) is is_applied
        world.run(3)
        assert len(world.running("1.service")) == 1
        assert leader.client.readings == readings
        assert world.leader() is leader

    @pytest.mark.parametrize("is_outage", [False, True])
    def test_a_gap_restarts_the_clock_of_evictions_unless_leases_survived(self, world: World, is_outage: bool) -> None:
        world.submit("1.service")
        world.run(45)
        leader = world.leader()
        assert (leader, world.placed("1.service")) == (world.nodes["a"], "b")
        world.nodes["b"].cut_power()
        world.run(TTL_S - 5)
        leader.client.reachable = False
        world.run(5)
        assert world.etcd.get(world.registry.key_machine("b")) is None
        if is_outage:  # c's key goes, too, and is made again
            found = world.etcd.get(world.registry.key_machine("c"))
            assert found is not None
            world.etcd.delete(found.key)
            world.etcd.put(found.key, found.value, lease=found.lease)
        leader.client.reachable = True
        world.run(TTL_S - 5)
        assert world.placed("1.service") == ("b" if is_outage else "c")
        world.run(15)
        assert world.placed("1.service") == "c"
        assert world.leader() is leader

    def test_an_etcd_that_was_restored_is_read_again(self) -> None:
        """Its revisions begin again at an earlier one: a watch from ours on would be silent until it has caught up."""
        lived, backup = FakeEtcd(), FakeEtcd()
        engines = []
        for etcd in (lived, backup):  # the same up to here, where the backup was taken
            etcd.put(Registry(etcd).key_machine("a"), codec.machine_bytes(Machine("a")))
            engines.append(Engine(Registry(etcd), "a"))
            engines[-1].step(0.0)
        engine, registry = engines[0], Registry(lived)
        follower = Follower(lived, engine)

        def run(begin: float, end: float) -> None:
            now = begin
            while now < end:
                now = min(end, max(now + 0.1, engine.step(now)))
                follower.pump()

        registry.create_unit(unit("1.service"))
        run(0, 5)
        assert registry.placements() == {"1.service": "a"}
        lived.store = backup.store
        registry.create_unit(unit("2.service"))
        engine.lost(Unavailable("the watch was cut off"))
        follower.close()
        run(5, 10)
        assert registry.placements() == {"2.service": "a"}
        assert engine.is_leading


class SlowClient(Client):
    """Its reading of everything takes longer than the lease of the test's leaders."""

    readings = 0

    def range(self, prefix: str, *, revision: int = 0) -> RangeResult:
        found = super().range(prefix, revision=revision)
        if prefix == "/test-successors/":
            time.sleep(3)  # what a large cluster takes
            self.readings += 1
        return found


@pytest.mark.slow
@pytest.mark.etcd
def test_successors_of_a_dead_leader_decide(real_etcd: str, request: pytest.FixtureRequest) -> None:
    """Two of them, with leases of 1 s and readings of 3 s: one leads and goes on leading."""
    clients = [SlowClient([real_etcd]) for _ in "ab"]
    registry = Registry(Client([real_etcd]), "/test-successors/")
    for client in (registry.client, *clients):
        request.addfinalizer(client.close)
    registry.client.put(registry.key_machine("m"), codec.machine_bytes(Machine("m")))
    dead = registry.client.lease_grant(1)
    registry.client.put(registry.key_leader, codec.leader_bytes("dead"), lease=dead.id)
    registry.create_unit(unit("1.service"))
    failures: list[BaseException] = []
    for name, client in zip("ab", clients, strict=True):
        successor = Leadership(Registry(client, registry.prefix), name, ttl_s=1, agent_ttl_s=30)
        successor.start(failures.append)
        request.addfinalizer(successor.stop)
    eventually(lambda: registry.placements() == {"1.service": "m"} or failures, "no leader decided", 20)
    registry.create_unit(unit("2.service"))
    eventually(lambda: len(registry.placements()) == 2 or failures, "it decided once and never again", 2)
    assert not failures
    assert all(client.readings <= 1 for client in clients)


def test_a_bug_in_the_engine_ends_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def buggy(*_: object) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(Engine, "step", buggy)
    store = UnitStore(tmp_path / "fleet", tmp_path / "systemd")
    (tmp_path / "systemd").mkdir()
    store.prepare()
    daemon = Daemon(Registry(FakeEtcd()), Machine("a"), store, Config())
    with pytest.raises(ZeroDivisionError):
        daemon.run(FakeSystemd(tmp_path / "systemd"))

"""The log of events: what is in it, once and no more than its bound, whoever leads. Under virtual time, with seeds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etcd.fake import FakeEtcd
from fleet.agent.steps import SystemdState
from fleet.engine.chronicle import GATHER_S, Chronicle, of_plan
from fleet.engine.planner import GRACE_S
from fleet.engine.retention import EVERY_S, FIRST_S
from fleet.model import codec
from fleet.model.entities import Desired
from fleet.model.eventlog import EventLog
from fleet.model.events import Batch, Bound, Event, Kind
from fleet.model.registry import Registry
from fleet.scheduler.reasons import Reject, Rejection, Why
from fleet.scheduler.schedule import Decision, Plan
from tests.fleet.clusters import unit
from tests.fleet.world import TTL_S, World

ELECTED_S = 16
"""Seconds until another engine leads, after one was killed: its lease, and a moment."""


def kinds(world: World, name: str = "") -> list[str]:
    return [each.kind for each in world.events() if name in ("", each.unit)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, "a", "b", "c", "d")


_texts = st.text(max_size=20)
_events = st.builds(Event, st.sampled_from(Kind), _texts, _texts, _texts, _texts)
_batches = st.builds(
    Batch, st.floats(0, 1e6), st.just("local"), st.lists(_events, min_size=1, max_size=9).map(tuple), st.integers(1, 99)
)


class TestBound:
    """What is kept."""

    @given(st.lists(_batches, max_size=30), st.integers(0, 60), st.floats(0, 1e6), st.floats(0, 2e6))
    def test_it_keeps_the_newest_that_fit_and_are_young(
        self, drawn: list[Batch], events: int, age_s: float, now: float
    ) -> None:
        batches = [replace(each, revision=number) for number, each in enumerate(drawn, 1)]
        gone = Bound(events, age_s).surplus(batches, now)
        kept = [each for each in batches if each not in gone]
        assert sum(len(each.events) for each in kept) <= events
        assert all(each.at >= now - age_s for each in kept)
        for index, each in enumerate(batches):  # whatever is gone had to go
            if each in gone and each.at >= now - age_s:
                assert sum(len(newer.events) for newer in batches[index:]) > events

    @given(_batches)
    def test_a_batch_is_read_as_it_was_written(self, batch: Batch) -> None:
        found = codec.batch("", codec.batch_bytes(batch))
        assert (found.at, found.by, found.events) == (batch.at, batch.by, batch.events)

    @given(st.binary(max_size=200))
    def test_nothing_but_a_broken_value_comes_of_any_bytes(self, value: bytes) -> None:
        for read in (codec.batch, codec.revision):
            with pytest.raises(codec.BrokenValue):
                read("", value)


class TestUsers:
    """What users do is in the transaction that does it."""

    def test_each_change_says_what_it_is_and_who_made_it(self) -> None:
        registry = Registry(FakeEtcd())
        registry.create_unit(unit("x.service", desired=Desired.INACTIVE), by="10.0.0.9")
        for desired in (Desired.LAUNCHED, Desired.LOADED, Desired.LOADED, Desired.INACTIVE, Desired.LOADED):
            registry.set_desired("x.service", desired)
        registry.ask({"x.service": (unit("x.service", run="/bin/false").unitfile, Desired.LAUNCHED)})
        registry.ask({"x.service": (None, Desired.LAUNCHED)})
        registry.create_unit(unit("x.service"), replace=True)
        registry.delete_unit("x.service")
        registry.set_metadata({("a", "disk"): "ssd", ("a", "zone"): ""})
        page = registry.log.after(0)
        assert [(each.by, [event.kind for event in each.events]) for each in page.batches] == [
            ("10.0.0.9", ["submitted"]),
            ("local", ["started"]),
            ("local", ["stopped"]),
            ("local", ["unloaded"]),
            ("local", ["loaded"]),
            ("local", ["replaced", "started"]),
            ("local", ["replaced", "started"]),
            ("local", ["destroyed"]),
            ("local", ["metadata", "metadata"]),
        ]
        assert [each.reason for each in page.batches[-1].events] == ["disk=ssd", "without zone"]

    def test_a_change_that_fails_leaves_nothing(self) -> None:
        registry = Registry(FakeEtcd())
        registry.create_unit(unit("x.service"))
        before = registry.revision()
        changes: list[Callable[[], object]] = [
            lambda: registry.create_unit(unit("x.service", run="/bin/false")),
            lambda: registry.delete_unit("y.service"),
            lambda: registry.set_desired("y.service", Desired.LOADED),
        ]
        for change in changes:
            with pytest.raises(Exception, match="unit"):
                change()
        assert registry.revision() == before


class TestPlans:
    """What the engine does is in the transaction that does it."""

    def test_the_life_of_a_unit(self, world: World) -> None:
        world.submit("x.service")
        world.run(5)
        home = world.placed("x.service")
        assert home is not None
        world.nodes[home].cut_power()
        world.run(TTL_S + GRACE_S + 10)
        new = world.placed("x.service")
        world.registry.delete_unit("x.service")
        world.run(5)
        found = [(each.kind, each.machine, each.former) for each in world.events() if each.unit]
        assert found == [
            ("replaced", "", ""),  # as World.submit writes it
            ("started", "", ""),
            ("placed", home, ""),
            ("moved", new, home),
            ("destroyed", "", ""),
            ("removed", "", new),
        ]
        moved = next(each for each in world.events() if each.kind == Kind.MOVED)
        assert moved.reason.startswith(f"moved from machine {home} (machine gone); placed where the fewest units were")
        of_home = [each.kind for each in world.events() if each.machine == home and not each.unit]
        assert of_home[-2:] == [Kind.LEFT, Kind.EVICTED]

    def test_a_unit_that_no_machine_may_have_waits_once(self, world: World) -> None:
        world.submit("x.service", "MachineMetadata=disk=tape")
        world.run(5)
        world.nodes["d"].cut_power()  # another count in the reason is no event
        world.run(TTL_S + GRACE_S + 5)
        world.registry.set_metadata({("b", "disk"): "tape"})
        world.run(5)
        waits = [each.reason for each in world.events() if each.kind == Kind.WAITING]
        assert waits == ["no machine: 4 lack metadata disk=tape"]
        assert kinds(world, "x.service")[-1] == Kind.PLACED

    def test_a_global_unit_has_one_event_for_all_machines(self) -> None:
        gone = [Decision("g.service", each, Why.DESTROYED) for each in "abc"]
        unfit = Decision("x.service", "a", Why.UNFIT, None, Rejection(Reject.LACKS_METADATA, "disk=ssd"))
        assert of_plan(Plan((*gone, unfit)), ()) == {
            "g.service": [Event(Kind.REMOVED, "g.service", reason="from 3 machines: destroyed")],
            "x.service": [Event(Kind.REMOVED, "x.service", former="a", reason="its machine lacks metadata disk=ssd")],
        }

    def test_a_mass_failover_writes_no_more_often(self, tmp_path: Path) -> None:
        """300 units move; their events are in the transactions that move them."""
        world = World(tmp_path, "a", "b")
        for number in range(300):
            world.submit(f"{number:03}.service", "MachineMetadata=new=yes")
        world.run(2)
        begin = world.registry.revision()
        world.registry.set_metadata({("a", "new"): "yes"})
        world.run(5)
        history = list(world.etcd.store.events_since(begin + 1))
        prefix = world.registry.log.prefix
        only_log = [each for each in history if all(event.kv.key.startswith(prefix) for event in each.events)]
        assert Counter(each.kind for each in world.events())[Kind.PLACED] == 300
        assert only_log == []
        assert sum(event.kv.key.startswith(prefix) for each in history for event in each.events) <= 300 // 50 + 2


class TestMachines:
    """Machines that come and go, units that fail."""

    def test_who_comes_fails_and_goes(self, world: World) -> None:
        world.submit("x.service")
        world.run(5)
        home = world.placed("x.service")
        assert home is not None
        node = world.nodes[home]
        node.systemd.active["x.service"] = False
        node.systemd.ended["x.service"] = SystemdState("loaded", "failed", "failed")
        assert node.agent is not None
        node.agent.observed(["x.service"])
        world.run(3)
        (failed,) = [each for each in world.events() if each.kind == Kind.FAILED]
        assert (failed.unit, failed.machine) == ("x.service", home)
        assert failed.reason

    def test_evictions_that_wait_and_that_are_limited(self, tmp_path: Path) -> None:
        world = World(tmp_path, *"abcdef", standbys=0)
        for number in range(6):
            world.submit(f"{number}.service")
        world.run(45)
        leader = world.leader()
        dead = [each for each in world.nodes.values() if each is not leader][:3]
        for each in dead:
            each.cut_power()
        world.run(TTL_S + 5)
        limited = [each for each in world.events() if each.kind == Kind.EVICTIONS_LIMITED]
        assert len(limited) == 1
        assert "one machine a lease" in limited[0].reason
        world.run(4 * TTL_S)
        evicted = [each.machine for each in world.events() if each.kind == Kind.EVICTED]
        assert sorted(evicted) == [each.id for each in dead]

    def test_an_outage_of_etcd_says_that_evictions_wait(self, tmp_path: Path) -> None:
        world = World(tmp_path, "a", "b", "c")
        for number in range(3):
            world.submit(f"{number}.service")
        world.run(45)
        for node in world.nodes.values():
            node.client.reachable = False
        world.run(TTL_S + 10)  # all leases end
        for node in list(world.nodes.values())[:2]:
            node.client.reachable = True
        world.run(10)
        waits = [each.machine for each in world.events() if each.kind == Kind.EVICTION_WAITS]
        assert "c" in waits
        assert len(waits) == len(set(waits))


class TestOnce:
    """With a standby nothing is missed, and nothing is there twice."""

    @pytest.mark.parametrize("number", range(8))
    def test_what_the_view_brings_is_written_once(self, tmp_path: Path, seed: int, number: int) -> None:
        chance = random.Random(seed + number)
        world = World(tmp_path, *"abcdefg")
        for each in range(7):
            world.submit(f"{each}.service")
        world.run(10)
        begin = world.registry.revision()
        for _ in range(6):
            victim = world.leader() if chance.random() < 0.6 else world.nodes[chance.choice(sorted(world.nodes))]
            if chance.random() < 0.3:
                victim.client.lose_reply()
            if chance.random() < 0.5:
                # It dies with what it saw and did not write: between the event and the end of GATHER_S. The standby
                # does not, unless it is the victim.
                posts = [each.engine.role for each in world.nodes.values() if each.engine is not None]
                assert sorted(set(posts)) == ["follower", "leader", "standby"]
                others = [each for each in world.nodes.values() if each.engine and each.engine.role == "follower"]
                other = chance.choice([each for each in others if each is not victim])
                other.shut_down()
                world.run(chance.choice([0, GATHER_S, 2 * GATHER_S]))
                other.start_daemon()
            victim.kill_daemon()
            world.run(chance.uniform(ELECTED_S, ELECTED_S + TTL_S))
            victim.start_daemon()
            world.run(8)
        happened: Counter[tuple[str, str]] = Counter()
        prefix = world.registry.prefix + "machines/"
        for batch in world.etcd.store.events_since(begin + 1):
            for event in batch.events:
                if event.kv.key.startswith(prefix) and (event.kind == "delete" or event.kv.version == 1):
                    kind = Kind.LEFT if event.kind == "delete" else Kind.JOINED
                    happened[kind, event.kv.key.removeprefix(prefix)] += 1
        written = Counter(
            (event.kind, event.machine)
            for batch in world.registry.log.after(begin).batches
            for event in batch.events
            if event.kind in (Kind.LEFT, Kind.JOINED)
        )
        assert written == happened

    def test_a_leader_says_that_it_leads(self, world: World) -> None:
        old = world.leader()
        old.kill_daemon()
        world.run(ELECTED_S)
        new = world.leader()
        leaders = [(each.machine, each.former) for each in world.events() if each.kind == Kind.LEADER]
        assert leaders == [(old.id, ""), (new.id, old.id)]

    def test_what_another_leader_wrote_is_dropped(self) -> None:
        client = FakeEtcd()
        log = EventLog(client, "/fleet/")
        chronicle = Chronicle(log)
        for revision in range(1, 5):
            chronicle.note(Event(Kind.JOINED, machine=f"m{revision}"), revision, 0.0)
        chronicle.note(Event(Kind.EVICTIONS_LIMITED), 0, 0.0)
        client.txn([], [log.put_seen(3)])
        chronicle.prepare()
        taken, seen = chronicle.take(10.0, with_others=False)
        assert [each.machine for each in taken] == ["m4", ""]
        assert seen == 4
        assert chronicle.take(10.0, with_others=True) == ([], 0), "until they are written"
        chronicle.doubt()
        chronicle.prepare()
        assert chronicle.take(10.0, with_others=False)[0] == taken
        chronicle.written(seen)
        assert chronicle.due() is None


class TestRetention:
    """The leader deletes, and only what is fleet's."""

    BOUND = Bound(events=50, age_s=3600.0, slack=20)

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return World(tmp_path, "a", "b", bound=self.BOUND)

    def fill(self, world: World, events: int) -> None:
        for number in range(events):
            world.registry.client.txn([], [world.registry.log.put([Event(Kind.METADATA, machine=f"m{number}")], "x")])

    def test_the_log_stays_within_its_bound(self, world: World) -> None:
        for number in range(60):
            world.submit(f"{number}.service")
            world.run(1)
            assert len(world.events()) <= self.BOUND.events + self.BOUND.slack + 10
        assert kinds(world)[-1] == Kind.PLACED

    def test_what_is_old_goes_and_an_idle_cluster_writes_nothing(self, world: World) -> None:
        world.submit("1.service")
        world.run(FIRST_S + 10)
        revision = world.registry.revision()
        world.run(EVERY_S - FIRST_S - 60)
        assert world.registry.revision() == revision
        assert world.events()
        world.run(EVERY_S + self.BOUND.age_s)
        assert world.events() == []
        revision = world.registry.revision()
        world.run(EVERY_S + 10)
        assert world.registry.revision() == revision

    def test_a_successor_goes_on_and_nothing_foreign_is_deleted(self, world: World) -> None:
        prefix = world.registry.log.prefix
        foreign = {
            prefix + "notes": b"mine",
            prefix + "1800000000000-0000000g": b"{}",
            prefix + "1700000000000-00000000": b'{"v":2}',
            prefix.removesuffix("/") + "/deep/1700000000000-00000000": codec.batch_bytes(
                Batch(1.0, "x", (Event(Kind.FAILED),))
            ),
            "/flotilla/other": b"",
        }
        for key, value in foreign.items():
            world.etcd.put(key, value)
        self.fill(world, 400)
        leader = world.leader()
        assert leader.engine is not None
        before = len(world.events())
        while len(world.events()) >= before:
            world.run(1)
        leader.kill_daemon()
        left = len(world.events())
        assert left > self.BOUND.events, "else it had the time to end"
        newest = world.events()[-20:]
        world.run(ELECTED_S + FIRST_S + 5)
        assert len(world.events()) <= self.BOUND.events
        assert [each for each in newest if each in world.events()] == newest
        for key, value in foreign.items():
            found = world.etcd.get(key)
            assert found is not None
            assert found.value == value

    def test_who_follows_learns_that_events_are_missing(self, world: World) -> None:
        self.fill(world, 10)
        old = world.registry.log.after(0).revision
        self.fill(world, 400)
        world.run(FIRST_S + 20)
        world.etcd.compact(world.registry.revision())
        page = world.registry.log.follow(old, 30.0)
        assert page.is_torn
        assert 0 < sum(len(each.events) for each in page.batches) <= self.BOUND.events + 5
        assert not world.registry.log.after(page.revision).is_torn
        assert world.registry.log.follow(page.revision + 1000, 0.0).is_torn, "an etcd that was restored"

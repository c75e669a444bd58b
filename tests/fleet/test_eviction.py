"""When machines that vanished lose their units."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from fleet.engine.eviction import Evictions

TTL_S, GRACE_S = 30, 2
OLD, GAP, NEW = 10, 50, 90
"""Revisions: before a gap in the view, in it, and after it."""


def view(*alive: str, since: float = 0, made: int = OLD) -> Evictions:
    found = Evictions(since, ttl_s=TTL_S, grace_s=GRACE_S)
    for each in alive:
        found.came(each, made)
    return found


class TestOne:
    """A single machine vanishes."""

    def test_it_has_the_grace_to_come_back(self) -> None:
        seen = view(*"abc")
        seen.left("a", 100, GAP)
        assert seen.next_due() == 102
        assert seen.take_due(101.9) == []
        assert seen.take_due(102) == ["a"]
        assert seen.next_due() is None

    def test_one_that_comes_back_is_not_evicted(self) -> None:
        seen = view(*"abc")
        seen.left("a", 100, GAP)
        seen.came("a", NEW)
        assert seen.take_due(1000) == []

    def test_of_two_machines_one_is_no_mass(self) -> None:
        seen = view("a", "b")
        seen.left("a", 100, GAP)
        assert seen.take_due(102) == ["a"]


class TestGaps:
    """The view is young: there is a new leader, or its watch was broken."""

    def test_it_is_dead_when_the_leases_of_most_have_survived(self) -> None:
        seen = view("b", "c", since=100)
        seen.came("d", NEW)  # a new one, or one that was cut off
        seen.left("a", 100, GAP)
        assert seen.next_due() == 102
        assert seen.take_due(102) == ["a"]

    def test_keys_that_were_made_again_prove_nothing(self) -> None:
        """etcd was away; of all machines ``a`` is the last to come back."""
        seen = view("b", "c", since=100, made=NEW)
        seen.left("a", 100, GAP)
        assert seen.next_due() == 130
        assert seen.take_due(129) == []
        assert seen.take_due(130) == ["a"]

    def test_half_of_the_others_are_not_most(self) -> None:
        seen = view("b", since=100)
        seen.came("c", NEW)
        seen.left("a", 100, GAP)
        assert seen.take_due(129) == []

    def test_nor_are_those_that_are_away_too(self) -> None:
        seen = view("b", since=100)
        seen.left("a", 100, GAP)
        seen.left("c", 100, GAP)
        assert seen.take_due(129) == []

    def test_one_of_two_is_dead_by_the_other_ones_lease(self) -> None:
        seen = view("b", since=100)
        seen.left("a", 100, GAP)
        assert seen.take_due(102) == ["a"]

    def test_a_watch_that_was_resumed_is_judged_likewise(self) -> None:
        seen = view(*"abc")
        seen.interrupted(100)
        seen.left("a", 100, GAP)
        assert seen.next_due() == 102
        seen.came("b", NEW)  # its lease was lost, too
        assert seen.next_due() == 130

    def test_a_long_view_needs_no_evidence(self) -> None:
        seen = view("b", "c", made=NEW)
        seen.left("a", 100, GAP)
        assert seen.take_due(102) == ["a"]


class TestMasses:
    """Many vanish."""

    def test_a_third_is_no_mass(self) -> None:
        seen = view(*"abcdef")
        seen.left("a", 100, GAP)
        seen.left("b", 100, GAP)
        assert seen.take_due(102) == ["a", "b"]

    def test_more_than_a_third_go_one_at_a_time(self) -> None:
        seen = view(*"abcdef")
        for each in "abcd":
            seen.left(each, 100, GAP)
        assert seen.is_mass
        assert seen.take_due(102) == ["a"]
        assert seen.take_due(103) == []
        assert seen.next_due() == 132
        assert seen.take_due(132) == ["b"]
        assert seen.take_due(161.9) == []
        assert seen.take_due(162) == ["c"], "still slow although fewer are away than a third"
        for each in "d":
            seen.came(each, NEW)
        assert not seen.is_mass

    def test_machines_that_vanish_one_after_the_other_are_a_mass_too(self) -> None:
        """Leases of machines that were cut off together do not run out together."""
        seen = view(*"abcdef")
        evicted = []
        for second, each in enumerate("abcd"):
            seen.left(each, 100 + 3 * second, GAP)
            evicted += seen.take_due(102 + 3 * second)
        assert evicted == ["a", "b"], "a third"
        assert seen.is_mass
        assert seen.next_due() == 135, "a TTL after the last one"
        assert seen.take_due(135) == ["c"]

    def test_one_that_lost_its_units_and_came_back_does_not_count(self) -> None:
        seen = view(*"abc")
        seen.left("a", 100, GAP)
        assert seen.take_due(102) == ["a"]
        seen.came("a", NEW)
        seen.left("b", 105, NEW + 1)
        assert seen.take_due(107) == ["b"]

    def test_what_happened_a_ttl_ago_does_not_count(self) -> None:
        seen = view(*"abc")
        seen.left("a", 100, GAP)
        assert seen.take_due(102) == ["a"]
        seen.left("b", 132, NEW)
        assert seen.take_due(134) == ["b"]


class Event(NamedTuple):
    """What a leader observes of one machine, ``after`` so many seconds."""

    after: int
    machine: str
    what: str


EVENTS = st.lists(
    st.builds(
        Event, st.integers(0, 20), st.sampled_from("abcdefg"), st.sampled_from(["comes", "leaves", "gap", "nothing"])
    ),
    max_size=40,
)


@given(EVENTS, st.sets(st.sampled_from("abcdefg"), min_size=1))
def test_no_history_evicts_without_cause(events: list[Event], founders: set[str]) -> None:
    """Each event is a revision. Whoever is evicted was away for the grace; and either the view was whole for a TTL, or
    the keys of most others are older than the end of its own. :meth:`Evictions.next_due` is exact.
    """
    since = now = 0.0
    seen = Evictions(since, ttl_s=TTL_S, grace_s=GRACE_S)
    alive = dict.fromkeys(sorted(founders), 1)
    for each, made in alive.items():
        seen.came(each, made)
    away: dict[str, tuple[float, int]] = {}
    evicted: dict[str, float] = {}
    for revision, event in enumerate(events, 2):
        due = seen.next_due()
        for moment in sorted({now + second / 2 for second in range(2 * event.after + 1)}):
            taken = seen.take_due(moment)
            assert bool(taken) is (due is not None and moment >= due), "next_due was wrong"
            for machine in taken:
                since_left, ended = away.pop(machine)
                assert moment >= since_left + GRACE_S
                recent = [each for each, at in evicted.items() if at > moment - TTL_S and each not in alive]
                others = len(alive) + len(away) + len([each for each in recent if each not in away])
                survivors = [each for each, made in alive.items() if made < ended]
                assert moment >= since + TTL_S or 2 * len(survivors) > others, f"{machine} may have met an outage"
                evicted[machine] = moment
            due = seen.next_due()
        now += event.after
        match event.what:
            case "comes":
                alive.setdefault(event.machine, revision)
                away.pop(event.machine, None)
                evicted.pop(event.machine, None)
                seen.came(event.machine, alive[event.machine])
            case "leaves" if event.machine in alive:
                del alive[event.machine]
                away[event.machine] = (now, revision)
                seen.left(event.machine, now, revision)
            case "gap":
                since = now
                seen.interrupted(now)
    assert set(seen.away) == away.keys()


@given(st.integers(2, 200), st.data())
def test_evidence_takes_a_majority_of_the_others(machines: int, data: st.DataObject) -> None:
    survivors = data.draw(st.integers(0, machines - 1))
    seen = Evictions(100, ttl_s=TTL_S, grace_s=GRACE_S)
    for number in range(machines - 1):
        seen.came(str(number), OLD if number < survivors else NEW)
    seen.left("dead", 100, GAP)
    assert seen.next_due() == 100 + (GRACE_S if 2 * survivors > machines - 1 else TTL_S)

"""When machines that vanished lose their units."""

from __future__ import annotations

from fleet.engine.eviction import Evictions


def view(*alive: str, since: float = 0) -> Evictions:
    made = Evictions(since, ttl_s=30, grace_s=2)
    for each in alive:
        made.came(each)
    return made


def test_a_machine_that_vanishes_under_a_long_view_has_the_grace() -> None:
    seen = view(*"abc")
    seen.left("a", 100)
    assert seen.next_due() == 102
    assert seen.take_due(101.9) == []
    assert seen.take_due(102) == ["a"]
    assert seen.next_due() is None


def test_a_view_that_is_young_waits_for_a_full_ttl() -> None:
    seen = view("b", "c", since=100)
    seen.left("a", 100)
    assert seen.take_due(129) == []
    assert seen.take_due(130) == ["a"]


def test_one_that_comes_back_is_not_evicted() -> None:
    seen = view(*"abc")
    seen.left("a", 100)
    seen.came("a")
    assert seen.take_due(1000) == []


def test_a_third_is_no_mass() -> None:
    seen = view(*"abcdef")
    seen.left("a", 100)
    seen.left("b", 100)
    assert seen.take_due(102) == ["a", "b"]


def test_more_than_a_third_go_one_at_a_time() -> None:
    seen = view(*"abcdef")
    for each in "abcd":
        seen.left(each, 100)
    assert seen.is_mass
    assert seen.take_due(102) == ["a"]
    assert seen.take_due(103) == []
    assert seen.next_due() == 132
    assert seen.take_due(132) == ["b"]
    assert seen.take_due(161.9) == []
    assert seen.take_due(162) == ["c"], "still slow although fewer are away than a third"
    for each in "d":
        seen.came(each)
    assert not seen.is_mass


def test_machines_that_vanish_one_after_the_other_are_a_mass_too() -> None:
    """Leases of machines that were cut off together do not run out together."""
    seen = view(*"abcdef")
    evicted = []
    for second, each in enumerate("abcd"):
        seen.left(each, 100 + 3 * second)
        evicted += seen.take_due(102 + 3 * second)
    assert evicted == ["a", "b"], "a third"
    assert seen.is_mass
    assert seen.next_due() == 135, "a TTL after the last one"
    assert seen.take_due(135) == ["c"]


def test_one_that_lost_its_units_and_came_back_does_not_count() -> None:
    seen = view(*"abc")
    seen.left("a", 100)
    assert seen.take_due(102) == ["a"]
    seen.came("a")
    seen.left("b", 105)
    assert seen.take_due(107) == ["b"]


def test_what_happened_a_ttl_ago_does_not_count() -> None:
    seen = view(*"abc")
    seen.left("a", 100)
    assert seen.take_due(102) == ["a"]
    seen.left("b", 132)
    assert seen.take_due(134) == ["b"]


def test_of_two_machines_one_is_no_mass() -> None:
    seen = view("a", "b")
    seen.left("a", 100)
    assert seen.take_due(102) == ["a"]

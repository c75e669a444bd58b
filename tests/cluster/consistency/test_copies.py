"""Two copies at once are found when they are proven, and only then."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.consistency.copies import Double, Run, Sample, doubles, runs


def sample(node: int, begin: float, incarnation: str | None, *, length: float = 0.5) -> Sample:
    return Sample(node, "web.service", begin, begin + length, incarnation)


def test_a_unit_that_moves_is_one_copy() -> None:
    samples = [
        sample(1, 0, "a"),
        sample(1, 2, "a"),
        sample(1, 4, None),
        sample(2, 3, None),
        sample(2, 5, "b"),
        sample(2, 7, "b"),
    ]
    found = runs(samples)
    assert found == [Run(1, "web.service", 0.5, 2), Run(2, "web.service", 5.5, 7)]
    assert doubles(found, {}) == []


def test_one_sample_proves_nothing() -> None:
    assert runs([sample(1, 0, "a"), sample(2, 0, "b")]) == []


def test_a_restart_is_not_one_long_run() -> None:
    samples = [sample(1, 0, "a"), sample(1, 1, "a"), sample(1, 8, "c"), sample(1, 9, "c")]
    assert [(run.begin, run.end) for run in runs(samples)] == [(0.5, 1), (8.5, 9)]


def test_two_at_once() -> None:
    samples = [sample(1, 0, "a"), sample(1, 9, "a"), sample(2, 3, "b"), sample(2, 20, "b")]
    (found,) = doubles(runs(samples), {})
    assert found == Double("web.service", (1, 2), 3.5, 9)
    assert str(found) == "web.service ran on node-1 and node-2 at once, from 3.5 to 9.0 s"


def test_who_was_cut_off_is_excused_for_that_time() -> None:
    samples = [sample(1, 0, "a"), sample(1, 9, "a"), sample(2, 3, "b"), sample(2, 20, "b")]
    assert doubles(runs(samples), {1: [(2, 10)]}) == []
    (found,) = doubles(runs(samples), {1: [(2, 8)]})
    assert (found.begin, found.end) == (8, 9)
    (found,) = doubles(runs(samples), {2: [(0, 4)], 1: [(8, 30)]})
    assert (found.begin, found.end) == (4, 8)


def test_other_units_are_other_things() -> None:
    samples = [
        sample(1, 0, "a"),
        sample(1, 9, "a"),
        Sample(2, "db.service", 0, 1, "b"),
        Sample(2, "db.service", 9, 10, "b"),
    ]
    assert doubles(runs(samples), {}) == []


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 50), st.sampled_from(["a", "b", None])), max_size=12),
    st.dictionaries(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=3)),
)
def test_what_is_reported_was_so(
    seen: list[tuple[int, int, str | None]], excused: dict[int, list[tuple[int, int]]]
) -> None:
    """At each instant of a double, both incarnations were seen before and after, and no node was excused."""
    samples = [sample(node, begin, incarnation) for node, begin, incarnation in seen]
    intervals = {node: [(min(pair), max(pair)) for pair in pairs] for node, pairs in excused.items()}
    for double in doubles(runs(samples), intervals):
        middle = (double.begin + double.end) / 2
        for node in double.nodes:
            before = {each.incarnation for each in samples if each.node == node and each.end <= middle}
            after = {each.incarnation for each in samples if each.node == node and each.begin >= middle}
            assert (before & after) - {None}
            assert not any(begin < middle < end for begin, end in intervals.get(node, []))

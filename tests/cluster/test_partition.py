"""Shapes of a broken network, over all small clusters and many large ones."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.network import partition
from cluster.network.impairment import Pair
from terminal import UsageFailure

members = st.sets(st.integers(1, 99), min_size=1, max_size=25)


def seen(nodes: set[int], cut: frozenset[Pair], node: int) -> frozenset[int]:
    """Whom ``node`` sees, itself among them: frames pass both ways."""
    return frozenset(other for other in nodes if not {(node, other), (other, node)} & cut)


def symmetric(cut: frozenset[Pair]) -> bool:
    return {(target, source) for source, target in cut} == cut


def between(nodes: set[int], cut: frozenset[Pair]) -> bool:
    return all(one != other and {one, other} <= nodes for one, other in cut)


@given(members.filter(lambda nodes: len(nodes) >= 2))
def test_halves_differ_by_one_at_most_and_do_not_see_each_other(nodes: set[int]) -> None:
    lower, upper = partition.halves(nodes)
    assert {*lower, *upper} == nodes
    assert max(lower) < min(upper)
    assert len(upper) - len(lower) in (0, 1)
    cut = partition.groups(lower, upper)
    assert symmetric(cut)
    assert between(nodes, cut)
    for half in (lower, upper):
        assert all(seen(nodes, cut, node) == set(half) for node in half)


@given(members.filter(lambda nodes: len(nodes) >= 2), st.data())
def test_an_isolated_node_sees_itself_and_the_others_see_all_others(nodes: set[int], data: st.DataObject) -> None:
    node = data.draw(st.sampled_from(sorted(nodes)))
    cut = partition.isolated(nodes, node)
    assert symmetric(cut)
    assert between(nodes, cut)
    assert seen(nodes, cut, node) == {node}
    assert all(seen(nodes, cut, other) == nodes - {node} for other in nodes - {node})


@given(members.filter(lambda nodes: len(nodes) >= 3), st.data())
def test_the_sides_of_a_bridge_see_it_and_not_each_other(nodes: set[int], data: st.DataObject) -> None:
    middle = data.draw(st.sampled_from(sorted(nodes)))
    cut = partition.bridge(nodes, middle)
    assert symmetric(cut)
    assert between(nodes, cut)
    assert seen(nodes, cut, middle) == nodes
    lower, upper = partition.halves(nodes - {middle})
    for half in (lower, upper):
        assert all(seen(nodes, cut, node) == {*half, middle} for node in half)


@given(members.filter(lambda nodes: len(nodes) >= 4))
def test_in_a_majority_ring_every_node_sees_a_majority_and_no_two_the_same(nodes: set[int]) -> None:
    cut = partition.majority_ring(nodes)
    assert symmetric(cut)
    assert between(nodes, cut)
    views = [seen(nodes, cut, node) for node in nodes]
    majority = len(nodes) // 2 + 1
    assert all(majority <= len(view) <= majority + 1 for view in views)
    assert len(set(views)) == len(nodes)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_four_nodes_make_no_majority_ring(count: int) -> None:
    with pytest.raises(UsageFailure, match=f"a majority ring needs 4 nodes or more; there are {count}"):
        partition.majority_ring(range(1, count + 1))


def test_a_majority_ring_of_five() -> None:
    nodes = {1, 2, 3, 4, 5}
    cut = partition.majority_ring(nodes)
    assert [sorted(seen(nodes, cut, node)) for node in sorted(nodes)] == [
        [1, 2, 5],
        [1, 2, 3],
        [2, 3, 4],
        [3, 4, 5],
        [1, 4, 5],
    ]


@given(st.lists(st.sets(st.integers(0, 20), min_size=1), min_size=2, max_size=5))
def test_groups_see_themselves_and_those_in_no_group_see_all(parts: list[set[int]]) -> None:
    distinct, taken = [], set[int]()
    for part in parts:
        if part - taken:
            distinct.append(part - taken)
            taken |= part
    assume(len(distinct) >= 2)
    cut = partition.groups(*distinct)
    assert symmetric(cut)
    every_node = set(range(21))
    for part in distinct:
        others = taken - part
        assert all(seen(every_node, cut, node) == every_node - others for node in part)
    assert all(seen(every_node, cut, node) == every_node for node in every_node - taken)
    assert cut == partition.groups(*reversed(distinct))


def test_groups_that_are_none_are_refused() -> None:
    with pytest.raises(UsageFailure, match="two groups or more"):
        partition.groups({1, 2})
    with pytest.raises(UsageFailure, match="none of them empty"):
        partition.groups({1, 2}, set())
    with pytest.raises(UsageFailure, match="node-2 is in two groups"):
        partition.groups({1, 2}, {2, 3})


def test_shapes_need_nodes() -> None:
    with pytest.raises(UsageFailure, match="two halves needs 2 nodes or more; there are 1"):
        partition.halves({1})
    with pytest.raises(UsageFailure, match="a bridge needs 3"):
        partition.bridge({1, 2}, 1)


def test_one_way_leaves_the_way_back() -> None:
    assert partition.one_way(1, 2) == {(1, 2)}

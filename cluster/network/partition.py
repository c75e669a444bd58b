"""Shapes of a broken network: pure functions from node numbers to the ordered pairs to cut.

The vocabulary is the one of Jepsen's nemeses. A node "sees" another if frames pass both ways. Ports that are not among
the nodes given (this computer, or a node that joins later) are left alone. Every function sorts its nodes first, so a
shape depends on the set of nodes, not on their order in the call.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations, permutations

from cluster.network.impairment import Pair, both_ways, port_name
from terminal import UsageFailure


def groups(*parts: Collection[int]) -> frozenset[Pair]:
    """Nodes see those of their own group and none of another.

    Raises :class:`UsageFailure` for a node in two groups, an empty or a single group.
    """
    if len(parts) < 2 or not all(parts):
        raise UsageFailure("a partition has two groups or more, none of them empty", hint="--groups 1,2/3")
    seen: set[int] = set()
    for part in parts:
        if twice := seen & set(part):
            raise UsageFailure(f"{port_name(min(twice))} is in two groups of the partition")
        seen |= set(part)
    return frozenset(
        pair
        for one, other in combinations(parts, 2)
        for source in one
        for target in other
        for pair in both_ways(source, target)
    )


def halves(nodes: Collection[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The lower half of the numbers and the upper half, which has the majority if their count is odd.

    Raises :class:`UsageFailure` for a single node.
    """
    ordered = _at_least(2, nodes, "two halves")
    middle = len(ordered) // 2
    return tuple(ordered[:middle]), tuple(ordered[middle:])


def isolated(nodes: Collection[int], node: int) -> frozenset[Pair]:
    """``node`` sees none of ``nodes``, which see each other."""
    return groups([node], [other for other in _at_least(2, nodes, "an isolated node") if other != node])


def bridge(nodes: Collection[int], middle: int) -> frozenset[Pair]:
    """Two halves that do not see each other, and ``middle``, which sees all.

    Raises :class:`UsageFailure` for fewer than three nodes.
    """
    _at_least(3, nodes, "a bridge")
    return groups(*halves([node for node in nodes if node != middle]))


def majority_ring(nodes: Collection[int]) -> frozenset[Pair]:
    """Every node sees a majority (itself counted), and no two the same one: each sees its nearest neighbours in a ring.

    Raises :class:`UsageFailure` for fewer than four nodes: of three, a majority is two, and since nodes see each other
    both ways, one of them would have to see both others. Of an even number or one like 7, a node sees one more than a
    majority needs.
    """
    ring = _at_least(4, nodes, "a majority ring")
    count = len(ring)
    reach = -(-(count // 2) // 2)  # neighbours on each side: half, rounded up, of the majority without oneself
    return frozenset(
        (ring[one], ring[other])
        for one, other in permutations(range(count), 2)
        if min((one - other) % count, (other - one) % count) > reach
    )


def one_way(source: int, target: int) -> frozenset[Pair]:
    """Frames from ``source`` do not reach ``target``; those the other way do."""
    return frozenset({(source, target)})


def _at_least(count: int, nodes: Collection[int], what: str) -> Sequence[int]:
    if len(set(nodes)) < count:
        raise UsageFailure(f"{what} needs {count} nodes or more; there are {len(set(nodes))}")
    return sorted(set(nodes))

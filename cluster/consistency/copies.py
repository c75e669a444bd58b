"""Was there ever more than one copy of something of which there must be only one?

Decided from samples taken on the machines themselves. Pure.

A sample is taken in an interval, and names the *incarnation* of a unit that is active (anything that changes with each
start). Two samples of one incarnation prove that it ran from the end of the first to the begin of the last; one sample
alone proves nothing. Two such runs on two nodes that overlap are two copies, unless one of the nodes is excused for
that time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """``unit`` was active on ``node`` as ``incarnation``, or was not (None).

    That was between ``begin`` and ``end`` (seconds of one clock).
    """

    node: int
    unit: str
    begin: float
    end: float
    incarnation: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """``unit`` was active on ``node`` all the time from ``begin`` to ``end``, proven."""

    node: int
    unit: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Double:
    """Two copies of ``unit``, on ``nodes``, from ``begin`` to ``end``."""

    unit: str
    nodes: tuple[int, int]
    begin: float
    end: float

    def __str__(self) -> str:
        one, other = self.nodes
        return f"{self.unit} ran on node-{one} and node-{other} at once, from {self.begin:.1f} to {self.end:.1f} s"


def runs(samples: Iterable[Sample]) -> list[Run]:
    """What is proven to have run, by unit, node and begin."""
    first: dict[tuple[str, int, str], Sample] = {}
    last: dict[tuple[str, int, str], Sample] = {}
    for sample in samples:
        if sample.incarnation is None:
            continue
        key = (sample.unit, sample.node, sample.incarnation)
        if key not in first or sample.end < first[key].end:
            first[key] = sample
        if key not in last or sample.begin > last[key].begin:
            last[key] = sample
    found = [
        Run(node, unit, first[key].end, last[key].begin)
        for key in first
        for unit, node, _ in [key]
        if first[key].end < last[key].begin
    ]
    return sorted(found, key=lambda run: (run.unit, run.node, run.begin))


def doubles(found: Sequence[Run], excused: Mapping[int, Sequence[Interval]]) -> list[Double]:
    """Where two of the runs ``found`` of one unit overlap, without the times for which a node is ``excused``."""
    kept = [part for run in found for part in _without(run, excused.get(run.node, ()))]
    pairs = (
        Double(one.unit, (one.node, other.node), max(one.begin, other.begin), min(one.end, other.end))
        for number, one in enumerate(kept)
        for other in kept[number + 1 :]
        if one.unit == other.unit and one.node != other.node
    )
    return sorted((pair for pair in pairs if pair.begin < pair.end), key=lambda pair: pair.begin)


def _without(run: Run, excused: Sequence[Interval]) -> list[Run]:
    """The parts of ``run`` that are not in ``excused``."""
    parts = []
    begin = run.begin
    for start, end in sorted(excused):
        if start > begin:
            parts.append(Run(run.node, run.unit, begin, min(start, run.end)))
        begin = max(begin, end)
    parts.append(Run(run.node, run.unit, begin, run.end))
    return [part for part in parts if part.begin < part.end]

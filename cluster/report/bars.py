"""A timeline as lanes: faults as bars from their begin to their end, the rest as points.

Pure; from :mod:`cluster.model.timeline`'s events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.model.timeline import Event

_POWERED = re.compile(r"node-(\d+) (on|off)")


@dataclass(frozen=True, slots=True)
class Bar:
    """A fault; ``end`` is None if it held until the end. ``nodes`` empty means the whole cluster."""

    what: str
    nodes: tuple[int, ...]
    begin: float
    end: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """Something that happened at once: "power", "mark", or a kind of finding."""

    kind: str
    what: str
    nodes: tuple[int, ...]
    at: float


def bars(events: Iterable[Event]) -> list[Bar]:
    """The faults of a timeline, by begin.

    A fault ends with the "heal" of its id. A fault without an id ends with the next heal without id of the same nodes,
    or when all its nodes were switched on again (a power cut).
    """
    found: list[Bar] = []
    by_id: dict[int, int] = {}
    open_ones: dict[int, set[int]] = {}
    """Faults without id, and their nodes that are not switched on yet."""
    for event in events:
        if event.kind == "fault":
            if event.id is not None:
                by_id[event.id] = len(found)
            else:
                open_ones[len(found)] = set(event.nodes)
            found.append(Bar(event.what, event.nodes, event.t, None))
            continue
        over: list[int] = []
        if event.kind == "heal" and event.id is not None:
            over = [by_id.pop(event.id)] if event.id in by_id else []
        elif event.kind == "heal":
            over = [at for at in open_ones if found[at].nodes == event.nodes][-1:]
        elif _is_switched_on(event):
            for at, off in open_ones.items():
                if off & set(event.nodes):
                    off -= set(event.nodes)
                    over += [] if off else [at]
        for at in over:
            open_ones.pop(at, None)
            found[at] = replace(found[at], end=event.t)
    return sorted(found, key=lambda bar: bar.begin)


def points(events: Iterable[Event]) -> list[Point]:
    """What is no fault, and no fault's end."""
    return [Point(event.kind, event.what, event.nodes, event.t) for event in events if event.kind in ("power", "mark")]


def rows(some: Sequence[Bar], end: float) -> list[int]:
    """For each of ``some`` bars, the row in which it overlaps no other; as few rows as can be.

    ``end`` is that of bars that have none.
    """
    free: list[float] = []
    chosen = []
    for bar in some:
        row = next((row for row, until in enumerate(free) if until <= bar.begin), len(free))
        if row == len(free):
            free.append(0.0)
        free[row] = end if bar.end is None else bar.end
        chosen.append(row)
    return chosen


def text(events: Sequence[Event], begin: float) -> str:
    """The timeline for a terminal, in seconds since ``begin``."""
    lines = [f"{event.t - begin:+9.1f} s  {event.kind:5}  {event.what}" for event in events]
    return "\n".join(lines) or "(nothing happened to the cluster)"


def _is_switched_on(event: Event) -> bool:
    powered = _POWERED.match(event.what)
    return event.kind == "power" and powered is not None and powered[2] == "on"

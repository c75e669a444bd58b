"""A timeline as lanes: faults as bars from their begin to their end, the rest as points. Pure; from :mod:`cluster.timeline`'s events."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from cluster.timeline import Event

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
    """The faults of a timeline, by begin. One ends with the "heal" of its id; without an id (a kill, a pause) with the next sign that its node
    is well again: switched on, or resumed."""
    found: list[Bar] = []
    by_id: dict[int, int] = {}
    for event in events:
        if event.kind == "fault":
            if event.id is not None:
                by_id[event.id] = len(found)
            found.append(Bar(event.what, event.nodes, event.t, None))
        elif event.kind == "heal" and event.id is not None:
            if (at := by_id.pop(event.id, None)) is not None:
                found[at] = replace(found[at], end=event.t)
        elif event.kind == "heal" or _is_switched_on(event):
            word = "pause" if event.kind == "heal" else "kill"
            for at, bar in enumerate(found):
                if bar.end is None and bar.nodes == event.nodes and (bar.what.startswith((word, "pause"))):
                    found[at] = replace(bar, end=event.t)
    return sorted(found, key=lambda bar: bar.begin)


def points(events: Iterable[Event]) -> list[Point]:
    """What is no fault, and no fault's end."""
    return [Point(event.kind, event.what, event.nodes, event.t) for event in events if event.kind in ("power", "mark")]


def rows(some: Sequence[Bar], end: float) -> list[int]:
    """For each of ``some`` bars, the row in which it overlaps no other; as few rows as can be. ``end`` is that of bars that have none."""
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

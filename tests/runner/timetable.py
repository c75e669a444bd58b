"""Where the time of a run went: a pure function from what pytest reported to a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.runner.recording import Report
from tests.runner.verdict import Run

IMAGE_FIXTURES: Final = frozenset({"image", "iso", "redis", "redis_archive", "release"})
"""The fixtures of vm-tests/ that build an image or a container, and do nothing else (held by a test)."""

SETUP: Final = "scripts/setup"
START: Final = "pytest: start and collection"
BETWEEN: Final = "pytest: between tests, and the rest"
IMAGES: Final = "images built for vm-tests"
SECOND: Final = "second run"
TOTAL: Final = "total"
HABITS: Final = "tests/test_habits.py (style checks)"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    ``fixtures_s`` and ``bodies_s`` are busy seconds, of all workers together, ``wall_s`` is a share of the whole run.
    """

    phase: str
    tests: int
    fixtures_s: float
    bodies_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class _Stretch:
    phase: str
    begin: float
    seconds: float
    is_body: bool


def rows(first: Run, second: Iterable[Run], began: float, now: float) -> list[Row]:
    """A row for each phase, and the total, which is that of the rows.

    The run began at ``began``, with scripts/setup, and is over ``now`` (seconds since the epoch). ``wall_s`` gives each
    moment in which tests run to the tests that do, in equal parts (with workers there are several), so that all rows
    together are what a clock on the wall says; the last one, ``BETWEEN``, has what no test and nothing else can be
    charged with.
    """
    stretches = [stretch for report in first.recording.reports for stretch in _stretches(report)]
    shares = _shares(stretches)
    busy: dict[tuple[str, bool], float] = defaultdict(float)
    for stretch in stretches:
        busy[stretch.phase, stretch.is_body] += stretch.seconds
    counted: dict[str, set[str]] = defaultdict(set)
    for report in first.recording.reports:
        counted[_phase(report.nodeid)].add(report.nodeid)
    phases = sorted({stretch.phase for stretch in stretches}, key=_order)
    repeated = list(second)
    # What a worker left behind that died has no time of its own.
    start = min((stretch.begin for stretch in stretches if stretch.seconds), default=first.begin + first.seconds)
    table = [
        Row(SETUP, 0, 0.0, 0.0, max(0.0, first.begin - began)),
        Row(START, 0, 0.0, 0.0, max(0.0, start - first.begin)),
        *(Row(phase, len(counted[phase]), busy[phase, False], busy[phase, True], shares[phase]) for phase in phases),
    ]
    if repeated:
        table.append(Row(SECOND, len(repeated), 0.0, 0.0, sum(run.seconds for run in repeated)))
    rest = now - began - sum(row.wall_s for row in table)
    table.append(Row(BETWEEN, 0, 0.0, 0.0, max(0.0, rest)))
    tests = sum(row.tests for row in table if row.phase != SECOND)
    fixtures, bodies = sum(row.fixtures_s for row in table), sum(row.bodies_s for row in table)
    return [*table, Row(TOTAL, tests, fixtures, bodies, sum(row.wall_s for row in table))]


def lines(table: Sequence[Row]) -> list[str]:
    """The table as text: numbers to the right, a dash for nothing, no line for a phase that took none."""
    cells: list[tuple[str, ...]] = [("where the time went", "tests", "set-up s", "bodies s", "wall s")]
    for row in table:
        if row.tests or row.wall_s >= 0.05 or row.phase == TOTAL:
            numbers = (row.fixtures_s, row.bodies_s, row.wall_s)
            cells.append((row.phase, str(row.tests or "-"), *(f"{each:.1f}" if each else "-" for each in numbers)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    text = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for name, *rest in cells
    ]
    machines = [row for row in table if row.phase.startswith("vm-tests/")]
    if machines:
        text.append(
            f"vm-tests: {sum(row.fixtures_s for row in machines):.1f} s to boot, restore and end what they run on,"
            f" {sum(row.bodies_s for row in machines):.1f} s of tests"
        )
    return text


def _phase(nodeid: str) -> str:
    """The room of a test that boots nothing, the module of one that does."""
    folders = nodeid.partition("::")[0].split("/")
    if folders == ["tests", "test_habits.py"]:
        return HABITS
    if folders[0] == "tests":
        return f"tests/{folders[1]}" if len(folders) > 2 else "tests/*.py"
    return "/".join(folders)


def _order(phase: str) -> tuple[int, str]:
    """As the run goes: style checks, rooms, images, machines."""
    return (0 if phase == HABITS else 1 if phase.startswith("tests/") else 2 if phase == IMAGES else 3, phase)


def _stretches(report: Report) -> list[_Stretch]:
    phase, seconds = _phase(report.nodeid), report.seconds
    if report.when == "call":
        return [_Stretch(phase, report.start, seconds, is_body=True)]
    if not phase.startswith("vm-tests/"):
        return [_Stretch(phase, report.start, seconds, is_body=False)]
    images = min(seconds, sum(each for name, each in report.fixtures.items() if name in IMAGE_FIXTURES))
    return [
        *([_Stretch(IMAGES, report.start, images, is_body=False)] if images else []),
        _Stretch(phase, report.start + images, seconds - images, is_body=False),
    ]


def _shares(stretches: Iterable[_Stretch]) -> dict[str, float]:
    """Phase -> its part of the wall's seconds: each moment is parted equally among the stretches that it is in."""
    events = sorted(
        (at, change, stretch.phase)
        for stretch in stretches
        if stretch.seconds
        for at, change in ((stretch.begin, 1), (stretch.begin + stretch.seconds, -1))
    )
    shares: dict[str, float] = defaultdict(float)
    running: dict[str, int] = defaultdict(int)
    before = events[0][0] if events else 0.0
    for at, change, phase in events:
        if (count := sum(running.values())) and at > before:
            for each, times in running.items():
                shares[each] += (at - before) * times / count
        running[phase] += change
        if not running[phase]:
            del running[phase]
        before = at
    return shares

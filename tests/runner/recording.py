"""What a run of pytest reported (tests/runner/plugin.py), as data.

The file has one JSON array a line, ``[kind, ...]``, written as things happen: a run that is killed leaves all that it
knew.

    ["begin"]                        the session has begun: from here on, a file without "end" is a crash
    ["collected", [NODEID, ...]]     what is to be run (of each worker of pytest-xdist: all of it)
    ["broken", NODEID, TEXT]         a file or folder that could not be collected
    ["start", NODEID]                a test begins
    ["report", {...}]                one phase of it: the fields of Report
    ["finish", NODEID]               a test is over
    ["end"]                          the session is over, in whatever way
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

LINES_MAX: Final = 120
"""Of one text: a longer one keeps a third from its beginning and two from its end."""
COLUMNS_MAX: Final = 2000


@dataclass(frozen=True, slots=True)
class Report:
    """One phase (``setup``, ``call``, ``teardown``) of one test, as pytest's ``TestReport`` has it.

    ``start`` is seconds since the epoch. ``fixtures`` are the seconds that the set-up of each took, without what it
    requested itself. ``text`` is the failure and ``sections`` what was captured, (heading, text), both kept of what may
    be shown only, and shortened.
    """

    nodeid: str
    when: str
    outcome: str
    start: float
    seconds: float
    fixtures: Mapping[str, float] = field(default_factory=dict)
    text: str = ""
    sections: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole run. ``began`` and ``ended`` are about pytest's session; ``broken`` maps what could not be collected to
    the reason.
    """

    reports: tuple[Report, ...] = ()
    collected: frozenset[str] = frozenset()
    started: frozenset[str] = frozenset()
    finished: frozenset[str] = frozenset()
    broken: Mapping[str, str] = field(default_factory=dict)
    began: bool = False
    ended: bool = False

    @property
    def failed(self) -> tuple[str, ...]:
        """The tests of which any phase failed, in the order in which they did."""
        return tuple(dict.fromkeys(report.nodeid for report in self.reports if report.outcome == "failed"))

    @property
    def skipped(self) -> frozenset[str]:
        """Those that were skipped and did not fail either."""
        return frozenset(report.nodeid for report in self.reports if report.outcome == "skipped") - set(self.failed)

    @property
    def passed(self) -> frozenset[str]:
        """Those that are over, and all is well with them."""
        return self.finished - set(self.failed) - self.skipped

    @property
    def running(self) -> tuple[str, ...]:
        """Those that began and did not come to an end, sorted."""
        return tuple(sorted(self.started - self.finished - set(self.failed)))

    @property
    def left(self) -> int:
        """How many were to be run and did not begin."""
        return len(self.collected - self.started - set(self.failed))

    def of(self, nodeid: str) -> list[Report]:
        """The phases of one test."""
        return [report for report in self.reports if report.nodeid == nodeid]

    @classmethod
    def together(cls, sessions: Sequence[Recording]) -> Recording:
        """Those of several sessions, which is whole if each of them is."""
        return cls(
            reports=tuple(report for session in sessions for report in session.reports),
            collected=frozenset().union(*(session.collected for session in sessions)),
            started=frozenset().union(*(session.started for session in sessions)),
            finished=frozenset().union(*(session.finished for session in sessions)),
            broken={nodeid: why for session in sessions for nodeid, why in session.broken.items()},
            began=any(session.began for session in sessions),
            ended=all(session.ended for session in sessions),
        )

    @classmethod
    def read(cls, text: str) -> Recording:
        """The recording in ``text``.

        A last line without an end, of a run that was killed while it wrote, is passed over.
        """
        events = [json.loads(line) for line in text.split("\n")[:-1]]

        def named(kind: str) -> frozenset[str]:
            return frozenset(event[1] for event in events if event[0] == kind)

        return cls(
            reports=tuple(_report(event[1]) for event in events if event[0] == "report"),
            collected=frozenset(nodeid for event in events if event[0] == "collected" for nodeid in event[1]),
            started=named("start"),
            finished=named("finish"),
            broken={event[1]: event[2] for event in events if event[0] == "broken"},
            began=["begin"] in events,
            ended=["end"] in events,
        )


def _report(fields: dict[str, Any]) -> Report:
    sections = tuple((heading, text) for heading, text in fields["sections"])
    return Report(**{**fields, "sections": sections})


def line(*event: object) -> str:
    """One event as the file has it. ASCII, so that half a surrogate pair in a test's name does no harm."""
    return json.dumps(event) + "\n"


def shortened(text: str, lines_max: int = LINES_MAX) -> str:
    """``text`` with ``lines_max`` lines at most, one for the number of those left out, none above 2000 characters."""
    lines = text.splitlines()
    if len(lines) > lines_max:
        head = lines_max // 3
        tail = lines_max - head
        lines = [*lines[:head], f"... {len(lines) - lines_max} lines left out ...", *lines[-tail:]]
    return "\n".join(_cut(lines))


def _cut(lines: Iterable[str]) -> Iterable[str]:
    for each in lines:
        yield (
            each
            if len(each) <= COLUMNS_MAX
            else f"{each[:COLUMNS_MAX]} ... {len(each) - COLUMNS_MAX} characters left out"
        )

"""What a test run is worth: pure functions from what the first run and the second one, of its failures, reported,
to an exit code and a text.

Three nouns: a :class:`Run` is one pytest process that has ended; :func:`to_repeat` says which tests get a second one,
or :class:`Why` none does; a :class:`Verdict` is what both make together. docs/flakes.md has it in prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tests.runner.recording import Recording, Report

REPEATED_MAX: Final = 10
"""Failures that get a second run.

So many at once are no chance, and their second runs would take as long as the first.
"""

SEED: Final = re.compile(r"(?:FLOTILLA_SEED|--cluster-seed)=(\d+)")
"""As tests/conftest.py and the plugin for clusters print it."""

PASSED, FAILED, INTERRUPTED = 0, 1, 2
"""pytest's exit codes that mean something here; all others are passed on as they are."""


class Why(Enum):
    """Why nothing is run a second time."""

    NOTHING = "nothing failed"
    STRICT = "--strict: no second run"
    TOO_MANY = f"more than {REPEATED_MAX} tests failed, which is no chance: no second run"
    STOPPED = "the run stopped early (-x, --maxfail) and says nothing of the other tests: no second run"
    BROKEN = "not everything could be collected: no second run"
    CRASHED = "pytest ended without a word, and says nothing of the other tests: no second run"
    INTERRUPTED = "interrupted: no second run"
    OTHER = "pytest did not end as a run of tests does: no second run"


@dataclass(frozen=True, slots=True)
class Run:
    """A pytest process that has ended.

    ``code`` is its exit code, negative for the signal that killed it. ``interrupted`` says that it was ended from
    outside, ``limit_s`` that this was since it took longer. ``output`` is the end of what it printed, where it was
    caught. ``begin`` is in seconds since the epoch.
    """

    recording: Recording
    code: int
    begin: float = 0.0
    seconds: float = 0.0
    interrupted: bool = False
    limit_s: float | None = None
    output: str = ""

    @property
    def crashed(self) -> bool:
        """Whether the session began and did not come to its end, with whatever exit code: its interpreter died, or a
        test left it (``os._exit(0)``).
        """
        recording = self.recording
        return recording.began and (not recording.ended or (self.code == PASSED and bool(recording.running)))

    @property
    def has_tests(self) -> bool:
        """Whether it came as far as a test, or did not get there for what it could not collect."""
        return bool(self.recording.started or self.recording.failed or self.recording.broken)

    @property
    def exit_code(self) -> int:
        """As a shell has it. No process that died, or left something failed, has done well."""
        if self.code < 0:
            return 128 - self.code
        bad = self.crashed or self.recording.failed or self.recording.broken
        return self.code or (FAILED if bad else PASSED)

    def of(self, nodeid: str) -> Outcome:
        """What it, being the second run of this test alone, says of it."""
        recording = self.recording
        if self.limit_s is not None:
            return Outcome.HUNG
        if self.crashed or self.code < 0:
            return Outcome.CRASHED
        if nodeid in recording.failed or recording.broken:
            return Outcome.FAILED
        if nodeid not in recording.started:
            return Outcome.NOT_FOUND
        if nodeid in recording.skipped:
            return Outcome.SKIPPED
        return Outcome.PASSED if self.code == PASSED and nodeid in recording.passed else Outcome.FAILED


def together(sessions: Sequence[Run]) -> Run:
    """Several pytest processes, one after the other, that are one run: whatever is true of one is true of it."""
    last = sessions[-1]
    return Run(
        recording=Recording.together([session.recording for session in sessions]),
        code=max((session.code for session in sessions), key=lambda code: (code < 0, code)),
        begin=sessions[0].begin,
        seconds=last.begin + last.seconds - sessions[0].begin,
        interrupted=any(session.interrupted for session in sessions),
    )


class Outcome(Enum):
    """Of the second run of one test."""

    PASSED = "passed"
    FAILED = "failed again"
    CRASHED = "ended the interpreter"
    HUNG = "did not end"
    SKIPPED = "was skipped, which is not passed"
    NOT_FOUND = "was not found again: its id is another one in each run"


def to_repeat(first: Run, *, strict: bool) -> tuple[tuple[str, ...], Why | None]:
    """The tests that get a second run, each alone; or none, and why."""
    recording = first.recording
    if (first.interrupted and first.code != PASSED) or (first.code == INTERRUPTED and not recording.broken):
        return (), Why.INTERRUPTED
    if first.crashed or first.code < 0:
        return (), Why.CRASHED
    if recording.broken:
        return (), Why.BROKEN
    if first.code not in (PASSED, FAILED):
        return (), Why.OTHER
    if not recording.failed:
        return (), Why.NOTHING if first.code == PASSED else Why.OTHER
    if strict:
        return (), Why.STRICT
    if recording.left:
        return (), Why.STOPPED
    if len(recording.failed) > REPEATED_MAX:
        return (), Why.TOO_MANY
    return recording.failed, None


def seed_of(reports: Iterable[Report]) -> str | None:
    """The seed that the report of a failure says it can be repeated with: what fails by chance is repeated with the
    same chance, or it would be taken for a flake.
    """
    for report in reports:
        for _, text in report.sections:
            if (found := SEED.search(text)) is not None:
                return found[1]
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Both runs together.

    ``second`` has a run for each test that got one; a failed test without one stays failed. ``interrupted``: not all
    that should have had one got it.
    """

    first: Run
    second: Mapping[str, Run]
    why: Why | None
    interrupted: bool = False

    @property
    def flakes(self) -> tuple[str, ...]:
        """Failed first, and passed alone."""
        return tuple(nodeid for nodeid, run in self.second.items() if run.of(nodeid) is Outcome.PASSED)

    @property
    def failed(self) -> tuple[str, ...]:
        """What stays failed: tests, what could not be collected, and what ran when the interpreter died."""
        recording = self.first.recording
        names = [nodeid for nodeid in recording.failed if nodeid not in self.flakes] + list(recording.broken)
        if self.first.crashed and not self.first.interrupted:
            names += recording.running or ("(the interpreter, outside of any test)",)
        return tuple(names)

    @property
    def exit_code(self) -> int:
        """pytest's own, but for a run in which nothing stays failed."""
        if self.interrupted:
            return INTERRUPTED
        if self.why is None and not self.failed:
            return PASSED
        return self.first.exit_code

    @property
    def closing(self) -> str:
        """The last line: ``N passed, N failed`` for what CI reads, or what happened to a run that did not come so far.

        Empty where no test ran: then pytest's own words stay the last.
        """
        if not self.first.has_tests:
            return ""
        passed, skipped = len(self.first.recording.passed) + len(self.flakes), len(self.first.recording.skipped)
        counts = f"{passed} passed, {len(self.failed)} failed" + (f", {skipped} skipped" if skipped else "")
        if self.why is Why.INTERRUPTED or self.interrupted:
            running = f", {len(self.first.recording.running)} broken off" if self.first.recording.running else ""
            return f"interrupted: {counts}{running}, {self.first.recording.left} not run"
        if self.why is Why.OTHER:
            return f"pytest ended with exit code {self.first.code}: {counts}, {self.first.recording.left} not run"
        return counts

    def lines(self) -> list[str]:
        """What is printed before the table: of each flake both outputs, of what failed twice the second (pytest has
        printed the first).
        """
        lines: list[str] = []
        for number, nodeid in enumerate(self.flakes, 1):
            lines += [_rule(f"flake {number} of {len(self.flakes)}"), nodeid]
            lines += ["It failed, and passed when it ran again alone. Fix it, or record it in docs/flakes.md.", ""]
            lines += [*_first(self.first, nodeid), "", *_second(self.second[nodeid], nodeid), ""]
        twice = [nodeid for nodeid in self.second if nodeid not in self.flakes]
        for number, nodeid in enumerate(twice, 1):
            lines += [_rule(f"failed twice: {number} of {len(twice)}"), nodeid, ""]
            lines += [*_second(self.second[nodeid], nodeid), ""]
        return lines

    def summary(self) -> list[str]:
        """The lines between the table and the closing line."""
        lines = [f"flake: {one_line(nodeid)}" for nodeid in self.flakes]
        if self.flakes:
            lines.append(
                f"{len(self.flakes)} {'flake' if len(self.flakes) == 1 else 'flakes'}: failed first, passed alone"
            )
        if self.first.crashed and not self.first.interrupted:
            lines += [f"the interpreter ended in: {one_line(nodeid)}" for nodeid in self.first.recording.running]
        if self.interrupted:
            untried = len(self.first.recording.failed) - len(self.second)
            lines.append(
                f"interrupted in the second run: {untried} of {len(self.first.recording.failed)} stay failed untried"
            )
        elif self.why is not None and self.why not in (
            Why.NOTHING,
            Why.OTHER,
            Why.INTERRUPTED,
        ):  # the closing line says it
            lines.append(self.why.value)
        if self.why in (Why.STOPPED, Why.CRASHED, Why.STRICT) and self.first.recording.left:
            lines.append(f"not run: {self.first.recording.left}")
        return lines


# --- prose -----------------------------------------------------------------------------------------------------------


def _rule(title: str) -> str:
    return f" {title} ".center(80, "=")


def one_line(nodeid: str) -> str:
    return nodeid.encode("unicode_escape").decode("ascii") if not nodeid.isprintable() else nodeid


def _first(run: Run, nodeid: str) -> list[str]:
    reports = run.recording.of(nodeid)
    return [f"the first run failed after {sum(report.seconds for report in reports):.1f} s", *_quoted(_texts(reports))]


def _second(run: Run, nodeid: str) -> list[str]:
    outcome = run.of(nodeid)
    limit = f" within {run.limit_s:.0f} s" if run.limit_s is not None else ""
    code = f", exit code {run.exit_code}" if outcome is not Outcome.PASSED else ""
    words = _texts(run.recording.of(nodeid)) + list(run.recording.broken.values())
    # Where the test did not come to its end, what the process printed may be all that there is.
    if outcome in (Outcome.CRASHED, Outcome.HUNG, Outcome.NOT_FOUND) or (not words and outcome is not Outcome.PASSED):
        words.append(run.output)
    return [
        f"the second run {outcome.value}{limit} after {run.seconds:.1f} s{code}",
        *_quoted(words or ["(it printed nothing)"]),
    ]


def _texts(reports: Iterable[Report]) -> list[str]:
    """The failures, then what was captured; each phase has the captured words of those before it, too."""
    failures: list[str] = []
    sections: dict[str, str] = {}
    for report in reports:
        if report.text and report.outcome != "passed":
            failures.append(f"in {report.when}:\n{report.text}")
        sections.update(report.sections)
    return failures + [f"{heading}:\n{text}" for heading, text in sections.items()]


def _quoted(texts: Iterable[str]) -> list[str]:
    """Each line behind a bar: no line of a test's output can be taken for one of ours, the closing line least of all."""
    return [f"| {each}".rstrip() for text in texts for each in text.splitlines()]

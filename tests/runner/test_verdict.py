"""The decisions, without a process: every way in which a first run ends, and every way in which a second one does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runner.recording import Recording, Report
from tests.runner.verdict import REPEATED_MAX, Outcome, Run, Verdict, Why, to_repeat, together


class Rest(TypedDict, total=False):
    """What a :class:`Recording` has beside reports and the tests that finished."""

    collected: frozenset[str]
    started: frozenset[str]
    broken: Mapping[str, str]
    began: bool
    ended: bool


def recording(passed: int = 0, failed: int = 0, left: int = 0, skipped: int = 0, **more: Unpack[Rest]) -> Recording:
    outcomes = {
        f"{name}{n}": name
        for name, count in (("passed", passed), ("failed", failed), ("skipped", skipped))
        for n in range(count)
    }
    reports = tuple(
        Report(name, "call", outcome, 0.0, 1.0, text="why" if outcome == "failed" else "")
        for name, outcome in outcomes.items()
    )
    over = frozenset(outcomes)
    whole: Rest = {
        "collected": over | {f"left{n}" for n in range(left)},
        "started": over,
        "began": True,
        "ended": True,
        **more,
    }
    return Recording(reports, finished=over, **whole)


def verdict(first: Run, second: dict[str, Run] | None = None, strict: bool = False) -> Verdict:
    return Verdict(first, second or {}, to_repeat(first, strict=strict)[1])


GOOD = recording(passed=1)


@pytest.mark.parametrize(
    ("first", "why", "code", "closing"),
    [
        (Run(recording(passed=3, skipped=1), 0), Why.NOTHING, 0, "3 passed, 0 failed, 1 skipped"),
        (Run(recording(passed=3, failed=1), 1), None, 1, "3 passed, 1 failed"),
        (Run(recording(failed=REPEATED_MAX), 1), None, 1, "0 passed, 10 failed"),
        (Run(recording(failed=REPEATED_MAX + 1), 1), Why.TOO_MANY, 1, "0 passed, 11 failed"),
        (Run(recording(failed=1, left=2), 1), Why.STOPPED, 1, "0 passed, 1 failed"),
        (Run(recording(passed=1, broken={"file": "why"}), 2), Why.BROKEN, 2, "1 passed, 1 failed"),
        (Run(recording(passed=1, failed=1, broken={"file": "why"}), 1), Why.BROKEN, 1, "1 passed, 2 failed"),
        (Run(recording(passed=1, left=1), 2), Why.INTERRUPTED, 2, "interrupted: 1 passed, 0 failed, 1 not run"),
        (Run(recording(passed=1, failed=1), 1, interrupted=True), Why.INTERRUPTED, 1, "interrupted: 1 passed, 1 failed, 0 not run"),
        # A signal that came when all was over changes nothing.
        (Run(GOOD, 0, interrupted=True), Why.NOTHING, 0, "1 passed, 0 failed"),
        (Run(recording(passed=1, left=1, ended=False), -15, interrupted=True), Why.INTERRUPTED, 143, "interrupted: 1 passed, 0 failed, 1 not run"),
        (Run(recording(passed=1, ended=False), -11), Why.CRASHED, 139, "1 passed, 1 failed"),
        (Run(recording(passed=1, ended=False), 0), Why.CRASHED, 1, "1 passed, 1 failed"),
        # pytest.exit(returncode=0) in a test.
        (Run(recording(passed=1, started=frozenset({"passed0", "exits"})), 0), Why.CRASHED, 1, "1 passed, 1 failed"),
        (Run(recording(passed=1, left=1), 3), Why.OTHER, 3, "pytest ended with exit code 3: 1 passed, 0 failed, 1 not run"),
        # Something else than a test said that the run has failed.
        (Run(GOOD, 1), Why.OTHER, 1, "pytest ended with exit code 1: 1 passed, 0 failed, 0 not run"),
        (Run(GOOD, 6), Why.OTHER, 6, "pytest ended with exit code 6: 1 passed, 0 failed, 0 not run"),
        (Run(recording(), 5), Why.OTHER, 5, ""),
        (Run(Recording(), 4), Why.OTHER, 4, ""),
        (Run(Recording(), 0), Why.NOTHING, 0, ""),
    ],
)  # fmt: skip
def test_how_a_first_run_ends(first: Run, why: Why | None, code: int, closing: str) -> None:
    names, reason = to_repeat(first, strict=False)
    assert reason is why
    assert bool(names) is (why is None)
    assert (verdict(first).exit_code, verdict(first).closing) == (code, closing)


def test_strict_repeats_nothing() -> None:
    assert to_repeat(Run(recording(failed=1), 1), strict=True) == ((), Why.STRICT)
    assert to_repeat(Run(GOOD, 0), strict=True) == ((), Why.NOTHING)


ONE = frozenset({"failed0"})


def alone(outcome: str) -> Recording:
    """A whole second run of that test."""
    return Recording((Report("failed0", "setup", outcome, 0.0, 1.0),), ONE, ONE, ONE, began=True, ended=True)


PASSED = alone("passed")


@pytest.mark.parametrize(
    ("second", "outcome"),
    [
        (Run(PASSED, 0), Outcome.PASSED),
        (Run(PASSED, 1), Outcome.FAILED),
        (Run(PASSED, -9), Outcome.CRASHED),
        (Run(PASSED, 0, limit_s=900), Outcome.HUNG),
        (Run(recording(failed=1), 1), Outcome.FAILED),
        (Run(recording(failed=1), 0), Outcome.FAILED),
        (Run(recording(broken={"file": "why"}), 2), Outcome.FAILED),
        (Run(recording(), 5), Outcome.NOT_FOUND),
        (Run(GOOD, 0), Outcome.NOT_FOUND),
        (Run(Recording(), 4), Outcome.NOT_FOUND),
        (Run(Recording(began=True, started=ONE), 0), Outcome.CRASHED),
        (Run(alone("skipped"), 0), Outcome.SKIPPED),
    ],
)  # fmt: skip
def test_only_what_passed_in_every_way_is_a_flake(second: Run, outcome: Outcome) -> None:
    assert second.of("failed0") is outcome
    first = Run(recording(passed=1, failed=1), 1)
    whole = verdict(first, {"failed0": second})
    good = outcome is Outcome.PASSED
    assert (whole.exit_code, whole.closing) == ((0, "2 passed, 0 failed") if good else (1, "1 passed, 1 failed"))
    assert any("flake 1 of 1" in line for line in whole.lines()) is good
    assert any("failed twice: 1 of 1" in line for line in whole.lines()) is not good


def test_a_second_run_without_a_word_is_reported_by_what_it_printed() -> None:
    first = Run(recording(failed=1), 1)
    hung = Run(Recording(began=True), -15, seconds=901, limit_s=900, output="the last\n3 passed, 0 failed")
    lines = verdict(first, {"failed0": hung}).lines()
    assert "the second run did not end within 900 s after 901.0 s, exit code 143" in lines
    assert lines[-3:] == ["| the last", "| 3 passed, 0 failed", ""]


def test_an_interrupt_among_the_second_runs_forgives_nothing_that_was_not_tried() -> None:
    first = Run(recording(passed=1, failed=2), 1)
    whole = Verdict(first, {"failed0": Run(PASSED, 0)}, None, interrupted=True)
    assert whole.exit_code == 2
    assert whole.closing == "interrupted: 2 passed, 1 failed, 0 not run"
    assert "interrupted in the second run: 1 of 2 stay failed untried" in whole.summary()


runs = st.builds(
    Run,
    st.builds(
        recording,
        st.integers(0, 3),
        st.integers(0, 12),
        st.integers(0, 2),
        broken=st.sampled_from([{}, {"file": "why"}]),
        began=st.booleans(),
        ended=st.booleans(),
    ),
    st.sampled_from([-15, -9, 0, 1, 2, 3, 4, 5, 6, 70]),
    interrupted=st.booleans(),
)


@given(runs, st.booleans(), st.data())
def test_no_run_passes_that_has_something_failed(first: Run, strict: bool, data: st.DataObject) -> None:
    names, why = to_repeat(first, strict=strict)
    second = {name: data.draw(st.sampled_from([Run(PASSED, 0), Run(recording(failed=1), 1)])) for name in names}
    whole = Verdict(first, second, why)
    if whole.exit_code == 0:
        assert whole.failed == ()
        assert whole.first.code in (0, 1)
        assert "failed" not in whole.closing or ", 0 failed" in whole.closing
    if first.code not in (0, 1):
        assert whole.exit_code == (first.code if first.code > 0 else 128 - first.code)
    assert all(line.isprintable() for line in whole.summary())


# --- several sessions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codes", "code", "closing"),
    [
        ((0, 0), 0, "4 passed, 0 failed"),
        ((0, 1), 1, "3 passed, 1 failed"),
        ((1, 0), 1, "3 passed, 1 failed"),
        ((0, -9), 137, "3 passed, 1 failed"),
    ],
)
def test_a_run_of_two_sessions_is_as_good_as_the_worse_one(codes: tuple[int, int], code: int, closing: str) -> None:
    """Of two tests each; the bad session has one that fails, or dies in it."""
    runs = []
    for number, each in enumerate(codes):
        one = recording(passed=2 if each == 0 else 1, failed=1 if each == 1 else 0, ended=each >= 0)
        names = {name: f"{number}/{name}" for name in one.collected}
        reports = tuple(Report(names[report.nodeid], "call", report.outcome, 0.0, 1.0) for report in one.reports)
        dying = frozenset({f"{number}/dying"} if each < 0 else ())
        over = frozenset(names.values())
        runs.append(
            Run(Recording(reports, over | dying, over | dying, over, {}, True, each >= 0), each, float(number), 1.0)
        )
    whole = together(runs)
    assert (whole.begin, whole.seconds) == (0.0, 2.0)
    found = Verdict(whole, {}, Why.STRICT)
    assert (found.exit_code, found.closing) == (code, closing)

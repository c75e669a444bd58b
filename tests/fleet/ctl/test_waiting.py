"""Waiting, with a clock of its own: what is printed and when, and when hope is given up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fleet.ctl.client import UnitRecord
from fleet.ctl.waiting import Look, Outcome, Running, Verdict, judge_state, wait
from fleet.model.entities import UnitState
from terminal import Failure
from unitfile.text import UnitFile

A = "a" * 32


class Clock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0
        self.told: list[tuple[float, str]] = []
        self.done: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, *scripts: Sequence[tuple[float, Verdict]], attempts: int = 0) -> None:
        """Each script says from which second on a unit looks how."""

        def look_of(script: Sequence[tuple[float, Verdict]]) -> Look:
            return lambda seconds: [verdict for since, verdict in script if since <= seconds][-1]

        wait(
            {f"u{number}": look_of(script) for number, script in enumerate(scripts)},
            attempts=attempts,
            tell=lambda text: self.told.append((self.now - 100, text)),
            done=lambda name, text: self.done.append(f"{name} {text}"),
            clock=lambda: self.now,
            sleep=self.sleep,
        )


def pending(text: str) -> Verdict:
    return Verdict(Outcome.PENDING, text)


def test_what_is_over_at_once_is_not_told() -> None:
    clock = Clock()
    clock.wait([(0, pending("placing")), (0.8, Verdict(Outcome.DONE, "up"))])
    assert (clock.told, clock.done) == ([], ["u0 up"])


def test_a_condition_is_told_once_until_it_changes() -> None:
    clock = Clock()
    clock.wait([(0, pending("placing")), (30, pending("starting")), (60, Verdict(Outcome.DONE, "up"))])
    assert [text for _, text in clock.told] == ["placing", "starting"]
    assert 1 <= clock.told[0][0] < 2
    assert 30 <= clock.told[1][0] < 31.1


def test_attempts_are_two_seconds_each() -> None:
    clock = Clock()
    with pytest.raises(Failure) as caught:
        clock.wait([(0, pending("waiting for u0"))], [(0, Verdict(Outcome.DONE, "up"))], attempts=3)
    assert caught.value.message == "gave up after 6 s, waiting for u0"
    assert clock.now == pytest.approx(106)
    assert clock.done == ["u1 up"]


def test_a_failure_ends_the_wait_for_that_unit_only() -> None:
    clock = Clock()
    with pytest.raises(Failure) as caught:
        clock.wait(
            [(0, Verdict(Outcome.FAILED, "u0 is broken", "look at it"))],
            [(5, Verdict(Outcome.DONE, "up")), (0, pending("x"))][::-1],
        )
    assert (caught.value.message, caught.value.hint) == ("u0 is broken", "look at it")
    assert clock.done == ["u1 up"]


def record(desired: str, current: str, machine: str = A, reason: str = "") -> UnitRecord:
    return UnitRecord("x.service", UnitFile(()), desired, current, machine, reason)


class TestJudgeState:
    @pytest.mark.parametrize(
        ("unit", "error", "seconds", "outcome", "text"),
        [
            (record("launched", "launched"), "", 0, Outcome.DONE, ""),
            (record("launched", "loaded"), "", 0, Outcome.PENDING, "it is loaded"),
            (record("launched", "inactive", ""), "", 0, Outcome.PENDING, "no machine was chosen yet"),
            (record("launched", "inactive", "", "none has disk=ssd"), "", 0, Outcome.PENDING, "none has disk=ssd"),
            (record("inactive", "inactive"), "", 0, Outcome.FAILED, "somebody else asked"),
            (record("launched", "loaded"), "cannot write", 1, Outcome.PENDING, "cannot write"),
            (record("launched", "loaded"), "cannot write", 10, Outcome.FAILED, "cannot write"),
            (None, "", 0, Outcome.FAILED, "destroyed meanwhile"),
        ],
    )
    def test_verdict(self, unit: UnitRecord | None, error: str, seconds: float, outcome: Outcome, text: str) -> None:
        states = [UnitState("x.service", A, error=error)]
        verdict = judge_state("x.service", unit, states, "launched", seconds)
        assert verdict.outcome is outcome
        assert text in verdict.text


class TestRunning:
    @pytest.mark.parametrize(
        ("looks", "outcome"),
        [
            ([("active", 0)], Outcome.DONE),
            ([("reloading", 0)], Outcome.DONE),
            ([("activating", 0)], Outcome.PENDING),
            ([("activating", 3600)], Outcome.PENDING),
            ([("failed", 0)], Outcome.FAILED),
            ([("inactive", 1)], Outcome.PENDING),  # its start job may not have begun
            ([("inactive", 10)], Outcome.DONE),  # it ran between two looks, or a condition was not met
            ([("activating", 0), ("inactive", 1)], Outcome.DONE),  # a oneshot
            ([("deactivating", 0)], Outcome.PENDING),
        ],
    )
    def test_verdict(self, looks: list[tuple[str, float]], outcome: Outcome) -> None:
        running = Running("x.service")
        verdict = Verdict(Outcome.PENDING)
        for active, seconds in looks:
            state = UnitState("x.service", A, "loaded", active, "sub")
            verdict = running.judge(record("launched", "launched"), [state], seconds)
        assert verdict.outcome is outcome

    def test_what_another_machine_says_does_not_count(self) -> None:
        state = UnitState("x.service", "b" * 32, "loaded", "failed", "failed")
        assert Running("x.service").judge(record("launched", "launched"), [state], 60).outcome is Outcome.PENDING

    def test_a_unit_that_systemd_cannot_load(self) -> None:
        state = UnitState("x.service", A, "bad-setting", "inactive", "dead")
        verdict = Running("x.service").judge(record("launched", "launched"), [state], 0)
        assert verdict.outcome is Outcome.FAILED
        assert "bad-setting" in verdict.text

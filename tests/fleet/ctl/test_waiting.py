"""Waiting, with a clock of its own: what is printed and when, and when hope is given up."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

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
        self.reported: list[tuple[float, str]] = []
        self.done: list[str] = []
        self.troubles: list[tuple[float, float]] = []  # from which second to which
        self.read: list[int] = []  # how many units, round after round

    def refresh(self, names: Collection[str]) -> str:
        self.read.append(len(names))
        return "no leader" if any(begin <= self.now - 100 < end for begin, end in self.troubles) else ""

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, *scripts: Sequence[tuple[float, Verdict]], attempts: int = 0) -> None:
        """Each script says from which second on a unit looks how."""

        def look_of(script: Sequence[tuple[float, Verdict]]) -> Look:
            return lambda seconds: [verdict for since, verdict in script if since <= seconds][-1]

        wait(
            {f"u{number}": look_of(script) for number, script in enumerate(scripts)},
            refresh=self.refresh,
            attempts=attempts,
            report=lambda text: self.reported.append((self.now - 100, text)),
            done=lambda name, text: self.done.append(f"{name} {text}"),
            clock=lambda: self.now,
            sleep=self.sleep,
        )


def pending(text: str) -> Verdict:
    return Verdict(Outcome.PENDING, text)


def test_what_is_over_at_once_is_not_reported() -> None:
    clock = Clock()
    clock.wait([(0, pending("placing")), (0.8, Verdict(Outcome.DONE, "up"))])
    assert (clock.reported, clock.done) == ([], ["u0 up"])


def test_a_condition_is_reported_once_until_it_changes() -> None:
    clock = Clock()
    clock.wait([(0, pending("placing")), (30, pending("starting")), (60, Verdict(Outcome.DONE, "up"))])
    assert [text for _, text in clock.reported] == ["placing", "starting"]
    assert 1 <= clock.reported[0][0] < 2
    assert 30 <= clock.reported[1][0] < 31.1


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


def test_trouble_of_the_cluster_is_reported_once_and_waited_for() -> None:
    clock = Clock()
    clock.troubles = [(5, 40), (50, 60)]
    clock.wait([(0, pending("starting")), (30, Verdict(Outcome.DONE, "up"))])
    assert [text for _, text in clock.reported] == ["starting", "no leader"]
    assert clock.now >= 140
    clock = Clock()
    clock.troubles = [(0, 1000)]
    with pytest.raises(Failure, match="gave up after 6 s, no leader"):
        clock.wait([(0, Verdict(Outcome.DONE, "up"))], attempts=3)


def test_all_are_read_at_once_and_only_those_that_are_waited_for() -> None:
    clock = Clock()
    clock.wait(*[[(0, pending("x")), (second, Verdict(Outcome.DONE, "up"))] for second in (0.5, 3, 3)])
    assert clock.read[0] == 3
    assert clock.read[-1] == 2


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
            (record("inactive", "inactive"), "", 0, Outcome.FAILED, "another client has set unit"),
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

    @pytest.mark.parametrize(
        ("state", "outcome", "text"),
        [
            ({"start": "starting", "active": "failed"}, Outcome.PENDING, "it is failed"),  # of the last time
            ({"start": "starting", "active": "inactive"}, Outcome.PENDING, "it is inactive"),  # it waits for others
            ({"start": "done", "active": "inactive"}, Outcome.DONE, "has finished"),
            (
                {"start": "done", "active": "inactive", "note": "it was skipped: X"},
                Outcome.DONE,
                "has finished: it is inactive (sub), it was skipped: X",
            ),
            ({"start": "failed", "active": "failed", "note": "203/EXEC"}, Outcome.FAILED, "failed (sub): 203/EXEC"),
            ({"start": "failed", "active": "activating", "note": "203/EXEC"}, Outcome.PENDING, "203/EXEC"),  # Restart=
            ({"start": "failed", "active": "inactive", "error": "refused"}, Outcome.REFUSED, "refused"),
            ({"start": "dependency", "active": "inactive", "error": "y failed"}, Outcome.REFUSED, "y failed"),
            ({"start": "canceled", "active": "inactive", "note": "cancelled"}, Outcome.FAILED, "cancelled"),
            ({"start": "canceled", "active": "active"}, Outcome.DONE, ""),  # and then started by hand
        ],
    )
    @pytest.mark.parametrize("seconds", [0, 3600])
    def test_the_result_of_the_start_decides(
        self, state: dict[str, Any], outcome: Outcome, text: str, seconds: float
    ) -> None:
        """Whenever one looks."""
        said = UnitState("x.service", A, "loaded", sub="sub", **state)
        unit = UnitRecord("x.service", UnitFile.parse("[Service]\nType=notify\n"), "launched", "launched", A, "")
        verdict = Running("x.service").judge(unit, [said], seconds)
        assert verdict.outcome is outcome
        assert text in verdict.text

    def test_a_start_that_is_tried_again_is_still_refused(self) -> None:
        running = Running("x.service")
        unit = record("launched", "launched")
        assert running.judge(unit, [UnitState("x.service", A, start="starting")], 0).outcome is Outcome.PENDING
        refused = UnitState("x.service", A, "loaded", "inactive", "dead", start="assert", error="no")
        verdict = running.judge(unit, [refused], 1)
        assert running.judge(unit, [UnitState("x.service", A, start="starting")], 2) == verdict
        assert running.judge(unit, [UnitState("x.service", A, active="active", start="done")], 3) != verdict

    def test_another_client_stops_it_meanwhile(self) -> None:
        state = UnitState("x.service", A, "loaded", "failed", "failed", start="canceled")
        verdict = Running("x.service").judge(record("loaded", "launched"), [state], 1)
        assert (verdict.outcome, verdict.text.partition(" has ")[0]) == (Outcome.FAILED, "another client")

    def test_the_last_lines_are_in_the_message(self) -> None:
        state = UnitState("x.service", A, "loaded", "failed", "failed", start="failed", note="203", log=("one", "two"))
        verdict = Running("x.service").judge(record("launched", "launched"), [state], 0)
        assert verdict.text == "unit x.service is failed (failed): 203\n    one\n    two"
        assert verdict.hint == "see: fleetctl journal x.service; correct it, then: fleetctl restart x.service"

    @pytest.mark.parametrize(
        ("text", "is_simple"),
        [
            ("[Service]\nExecStart=/bin/x\n", True),
            ("[Service]\nType=notify\nType=simple\n", True),
            ("[Service]\nType=notify\n", False),
            ("[Service]\nBusName=x.y\n", False),
        ],
    )
    def test_a_process_that_exists_is_not_yet_a_program_that_runs(self, text: str, is_simple: bool) -> None:
        unit = UnitRecord("x.service", UnitFile.parse(text), "launched", "launched", A, "")
        up = UnitState("x.service", A, "loaded", "active", "running", start="done")
        down = UnitState("x.service", A, "loaded", "activating", "auto-restart", start="done")
        running = Running("x.service")
        first = running.judge(unit, [up], 5)
        assert first.outcome is (Outcome.PENDING if is_simple else Outcome.DONE)
        assert running.judge(unit, [down], 5.5).outcome is Outcome.PENDING
        assert running.judge(unit, [up], 6).outcome is (Outcome.PENDING if is_simple else Outcome.DONE)
        assert running.judge(unit, [up], 7).outcome is Outcome.DONE


class TestRefused:
    def refused(self) -> Verdict:
        return Verdict(Outcome.REFUSED, "refused", "why")

    def test_it_fails_when_it_stays_so(self) -> None:
        clock = Clock()
        with pytest.raises(Failure) as caught:
            clock.wait([(0, self.refused())])
        assert (caught.value.message, caught.value.hint) == ("refused", "why")
        assert 103 <= clock.now < 105

    def test_another_unit_may_bring_what_it_lacks(self) -> None:
        clock = Clock()
        clock.wait(
            [(0, self.refused()), (61, Verdict(Outcome.DONE, "up"))],
            [(0, pending("loading")), (60, Verdict(Outcome.DONE, "up"))],
        )
        assert clock.done == ["u1 up", "u0 up"]

    def test_two_that_are_refused_do_not_wait_for_each_other(self) -> None:
        clock = Clock()
        with pytest.raises(Failure):
            clock.wait([(0, self.refused())], [(0, self.refused())])
        assert clock.now < 106

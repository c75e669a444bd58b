"""Waits until the cluster has done what a command requests, and shows meanwhile what it waits for.

Two pure functions each judge one reading of the cluster: has the unit reached the requested state
(:func:`judge_state`), and does systemd run it (:class:`Running`)? :func:`wait` reads repeatedly, prints a condition
when it changes, and ends early when the request can no longer succeed.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from fleet.ctl.client import UnitRecord
from fleet.model.entities import RUNNING, STARTING, Machine, UnitState
from terminal import Failure

ATTEMPT_S = 2.0
"""Seconds of one attempt, the unit of ``--block-attempts``."""

POLL_S = 0.25
POLL_MAX_S = 1.0

QUIET_S = 1.0
"""Seconds at the beginning of a wait in which no condition is printed: waits that end by then need no line."""

SETTLED_S = 10.0
"""Seconds after which a launched unit that is still inactive counts as finished (or skipped by a condition of its own),
and an agent's error with a unit counts as permanent."""

REFUSED_S = 3.0
"""Seconds that a unit must be refused before that counts: what it lacks may be on its way, in the same command."""

STEADY_S = 0.7
"""Seconds that a unit must run whose start says nothing about its program. An agent writes a change of state within
half a second."""


class Outcome(enum.Enum):
    """The result of one check."""

    DONE = enum.auto()
    PENDING = enum.auto()
    FAILED = enum.auto()
    REFUSED = enum.auto()  # it is tried again, and may succeed with another unit's help


@dataclass(frozen=True, slots=True)
class Verdict:
    """``text``: when pending, the condition that is not met.

    When done, a line to print ("" for none); when failed, why.

    ``hint`` belongs to a failure.
    """

    outcome: Outcome
    text: str = ""
    hint: str | None = None


Look = Callable[[float], Verdict]
"""Checks one unit; its argument is the seconds since the wait began."""


def judge_state(
    name: str, record: UnitRecord | None, states: Sequence[UnitState], wanted: str, seconds: float
) -> Verdict:
    """Whether a unit has reached ``wanted``: inactive, loaded or launched."""
    if record is None:
        return Verdict(Outcome.FAILED, f"unit {name} was destroyed meanwhile")
    if record.current == wanted:
        return Verdict(Outcome.DONE)
    if record.desired != wanted:
        return _taken_over(name, record)
    error = next((each.error for each in states if each.machine == record.machine and each.error), "")
    if error and seconds >= SETTLED_S:
        return Verdict(Outcome.FAILED, f"unit {name} cannot be {wanted}: {error}", f"see: fleetctl status {name}")
    if error:
        reason = error
    elif wanted != "inactive" and not record.machine:
        reason = record.reason or "no machine was chosen yet"
    else:
        reason = f"it is {record.current or 'not known yet'}"
    return Verdict(Outcome.PENDING, f"waiting for unit {name} to be {wanted}: {reason}")


class Running:
    """Whether systemd runs a launched unit: the result of its start job decides, and how the unit is after the job.

    It has a memory, of since when the unit runs: a service of ``Type=simple`` counts as started as soon as its process
    exists, before it is known whether its program does. An agent of an earlier version reports no result; there a unit
    that was seen to start and is inactive now has finished.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = False
        self._active_since: float | None = None
        self._refusal: Verdict | None = None  # of the last start that has ended

    def judge(self, record: UnitRecord | None, states: Sequence[UnitState], seconds: float) -> Verdict:
        """Check the unit ``seconds`` after it was launched."""
        name = self._name
        if record is None:
            return Verdict(Outcome.FAILED, f"unit {name} was destroyed meanwhile")
        if record.desired != "launched":
            return _taken_over(name, record)
        state = next((each for each in states if each.machine == record.machine), None)
        if state is None:
            return Verdict(
                Outcome.PENDING, f"waiting for unit {name} to run: its machine has not said anything about it"
            )
        if state.start == STARTING:
            return self._refusal or self._pending(state)
        self._refusal = None
        if state.load not in ("loaded", ""):
            why = state.error or f"systemd says that it is {state.load}"
            return Verdict(Outcome.FAILED, f"unit {name} cannot be started: {why}", f"see: fleetctl status {name}")
        if state.active in RUNNING:
            if self._active_since is None:
                self._active_since = seconds
            if state.start and is_simple(record) and seconds - self._active_since < STEADY_S:
                return Verdict(Outcome.PENDING, f"unit {name} runs; waiting to see whether it keeps running")
            return Verdict(Outcome.DONE)
        self._active_since = None
        match state.active:
            case "failed":
                return self._failed(
                    f"unit {name} is {_described(state)}", state, f"correct it, then: fleetctl restart {name}"
                )
            case "activating" | "deactivating":
                self._started = self._started or state.active == "activating"
                return self._pending(state)
        if state.error and (state.start or seconds >= SETTLED_S):
            hint = "its machine goes on trying"
            self._refusal = self._failed(f"unit {name} cannot be started", state, hint, Outcome.REFUSED)
            return self._refusal
        if state.start == "canceled":
            return self._failed(
                f"unit {name} is {_described(state)}", state, f"start it again: fleetctl restart {name}"
            )
        if state.start or self._started:
            note = f", {state.note}" if state.note else ""
            return Verdict(Outcome.DONE, f"Unit {name} has finished: it is {_described(state)}{note}")
        if seconds >= SETTLED_S:
            return Verdict(Outcome.DONE, f"Unit {name} has finished or was skipped: it is {_described(state)}")
        return self._pending(state)

    def _pending(self, state: UnitState) -> Verdict:
        why = state.error or _described(state) + (f", {state.note}" if state.note else "")
        return Verdict(Outcome.PENDING, f"waiting for unit {self._name} to run: it is {why}")

    def _failed(self, what: str, state: UnitState, hint: str, outcome: Outcome = Outcome.FAILED) -> Verdict:
        why = state.error or state.note
        text = "\n".join([f"{what}: {why}" if why else what, *(f"    {line}" for line in state.log)])
        return Verdict(outcome, text, f"see: fleetctl journal {self._name}; {hint}")


def _taken_over(name: str, record: UnitRecord) -> Verdict:
    return Verdict(Outcome.FAILED, f"another client has set unit {name} to {record.desired} meanwhile")


def is_simple(record: UnitRecord) -> bool:
    """Whether systemd takes the unit for started as soon as its process exists (systemd.service(5), ``Type=``)."""
    if not record.name.endswith(".service"):
        return False
    given = record.unitfile.get("Service", "Type")[-1:]
    return given in ((), ("",), ("simple",), ("idle",)) and not record.unitfile.get("Service", "BusName")


def _described(state: UnitState) -> str:
    return f"{state.active or 'unknown'} ({state.sub or 'unknown'})"


def wait(
    looks: dict[str, Look],
    *,
    refresh: Callable[[Collection[str]], str],
    attempts: int,
    report: Callable[[str], None],
    done: Callable[[str, str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Check each unit of ``looks`` until all are done; ``done(name, text)`` is called as each of them is.

    Before each round ``refresh`` reads those that are still waited for, all at once; it returns what keeps the cluster
    from answering ("" for nothing), which is a condition of all of them. ``attempts`` times two seconds is how long (0:
    for ever). A condition that changes goes to ``report``. Raises :class:`Failure` with all conditions
    that were not met, after all other units were waited for. A unit that is refused fails when it stays so and all
    others are done.
    """
    begin = clock()
    pause = POLL_S
    pending = dict.fromkeys(looks, "")
    reported = dict.fromkeys(looks, "")
    reported_trouble = ""
    failed: list[Verdict] = []
    refused: dict[str, float] = {}  # since when
    while pending:
        trouble = refresh(list(pending))
        if trouble and trouble != reported_trouble:
            report(trouble)
        reported_trouble = trouble
        for name in [] if trouble else list(pending):
            now = clock()
            verdict = looks[name](now - begin)
            if verdict.outcome is Outcome.REFUSED:
                since = refused.setdefault(name, now)
                # As long as another unit is on its way, this one may be waiting for it.
                if now - since < REFUSED_S or pending.keys() - refused.keys():
                    verdict = Verdict(Outcome.PENDING, verdict.text.partition("\n")[0])
            else:
                refused.pop(name, None)
            if verdict.outcome is Outcome.PENDING:
                pending[name] = verdict.text
                if verdict.text != reported[name] and now - begin >= QUIET_S:
                    reported[name] = verdict.text
                    report(verdict.text)
                continue
            del pending[name]
            if verdict.outcome is Outcome.DONE:
                done(name, verdict.text)
            else:
                failed.append(verdict)
        if not pending:
            break
        left = attempts * ATTEMPT_S - (clock() - begin) if attempts else pause
        if left <= 0:
            failed.extend(
                Verdict(
                    Outcome.FAILED,
                    f"gave up after {attempts * ATTEMPT_S:g} s, {trouble or text}",
                    f"ask: fleetctl why {name}",
                )
                for name, text in pending.items()
            )
            break
        sleep(min(pause, left))
        pause = min(pause * 1.2, POLL_MAX_S)
    if failed:
        raise Failure("\n  ".join(each.text for each in failed), hint="\n      ".join(_hints(failed)) or None)


def machine_cell(machine: Machine, *, full: bool = False) -> str:
    """A machine in a table: its id, cut short unless ``full``, and its address when it has one."""
    short = machine.id if full or len(machine.id) <= 8 else machine.id[:8] + "..."
    return f"{short}/{machine.ip}" if machine.ip else short


def _hints(failed: Sequence[Verdict]) -> list[str]:
    return list(dict.fromkeys(each.hint for each in failed if each.hint))

"""Waits until the cluster has done what a command requests, and shows meanwhile what it waits for.

Two pure functions each judge one reading of the cluster: has the unit reached the requested state
(:func:`judge_state`), and does systemd run it (:class:`Running`)? :func:`wait` reads repeatedly, prints a condition
when it changes, and ends early when the request can no longer succeed.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fleet.ctl.client import ApiError, UnitRecord
from fleet.model.entities import Machine, UnitState
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


class Outcome(enum.Enum):
    """The result of one check."""

    DONE = enum.auto()
    PENDING = enum.auto()
    FAILED = enum.auto()


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
        return Verdict(Outcome.FAILED, f"somebody else asked for unit {name} to be {record.desired} meanwhile")
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
    """Whether systemd runs a launched unit.

    It has a memory: a unit that was seen to start and is inactive now has finished."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = False

    def judge(self, record: UnitRecord | None, states: Sequence[UnitState], seconds: float) -> Verdict:
        """Check the unit ``seconds`` after it was launched."""
        name = self._name
        if record is None:
            return Verdict(Outcome.FAILED, f"unit {name} was destroyed meanwhile")
        state = next((each for each in states if each.machine == record.machine), None)
        if state is None:
            return Verdict(
                Outcome.PENDING, f"waiting for unit {name} to run: its machine has not said anything about it"
            )
        told = f"{state.active or 'unknown'} ({state.sub or 'unknown'})"
        if state.load not in ("loaded", ""):
            why = state.error or f"systemd says that it is {state.load}"
            return Verdict(Outcome.FAILED, f"unit {name} cannot be started: {why}", f"see: fleetctl status {name}")
        match state.active:
            case "active" | "reloading":
                return Verdict(Outcome.DONE)
            case "failed":
                why = f": {state.error}" if state.error else ""
                return Verdict(Outcome.FAILED, f"unit {name} is {told}{why}", f"see: fleetctl journal {name}")
            case "activating":
                self._started = True
            case _ if self._started:
                return Verdict(Outcome.DONE, f"Unit {name} has finished: it is {told}")
            case _ if seconds >= SETTLED_S and state.error:
                return Verdict(
                    Outcome.FAILED, f"unit {name} cannot be started: {state.error}", f"see: fleetctl journal {name}"
                )
            case _ if seconds >= SETTLED_S:
                return Verdict(Outcome.DONE, f"Unit {name} has finished or was skipped: it is {told}")
        return Verdict(Outcome.PENDING, f"waiting for unit {name} to run: it is {state.error or told}")


def wait(
    looks: dict[str, Look],
    *,
    attempts: int,
    tell: Callable[[str], None],
    done: Callable[[str, str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Check each unit of ``looks`` until all are done; ``done(name, text)`` is called as each of them is.

    ``attempts`` times two seconds is how long (0: for ever). A condition that changes goes to ``tell``. While the API
    answers 503 (etcd has no majority) that is a condition like any other. Raises :class:`Failure` with all conditions
    that were not met, after all other units were waited for.
    """
    begin = clock()
    pause = POLL_S
    pending = dict.fromkeys(looks, "")
    told = dict.fromkeys(looks, "")
    failed: list[Verdict] = []
    while pending:
        for name in list(pending):
            verdict = _look(looks[name], clock() - begin)
            if verdict.outcome is Outcome.PENDING:
                pending[name] = verdict.text
                if verdict.text != told[name] and clock() - begin >= QUIET_S:
                    told[name] = verdict.text
                    tell(verdict.text)
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
                    Outcome.FAILED, f"gave up after {attempts * ATTEMPT_S:g} s, {text}", f"ask: fleetctl why {name}"
                )
                for name, text in pending.items()
            )
            break
        sleep(min(pause, left))
        pause = min(pause * 1.2, POLL_MAX_S)
    if failed:
        raise Failure("\n  ".join(each.text for each in failed), hint="\n      ".join(_hints(failed)) or None)


def location(record: UnitRecord | None, machines: Sequence[Machine]) -> str:
    """`` on aaaaaaaa.../10.77.0.11`` of a placed unit, otherwise ""."""
    if record is None or not record.machine:
        return ""
    machine = next((each for each in machines if each.id == record.machine), Machine(record.machine))
    return f" on {machine_cell(machine)}"


def machine_cell(machine: Machine, *, full: bool = False) -> str:
    """A machine in a table: its id, cut short unless ``full``, and its address when it has one."""
    short = machine.id if full or len(machine.id) <= 8 else machine.id[:8] + "..."
    return f"{short}/{machine.ip}" if machine.ip else short


def _look(look: Look, seconds: float) -> Verdict:
    try:
        return look(seconds)
    except ApiError as error:
        if error.status != 503:
            raise
        return Verdict(Outcome.PENDING, f"waiting for the cluster: {error.message}")


def _hints(failed: Sequence[Verdict]) -> list[str]:
    return list(dict.fromkeys(each.hint for each in failed if each.hint))

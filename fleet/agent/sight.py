"""What the agent sees of its units in systemd: their states, and why one is not as requested.

An explanation is made once, when a unit has failed or its start job has ended otherwise than well: it costs a few calls
and a look into the journal, so the regular polls ask for none. Sources of the names: org.freedesktop.systemd1(5),
systemd.exec(5) "Process exit codes".
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fleet.agent.steps import Systemd, SystemdError, SystemdState
from fleet.model.entities import RUNNING

LOG_LINES = 5
"""Lines of the journal in an explanation."""

LOG_WIDTH = 200
"""Characters of each of them."""

_REFUSALS = {
    "assert": "an assertion of its unit file does not hold",
    "collected": "systemd dropped it before it was started",
    "dependency": "a unit that it needs did not start",
    "invalid": "it is not loaded properly",
    "once": "it can be started once only",
    "timeout": "its start job waited too long",
    "unsupported": "this machine's systemd does not support it",
}
_NEEDS = ("Requires", "Requisite", "BindsTo")
_COMMANDS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost")
_EXITED, _KILLED, _DUMPED = 1, 2, 3  # CLD_*, <signal.h>
_EXIT_NAMES = dict(
    zip(
        range(200, 223),
        [
            "CHDIR",
            "NICE",
            "FDS",
            "EXEC",
            "MEMORY",
            "LIMITS",
            "OOM_ADJUST",
            "SIGNAL_MASK",
            "STDIN",
            "STDOUT",
            "CHROOT",
            "IOPRIO",
            "TIMERSLACK",
            "SECUREBITS",
            "SETSCHEDULER",
            "CPUAFFINITY",
            "GROUP",
            "USER",
            "CAPABILITIES",
            "CGROUP",
            "SETSID",
            "CONFIRM",
            "STDERR",
        ],
        strict=True,
    )
) | {
    224: "PAM",
    225: "NETWORK",
    226: "NAMESPACE",
    227: "NO_NEW_PRIVILEGES",
    228: "SECCOMP",
    229: "SELINUX_CONTEXT",
    230: "PERSONALITY",
    231: "APPARMOR_PROFILE",
    232: "ADDRESS_FAMILIES",
    233: "RUNTIME_DIRECTORY",
    235: "CHOWN",
    236: "SMACK_PROCESS_LABEL",
    237: "KEYRING",
    238: "STATE_DIRECTORY",
    239: "CACHE_DIRECTORY",
    240: "LOGS_DIRECTORY",
    241: "CONFIGURATION_DIRECTORY",
    242: "NUMA_POLICY",
    243: "CREDENTIALS",
    245: "BPF",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a unit is not as requested, in a sentence without its subject, and its last lines in the journal."""

    note: str = ""
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """systemd's report about units; ``error`` if there is none.

    ``ended`` are the results of start jobs that had ended before this look."""

    units: Sequence[str]
    states: Mapping[str, SystemdState]
    error: str = ""
    ended: Mapping[str, str] = field(default_factory=dict)
    explanations: Mapping[str, Explanation] = field(default_factory=dict)


def look(units: Sequence[str], systemd: Systemd, ended: Mapping[str, str], explained: Collection[str] = ()) -> Seen:
    """Read the states of units from systemd, and explain those that need it.

    ``ended`` has the results of start jobs that have ended since the last look; ``explained`` are units that failed and
    whose explanation is known."""
    try:
        states = systemd.states(units)
        explanations = {
            name: _explanation(name, state, ended.get(name, ""), systemd)
            for name, state in states.items()
            if _needs_explanation(state, ended.get(name, ""), is_explained=name in explained)
        }
    except SystemdError as error:
        return Seen(units, {}, str(error))
    return Seen(units, states, ended=ended, explanations=explanations)


def is_refusal(result: str, state: SystemdState) -> bool:
    """Whether a start job with this result has not started the unit; ``state`` is that after the job.

    ``failed`` is the result of a unit that ran and failed, and also of one that systemd would not even try, such as a
    timer without its service."""
    return result in _REFUSALS or (result == "failed" and state.active == "inactive")


def _needs_explanation(state: SystemdState, result: str, *, is_explained: bool) -> bool:
    if result:
        return result != "done" or state.active not in RUNNING
    return state.active == "failed" and not is_explained


def _explanation(unit: str, state: SystemdState, result: str, systemd: Systemd) -> Explanation:
    properties = systemd.properties(unit)
    note = why(properties, state, result)
    if result == "dependency":
        needed = [name for each in _NEEDS for name in _texts(properties.get(each))]
        found = sorted(systemd.states(needed).items()) if needed else []
        absent = [f"{name} is {_state(each)}" for name, each in found if each.active not in RUNNING]
        note += f": {', '.join(absent)}" if absent else ""
    if not note:
        return Explanation()  # it has finished, and all is well
    if result == "done" and state.active == "inactive":
        return Explanation(note)  # skipped: it did not run, so it said nothing
    # A unit that was refused has no run; the one that systemd remembers is an earlier one.
    run = "" if is_refusal(result, state) else _text(properties.get("InvocationID"))
    began = properties.get("InactiveExitTimestamp")
    lines = systemd.journal(unit, run, began if isinstance(began, int) else 0)
    return Explanation(note, tuple(_shortened(each) for each in list(lines)[-LOG_LINES:]))


def why(properties: Mapping[str, object], state: SystemdState, result: str) -> str:
    """Why a unit is in this state after a start job with this result ("" for none); "" if that is as it should be.

    ``properties`` are those that D-Bus has of it."""
    if is_refusal(result, state):
        reason = ", ".join(_unmet(properties.get("Asserts"))) if result == "assert" else ""
        reason = f"{reason} does not hold" if reason else _REFUSALS.get(result, "it did not even try, see its log")
        return f"systemd refused to start it: {reason}"
    if result == "canceled":
        return "another job cancelled its start"
    if state.active == "inactive":
        unmet = _unmet(properties.get("Conditions"))
        if unmet and properties.get("ConditionResult") is False:
            return f"it was skipped: {', '.join(unmet)} does not hold"
        return ""
    outcome = _text(properties.get("Result"))
    if outcome in ("", "success") and state.active != "failed":
        return ""
    ends = list(_bad_ends(properties))
    return f"it failed ({outcome or 'unknown'})" + (f": {', '.join(ends)}" if ends else "")


def _bad_ends(properties: Mapping[str, object]) -> Iterator[str]:
    """How the commands of a unit ended that did not end well."""
    is_main_named = False
    for name in _COMMANDS:
        found = properties.get(name)
        for command in found if isinstance(found, (list, tuple)) else ():
            # (path, argv, is failure ignored, times of start and end (2 each), pid, code, status)
            path, _, is_ignored, *_, code, status = command
            end = _end(code, status)
            if end and not is_ignored:
                is_main_named = is_main_named or name == "ExecStart"
                yield f"{name}={path} {end}"
    if not is_main_named:
        end = _end(properties.get("ExecMainCode"), properties.get("ExecMainStatus"))
        if end:
            yield f"its main process {end}"


def _end(code: object, status: object) -> str:
    """How a process ended, "" if it ended well or not at all."""
    if not isinstance(code, int) or not isinstance(status, int):
        return ""
    if code == _EXITED and status:
        name = _EXIT_NAMES.get(status)
        return f"exited with {status}/{name}" if name else f"exited with {status}"
    if code in (_KILLED, _DUMPED):
        try:
            name = signal.Signals(status).name
        except ValueError:
            name = f"signal {status}"
        return f"was killed by {name}"
    return ""


def _unmet(conditions: object) -> list[str]:
    """Conditions or assertions that do not hold, as the unit file has them: ``AssertPathExists=/nope``.

    Each is (name, may another one hold instead, negated, parameter, state); a state below 0 is "does not hold"."""
    unmet = []
    for each in conditions if isinstance(conditions, (list, tuple)) else ():
        name, is_trigger, is_negated, parameter, state = each
        if state < 0:
            unmet.append(f"{name}={'|' if is_trigger else ''}{'!' if is_negated else ''}{parameter}")
    return unmet


def _state(state: SystemdState) -> str:
    return state.load if state.load not in ("loaded", "") else state.active


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, (list, tuple)) else []


def _text(value: object) -> str:
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (list, tuple)):  # bytes, as D-Bus has them
        return bytes(value).hex()
    return value if isinstance(value, str) else ""


def _shortened(line: str) -> str:
    return line if len(line) <= LOG_WIDTH else line[: LOG_WIDTH - 3] + "..."

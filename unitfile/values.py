"""Values of directives: would systemd accept this one?

Goes by the kinds of ``unitfile.directives``; for OTHER in systemd's own list, by the directive's name. Each set of
words was compared with the output of ``systemd-analyze verify`` of that version
(tests/unitfile/test_against_systemd.py). A value with a specifier (%) is not checked: it depends on the unit and the
machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from unitfile import times
from unitfile.command import OpenQuoteError, Problem, unquoted, words
from unitfile.name import LENGTH_MAX

_TRUE: Final = frozenset({"1", "yes", "y", "true", "t", "on"})
_FALSE: Final = frozenset({"0", "no", "n", "false", "f", "off"})
_JOB_MODES: Final = (
    "fail lenient replace replace-irreversibly isolate flush ignore-dependencies ignore-requirements triggering "
    "restart-dependencies"
)
_ACTIONS: Final = " ".join(
    ["none", *(verb + force for verb in ("reboot", "poweroff", "halt") for force in ("", "-force", "-immediate"))]
    + [verb + force for verb in ("exit", "kexec", "soft-reboot") for force in ("", "-force")]
)
_LEVELS: Final = "emerg alert crit err warning notice info debug 0 1 2 3 4 5 6 7"
# By kind or by name. A leading "?" means that a boolean is taken, too.
_WORDS: Final = {
    "ACCESS": "none main exec all",
    "ACTION": _ACTIONS,
    "LEVEL": _LEVELS,
    "POLICY": "auto closed strict",
    "SERVICEEXITTYPE": "main cgroup",
    "SERVICERESTART": "no on-success on-failure on-abnormal on-abort on-watchdog always",
    "SERVICERESTARTMODE": "normal direct debug",
    "SERVICETYPE": "simple exec forking oneshot dbus notify notify-reload idle",
    "SOCKETBIND": "? default both ipv6-only",
    "TIMEOUTMODE": "terminate abort kill",
    "CollectMode": "inactive inactive-or-failed",
    "FileDescriptorStorePreserve": "? restart",
    "KeyringMode": "inherit private shared",
    "ManagedOOMMemoryPressure": "auto kill",
    "ManagedOOMPreference": "none avoid omit",
    "ManagedOOMSwap": "auto kill",
    "MemoryPressureWatch": "? auto skip",
    "OOMPolicy": "continue stop kill",
    "OnFailureJobMode": _JOB_MODES,
    "OnSuccessJobMode": _JOB_MODES,
    "PrivateTmp": "? disconnected",
    "PrivateUsers": "? self identity",
    "ProcSubset": "all pid",
    "ProtectControlGroups": "? private strict",
    "ProtectHome": "? read-only tmpfs",
    "ProtectProc": "noaccess invisible ptraceable default",
    "ProtectSystem": "? full strict",
    "RuntimeDirectoryPreserve": "? restart",
    "UtmpMode": "init login user",
    **dict.fromkeys(
        ("BindLogSockets", "MemoryKSM", "MountAPIVFS", "PrivateMounts", "PrivatePIDs", "SetLoginEnvironment"), "?"
    ),
}
_SPANS: Final = frozenset(
    {
        *("TimeoutSec", "TimeoutStopSec", "TimeoutAbortSec", "TimeoutIdleSec", "JobTimeoutSec", "JobRunningTimeoutSec"),
        *("CPUQuotaPeriodSec", "ManagedOOMMemoryPressureDurationSec"),
    }
)
_SUCCESSORS: Final = {
    "CPUShares": "CPUWeight",
    "StartupCPUShares": "StartupCPUWeight",
    "MemoryLimit": "MemoryMax",
    "RequiresOverridable": "Requires",
    "RequisiteOverridable": "Requisite",
    "BlockIODeviceWeight": "IODeviceWeight",
    "BlockIOReadBandwidth": "IOReadBandwidthMax",
    "BlockIOWriteBandwidth": "IOWriteBandwidthMax",
}
_CONDITION_PATH: Final = re.compile(r"(Condition|Assert)(Path|Directory|File)[A-Za-z]+")
_CONDITION_PREFIX: Final = re.compile(r"[|!]{0,2}[ \t]*")
_NUMBER: Final = re.compile(r"[+-]?(0[xX][0-9A-Fa-f]+|0[bB][01]+|0[oO][0-7]+|[0-9]+)")
_MODE: Final = re.compile(r"0*[0-7]{1,4}")
_SIZE: Final = re.compile(r"[0-9]+(\.[0-9]+)?[ \t]*[BKMGTPE]?")
_COUNT: Final = re.compile(r"infinity|[0-9]+")
_RLIMIT: Final = re.compile(r"infinity|[+-]?[0-9][0-9A-Za-z. ]*")
_ACCOUNT: Final = re.compile(r"(?!-?[0-9]*$)[^/:\x00-\x1f\x7f]+")
_ID: Final = re.compile(r"0|[1-9][0-9]{0,8}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-4][0-9]{6}")
_NO_ID: Final = (65_535, 4_294_967_295)  # -1 of 16 and of 32 bits
_DECIMAL: Final = re.compile(r"-?[0-9]{1,9}")
_QUOTA: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,2})?%")
_PERCENT: Final = re.compile(r"[0-9]{1,3}(\.[0-9]{1,2})?%")
_SIGNALS: Final = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG "
    "XCPU XFSZ "
    "VTALRM PROF WINCH IO PWR SYS"
)
_SIGNAL: Final = re.compile(r"(?:SIG)?(?:RTM(?:IN(?:\+[0-9]{1,2})?|AX(?:-[0-9]{1,2})?)|[1-9][0-9]?)")
_UNIT: Final = re.compile(
    r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\@-]*)?"
    r"\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)"
)
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_OUTPUT: Final = "inherit null tty journal kmsg journal+console kmsg+console syslog syslog+console socket fd"
_INPUT: Final = "null tty tty-force tty-fail socket data fd"
_PORT: Final = re.compile(r"0*([0-9]{1,5})")
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9]{1,3}(?:\.[0-9]{1,3}){3}):0*([0-9]{1,5})")
_VSOCK: Final = re.compile(r"vsock(-[a-z]+)?:[0-9]*:[0-9]+")


def problem(kind: str, name: str, value: str) -> Problem | None:
    """What is wrong with ``value`` of the directive ``name``, whose kind is ``kind``.

    ``None`` when nothing is known to be.

    The caller passes no empty assignment, which is never wrong; a ``value`` of "" is the result of a specifier.
    """
    check = _BY_NAME.get(name) or _BY_KIND.get(kind)
    accepted = _WORDS.get(name) or _WORDS.get(kind)
    if check is None and accepted is None:
        return None
    found = _word_problem(accepted or "", value) if check is None else check(name, value)
    return None if found is not None and "%" in value and not _is_percent(value) and name != "OnCalendar" else found


def is_true(value: str) -> bool:
    """Whether systemd reads ``value`` as yes."""
    return value.lower() in _TRUE


def unit_name_problem(text: str) -> str:
    """What is wrong with ``text`` as the name of a unit elsewhere; "" for a good one, or one with specifiers."""
    if "%" in text or (len(text) <= LENGTH_MAX and _UNIT.fullmatch(text)):
        return ""
    return "is not the name of a unit"


def _is_percent(value: str) -> bool:
    return _PERCENT.fullmatch(value.strip()) is not None


def _ignored(message: str, hint: str = "") -> Problem:
    return Problem(message, hint, False)


def _obsolete(name: str, _: str) -> Problem | None:
    return Problem("is obsolete", f"write {_SUCCESSORS[name]}= instead", False, True)


def _kill_mode(_: str, value: str) -> Problem | None:
    if value == "none":
        return Problem(
            "is obsolete with this value, which leaves processes behind", "use mixed or control-group", False, True
        )
    return _word_problem("control-group process mixed", value)


def _word_problem(accepted: str, value: str) -> Problem | None:
    known = accepted.split()
    if value in known or (known and known[0] == "?" and value.lower() in _TRUE | _FALSE):
        return None
    choices = ["yes", "no", *known[1:]] if known[0] == "?" else known
    return _ignored("systemd does not know this value and ignores the line", "one of: " + " ".join(choices))


def _boolean(name: str, value: str) -> Problem | None:
    if value.lower() in _TRUE | _FALSE:
        return None
    return Problem("neither yes nor no", "write yes or no", name == "DynamicUser")


def _span(_: str, value: str) -> Problem | None:
    found = times.span_problem(value)
    return _ignored(found, "for example 90, 5min 20s, 1.5h, infinity") if found else None


def _timer(name: str, value: str) -> Problem | None:
    if name != "OnCalendar":
        return _span(name, value)
    found = times.calendar_problem(value)
    return _ignored(found, "for example daily, Mon..Fri 03:00, *-*-01 04:30:00; see systemd.time(7)") if found else None


def _path(name: str, value: str) -> Problem | None:
    if name == "WorkingDirectory":
        optional = value.startswith("-")
        bare = value.removeprefix("-")
        return None if bare == "~" or bare.startswith("/") else _relative(fatal=not optional)
    return None if value.startswith("/") else _relative(fatal=name in ("RootDirectory", "RootImage", "RootVerity"))


def _relative(*, fatal: bool = False) -> Problem:
    return Problem("the path is not absolute", "begin it with a slash", fatal)


def _paths(name: str, value: str) -> Problem | None:
    plain = name.endswith(("MountsFor", "Symlinks"))
    found = [(word if plain else word.removeprefix("-").removeprefix("+")).startswith("/") for word in _split(value)]
    return None if all(found) else _relative()._replace(used=any(found))


def _file(_: str, value: str) -> Problem | None:
    return None if value.removeprefix("-").startswith("/") else _relative()


def _condition(name: str, value: str) -> Problem | None:
    if not _CONDITION_PATH.fullmatch(name):
        return None
    return None if _CONDITION_PREFIX.sub("", value, count=1).startswith("/") else _relative()


def _number(_: str, value: str) -> Problem | None:
    return None if _NUMBER.fullmatch(value) else _ignored("not a number")


def _count(_: str, value: str) -> Problem | None:
    return None if _NUMBER.fullmatch(value) and not value.startswith("-") else _ignored("not a number from 0 up")


def _mode(_: str, value: str) -> Problem | None:
    return None if _MODE.fullmatch(value) else _ignored("not a file mode", "write it in octal, as 0644")


def _limit(name: str, value: str) -> Problem | None:
    if name.startswith("Limit"):
        known = _COUNT if name in ("LimitNOFILE", "LimitNPROC") else _RLIMIT
        return None if all(map(known.fullmatch, value.split(":"))) else _ignored("not a limit", "as 65536, or infinity")
    if "Memory" not in name or value == "infinity" or _is_percent(value):
        return None
    if _is_size(value) and (value.strip("0") or not name.endswith(("Max", "High")) or "Swap" in name):
        return None
    return _ignored("not an amount of memory", "for example 512M, 1.5G, 20%, infinity; K, M, G and T are capitals")


def _tasks(_: str, value: str) -> Problem | None:
    is_number = _NUMBER.fullmatch(value) and value.strip("+0") and not value.startswith("-")
    if value == "infinity" or _is_percent(value) or is_number:
        return None
    return _ignored("not a number of tasks", "for example 512, 20%, infinity")


def _quota(_: str, value: str) -> Problem | None:
    return None if _QUOTA.fullmatch(value) else _ignored("not a share of processor time", "for example 20% or 150%")


def _account(_: str, value: str) -> Problem | None:
    is_number = _ID.fullmatch(value) and int(value) not in _NO_ID
    if is_number or (_ACCOUNT.fullmatch(value) and value not in (".", "..")):
        return None
    return Problem("not the name of a user or group", "write its name or its number", True)


def _accounts(name: str, value: str) -> Problem | None:
    return next(filter(None, (_account(name, word) for word in _split(value))), None)


def _between(least: int, most: int) -> Callable[[str, str], Problem | None]:
    def check(_: str, value: str) -> Problem | None:
        short = value.lstrip("+")
        if _DECIMAL.fullmatch(short) and least <= int(short) <= most:
            return None
        return None if value == "idle" and least == 1 else _ignored(f"not a number from {least} to {most}")

    return check


def _size(_: str, value: str) -> Problem | None:
    return None if _is_size(value) else _ignored("not a size in bytes", "for example 64K, 8M; K, M and G are capitals")


def _is_size(value: str) -> bool:
    """A number with a unit, or several with units that become smaller (1G512M)."""
    place, value = 0, value.strip()
    while place < len(value):
        match = _SIZE.match(value, place)
        if match is None:
            return False
        place = match.end()
    return bool(value)


def _signal(_: str, value: str) -> Problem | None:
    if value.removeprefix("SIG") in _SIGNALS.split() or _SIGNAL.fullmatch(value):
        return None
    return _ignored("not a signal", "for example SIGTERM")


def _units(_: str, value: str) -> Problem | None:
    return next(filter(None, (_unit(word) for word in _split(value))), None)


def _unit(value: str) -> Problem | None:
    if not unit_name_problem(value):
        return None
    is_bare = re.fullmatch("[A-Za-z0-9_-]{1,64}", value)
    return _ignored("not the name of a unit", f"write it with its type, as in {value}.service" if is_bare else "")


def _of_type(suffix: str, *, several: bool = False) -> Callable[[str, str], Problem | None]:
    def check(_: str, value: str) -> Problem | None:
        for word in _split(value) if several else [value]:
            if unit_name_problem(word) or ("%" not in word and not word.endswith(suffix)):
                return _ignored(f"not the name of a {suffix[1:]}", f"write it with its type, as in name{suffix}")
        return None

    return check


def _environment(_: str, value: str) -> Problem | None:
    for word in _split(value):
        if not _VARIABLE.fullmatch(word):
            hint = 'write NAME=value; with blanks: "NAME=a b"'
            return Problem("a word that is no assignment is ignored", hint, False, True)
    return None


def _output(_: str, value: str) -> Problem | None:
    kind, colon, target = value.partition(":")
    if value in _OUTPUT.split() or (kind == "fd" and colon):
        return None
    if kind in ("file", "append", "truncate") and colon:
        return None if target.startswith("/") else _relative()
    return _ignored("no such output", "one of: " + _OUTPUT + " file:PATH append:PATH truncate:PATH")


def _input(_: str, value: str) -> Problem | None:
    kind, colon, target = value.partition(":")
    if value in _INPUT.split() or (kind == "fd" and colon):
        return None
    if kind == "file" and colon:
        return None if target.startswith("/") else _relative()
    return _ignored("no such input", "one of: " + _INPUT + " file:PATH")


def _listen(name: str, value: str) -> Problem | None:
    if name not in ("ListenStream", "ListenDatagram", "ListenSequentialPacket"):
        return None if name == "ListenNetlink" or value.startswith("/") else _relative()
    match = _PORT.fullmatch(value) or _HOST_PORT.fullmatch(value)
    if (
        value.startswith(("/", "@"))
        or _VSOCK.fullmatch(value)
        or (match is not None and 0 < int(match[match.lastindex or 0]) < 65536)
    ):
        return None
    return _ignored("not an address to listen at", "a path, a port, or address:port, as in 127.0.0.1:80 or [::1]:80")


def _split(value: str) -> Iterator[str]:
    """The words before an open quote: systemd also uses what it has read until then."""
    try:
        for word in words(value):
            yield unquoted(word)
    except OpenQuoteError:
        return


_Check = Callable[[str, str], Problem | None]
_BY_KIND: Final[dict[str, _Check]] = {
    "BOOLEAN": _boolean,
    "CONDITION": _condition,
    "ENVIRON": _environment,
    "FILE": _file,
    "INPUT": _input,
    "INTEGER": _number,
    "KILLMODE": _kill_mode,
    "LIMIT": _limit,
    "LONG": _number,
    "MODE": _mode,
    "OUTPUT": _output,
    "PATH": _path,
    "PATH [...]": _paths,
    "SECONDS": _span,
    "SERVICE": _of_type(".service"),
    "SIGNAL": _signal,
    "SIZE": _size,
    "SLICE": _of_type(".slice"),
    "SOCKET [...]": _listen,
    "SOCKETS": _of_type(".socket", several=True),
    "TIMER": _timer,
    "UNIT": lambda _, value: _unit(value),
    "UNIT [...]": _units,
    "UNSIGNED": _count,
}
_BY_NAME: Final[dict[str, _Check]] = {
    **dict.fromkeys(_SPANS, _span),
    **dict.fromkeys(_SUCCESSORS, _obsolete),
    **dict.fromkeys(("WantedBy", "RequiredBy", "UpheldBy", "Also", "Alias"), _units),
    "CPUQuota": _quota,
    "CPUWeight": _between(1, 10000),
    "IOWeight": _between(1, 10000),
    "Nice": _between(-20, 19),
    "OOMScoreAdjust": _between(-1000, 1000),
    "TasksMax": _tasks,
    **dict.fromkeys(("User", "Group", "SocketUser", "SocketGroup"), _account),
    "SupplementaryGroups": _accounts,
    "Symlinks": _paths,
    "WorkingDirectory": _path,
    "TimeoutCleanSec": _span,
    # Of kind MODE and PATH in systemd's list, but these are words, and a list with colons.
    "OnFailureJobMode": lambda _, value: _word_problem(_JOB_MODES, value),
    "OnSuccessJobMode": lambda _, value: _word_problem(_JOB_MODES, value),
    "ExecSearchPath": lambda _, value: None if all(map(_absolute, value.split(":"))) else _relative(),
}


def _absolute(path: str) -> bool:
    return path.startswith("/")

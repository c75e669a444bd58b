"""Trouble in consoles and journals that no test looks for: pure, lines in, findings out.

    for finding in scan(lines, node="node-1", source="console"): ...

Each pattern is text that a well-known program prints (kernel: lib/bug.c, arch/x86/kernel/dumpstack.c, mm/oom_kill.c;
systemd: src/core; the Go runtime; Python); they match at the message, after time stamps and the program's name are
taken off. The catalogue of kinds follows kola's automatic checks. :func:`unwaived` takes out what a test expects, see
:mod:`cluster.testing.waivers`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

BEFORE, AFTER = 2, 12
"""Lines of context kept around a finding."""
TRACE_LINES = 60
"""How long one kernel trace may be: what matches within is part of it."""

_KERNEL: Final = ("panic", "oops", "bug", "stall", "warning", "verity")
"""Kinds that come in one trace, the worst first."""

_SAID: Final[dict[str, tuple[str, ...]]] = {
    "panic": (r"Kernel panic - not syncing",),
    "oops": (
        r"(?:Internal error: )?(?:Oops: )*Oops(?: - [^:]+)?: [0-9a-f]+ ",
        r"(?:Oops: )?general protection fault.*: [0-9a-f]{4} \[",
        r"Unable to handle kernel ",
        r"BUG: (?:unable to handle|kernel NULL pointer)",
    ),
    "bug": (
        r"kernel BUG at ",
        r"BUG: (?!unable to handle|kernel NULL|soft lockup)\S",
        r"Bad page state in process|list_(?:add|del) corruption",
    ),
    "stall": (
        r"watchdog: BUG: soft lockup|NMI watchdog: Watchdog detected hard LOCKUP",
        r"rcu: INFO: \S+ (?:self-)?detected",
        r"INFO: task \S+ blocked for more than",
    ),
    "warning": (r"WARNING: (?:CPU: \d+ PID: \d+ at |\S+:\d+ at |possible circular locking)",),
    "verity": (r"device-mapper: verity: .*corrupt",),
    "oom": (
        r"(?:Memory cgroup out|Out) of memory: Killed process ",
        r"\S+ invoked oom-killer",
        r".*killed by the OOM killer",
    ),
    "emergency": (
        r"You are in (?:emergency|rescue) mode",
        r"(?:Reached target|Started) .*(?:[Ee]mergency|[Rr]escue)(?: Mode| Shell|\.target|\.service)",
        r"Cannot open access to console, the root account is locked",
    ),
    "ordering cycle": (
        r"(?:\S+: )?Found ordering cycle",
        r"(?:\S+: )?Job \S+ deleted to break ordering cycle",
        r"(?:\S+: )?Breaking ordering cycle by deleting job",
    ),
    "coredump": (
        r"Process \d+ \(.*\) of user \d+ (?:dumped core|terminated abnormally)",
        r"\S+: .*code=dumped",
        r"\S+: Failed with result 'core-dump'",
        r".*\(core dumped\)",
    ),
    "segfault": (
        r"(?:\S.*\[\d+\]: )?segfault at [0-9a-f]+ ip ",
        r"traps: \S.*\[\d+\] (?:general protection|trap )",
        r"\S+: .*code=killed, status=11/SEGV",
        r".*\bSegmentation fault\b",
    ),
    "go panic": (
        r"panic: ",
        r"fatal error: (?:all goroutines are asleep|concurrent map|runtime: |stack overflow|unexpected signal|sync: |out of memory)",
        r"goroutine \d+ (?:gp=\S+ m=\S+ (?:mp=\S+ )?)?\[running",
    ),
    "traceback": (r"(?:\s*[|+-]+ )*(?:Exception Group )?Traceback \(most recent call last\):",),
    "generator": (
        r"\S*/system-generators/\S+ (?:failed|terminated)",
        r"Failed to (?:run|execute) generators",
    ),
}
PATTERNS: Final = tuple((kind, re.compile("|".join(said))) for kind, said in _SAID.items())
KINDS: Final = tuple(kind for kind, _ in PATTERNS)

_STAMPS: Final = re.compile(
    r"""
    (?:\x00+)?
    (?:<\d+>)?
    (?:\w{3}\ [ \d]\d\ \d\d:\d\d:\d\d(?:\.\d+)?\ \S+\ | \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.,+:Z-]*\ \S+\ )?  # journalctl: short, short-precise, short-iso
    (?:\[\s*\d+\.\d+\](?:\[\s*[CT]\d+\])?\ )?  # printk, with its caller
    (?:(?!\S+\[\d+\]:\ segfault)\S[^\[\]:]*\[\d+\]:\ | (?:kernel|systemd):\ )?  # who says it; of a segfault the kernel says who
    (?:\[\s*\d+\.\d+\]\ )?
    """,
    re.VERBOSE,
)
_NEW_TRACE: Final = "------------[ cut here ]"
_DATED: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.,]*(?:Z|[+-]\d\d:?\d\d)")
_PYTHON_INSIDE: Final = re.compile(r"\s|$|During handling of|The above exception")


@dataclass(frozen=True, slots=True)
class Finding:
    """Trouble as a node has logged it.

    ``line`` counts from 1 in what was scanned; ``context`` are the lines around it, including its own.
    """

    kind: str
    node: str
    source: str
    """ "console" or "journal"."""
    line: int
    text: str
    """The message, without time stamp and name."""
    context: tuple[str, ...]
    t: float | None = None
    """Seconds since 1970 by the node's clock, if the line has them."""

    def __str__(self) -> str:
        shown = "\n".join(f"  | {line}" for line in self.context)
        return f"{self.kind} on {self.node} ({self.source}, line {self.line}): {self.text}\n{shown}"


def message(line: str) -> str:
    """The message of a line of a console or a journal, without time and name."""
    stamps = _STAMPS.match(line)
    return line[stamps.end() :] if stamps else line


def dated(line: str) -> float | None:
    """When a line of a journal was written (journalctl's short-iso and short-iso-precise), in seconds since 1970."""
    stamp = _DATED.match(line)
    return None if stamp is None else dt.datetime.fromisoformat(stamp[0].replace(",", ".")).timestamp()


def scan(lines: Sequence[str], *, node: str, source: str) -> list[Finding]:
    """All trouble in ``lines``, in order: a trace of the kernel, or of Python or Go, is one finding."""
    found: list[Finding] = []
    trace: tuple[int, int] | None = None
    """The finding whose trace goes on, and until where."""
    for at, line in enumerate(lines):
        text = message(line)
        kind = next((kind for kind, pattern in PATTERNS if pattern.match(text)), None)
        if trace is not None and (at > trace[1] or text.startswith(_NEW_TRACE)):
            trace = None
        if kind is not None:
            if trace is not None and _same_trouble(found[trace[0]].kind, kind):
                found[trace[0]] = _worse(found[trace[0]], kind, text)
            else:
                context = tuple(lines[max(0, at - BEFORE) : at + AFTER + 1])
                headline = _headline(kind, text, lines, at)
                found.append(Finding(kind, node, source, at + 1, headline, context, dated(line)))
            trace = (len(found) - 1, at + TRACE_LINES) if kind in (*_KERNEL, "oom", "go panic") else None
            if trace is None and kind in ("coredump", "segfault", "ordering cycle"):
                trace = (len(found) - 1, at + AFTER)
    return found


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """``findings`` without duplicates: the kernel's messages are in the console and in the journal."""
    seen: set[tuple[str, str, str]] = set()
    kept = []
    for finding in findings:
        key = (finding.node, finding.kind, finding.text)
        if key not in seen:
            seen.add(key)
            kept.append(finding)
    return kept


def _same_trouble(kind: str, other: str) -> bool:
    if kind in _KERNEL and other in _KERNEL:
        return True
    if {kind, other} <= {"coredump", "segfault", "go panic"}:
        return True  # the program's own words, the kernel's, and systemd's
    return kind == other


def _worse(finding: Finding, kind: str, text: str) -> Finding:
    if kind in _KERNEL and finding.kind in _KERNEL and _KERNEL.index(kind) < _KERNEL.index(finding.kind):
        return replace(finding, kind=kind, text=f"{finding.text}; {text}")
    return finding


def _headline(kind: str, text: str, lines: Sequence[str], at: int) -> str:
    """The text of a finding: a traceback's last line is more informative than its first."""
    if kind != "traceback":
        return text
    for line in lines[at + 1 : at + TRACE_LINES]:
        logged = message(line)
        if not _PYTHON_INSIDE.match(logged) and not logged.startswith("Traceback"):
            return logged
    return text

"""The command ``flotilla-room``: check how full the disk is, remove what is unused, log it.

flotilla-room.timer starts it.

It queries docker only above the lower threshold: below, it costs a node only the start of Python.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from terminal import Failure, Parser, UsageFailure, command
from upkeep.journal import Event, report
from upkeep.space import Container, Fill, Holdings, Image, idle_since, order
from upkeep.status import METRICS, PATHS, STATUS, Status

PROG: Final = "flotilla-room"
RUNS: Final = Path("/run/docker.pid")
"""Exists while docker runs: a request to a stopped docker would start it."""

_EPILOG = """\
examples:
  sudo flotilla-room --dry-run                 what would go?
  sudo flotilla-room --above 0 --below 0 --idle 0
                                               remove all that is unused, now
  cat /run/flotilla-room/status.json           how full it was the last time, and what was removed since the start
  cat /run/flotilla-room/room.prom             the same as metrics of Prometheus
exit codes: 0 done, 1 docker refused or does not answer, 2 wrong usage
"""


class Store(Protocol):
    """Docker; see :class:`upkeep.docker.Docker`."""

    def holdings(self) -> Holdings:
        """All that it has."""

    def remove(self, what: Container | Image) -> bool:
        """Whether we removed it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """In percent: above ``above`` things go, until no more than ``below`` is full.

    ``rest_s``: how long they must have been idle."""

    above: float = 85
    below: float = 80
    rest_s: float = 120


class Keeper:
    """One check.

    ``measure`` returns how full the file systems are, docker's last; ``now`` is in seconds since the node's start."""

    def __init__(
        self,
        limits: Limits,
        measure: Callable[[], Sequence[Fill]],
        store: Store | None,
        say: Callable[[Event, str, Mapping[str, str]], None] = report,
    ) -> None:
        """``store`` is None while docker does not run."""
        self._limits, self._measure, self._store, self._say = limits, measure, store, say

    def look(self, before: Status, now: float) -> tuple[Status, Failure | None]:
        """Check, remove, log; returns the final state, and the error on the way."""
        limits = self._limits
        fills = self._measure()
        above = self._crossed(before.above, fills)
        if self._store is None or fills[-1].percent < limits.below:
            return Status(fills, above, False, {}, before.removed), None
        try:
            idle = self._store.holdings().idle()
        except Failure as failure:
            return Status(fills, above, before.stuck, before.idle, before.removed), failure
        since = idle_since(idle, before.idle, now)
        if fills[-1].percent <= limits.above:
            return Status(fills, above, False, since, before.removed), None
        due = order(idle, since, now, limits.rest_s)
        gone, trouble = self._remove(due, since, now)
        removed = dict(before.removed)
        for each in gone:
            kind, _ = described(each)
            removed[kind] = removed.get(kind, 0) + 1
            del since[each.id]
        fills = self._measure()
        above = self._crossed(above, fills)
        # What has not been idle for long may be removed at the next check.
        is_stuck = fills[-1].percent > limits.above and len(due) == len(idle)
        if is_stuck and not before.stuck:
            self._stuck(fills[-1])
        return Status(fills, above, is_stuck, since, removed), trouble

    def _remove(
        self, due: Sequence[Container | Image], since: Mapping[str, float], now: float
    ) -> tuple[list[Container | Image], Failure | None]:
        """Remove as many of these as necessary, in this order; returns the removed ones and the last error."""
        assert self._store is not None
        gone, trouble = [], None
        for each in due:
            if self._measure()[-1].percent <= self._limits.below:
                break
            try:
                if not self._store.remove(each):
                    continue
            except Failure as failure:
                trouble = failure
                continue
            gone.append(each)
            kind, name = described(each)
            words = f"removed the {kind} {name}: unused for at least {(now - since[each.id]) / 60:.0f} min"
            self._say(Event.REMOVED, words, {"ROOM_KIND": kind, "ROOM_NAME": name, "ROOM_ID": each.id})
        return gone, trouble

    def _crossed(self, above: Sequence[str], fills: Sequence[Fill]) -> tuple[str, ...]:
        """Log which of these are too full now, or are no longer; ``above`` were. Returns those that are."""
        for each in fills:
            fields = {"ROOM_PATH": each.path, "ROOM_PERCENT": f"{each.percent:.0f}"}
            words = f"{each.path} is {each.percent:.0f} % full"
            if each.percent > self._limits.above and each.path not in above:
                self._say(Event.FILLING, f"{words}: unused images and ended containers go", fields)
            elif each.percent <= self._limits.above and each.path in above:
                self._say(Event.ROOM_AGAIN, f"{words}: there is room again", fields)
        return tuple(each.path for each in fills if each.percent > self._limits.above)

    def _stuck(self, fill: Fill) -> None:
        self._say(
            Event.STUCK,
            f"{fill.path} is still {fill.percent:.0f} % full, and nothing more may go: see what is large with"
            f" 'docker system df -v' and 'du -xh --max-depth=3 {fill.path}', and remove it, or give the node a larger "
            "disk",
            {"ROOM_PATH": fill.path, "ROOM_PERCENT": f"{fill.percent:.0f}"},
        )


def described(what: Container | Image) -> tuple[str, str]:
    """Its kind, and the name that a person knows it by."""
    if isinstance(what, Container):
        return "container", what.name or what.id
    return "image", ", ".join(what.tags) or what.id


def measured(paths: Sequence[Path] = PATHS) -> list[Fill]:
    """Of each file system that ``paths`` are on, the last that of the last path that is there."""
    found: dict[int, Fill] = {}
    for path in paths:
        try:
            device = path.stat().st_dev
            usage = os.statvfs(path)
        except FileNotFoundError:
            continue
        name = found.pop(device).path if device in found else str(path)
        found[device] = Fill.of(name, usage.f_frsize, usage.f_blocks, usage.f_bfree, usage.f_bavail)
    return list(found.values())


def main() -> int:
    """Entry point of the program."""
    return command(PROG, run)


def run(arguments: Sequence[str]) -> int:
    """Run ``flotilla-room ARGUMENTS``; returns the exit code, raises Failure."""
    options = _parser().parse_args(arguments)
    limits = Limits(options.above, options.below, options.idle)
    if not 0 <= limits.below <= limits.above <= 100:
        raise UsageFailure(
            f"from above {limits.above:g} % down to {limits.below:g} %", hint="0 <= --below <= --above <= 100"
        )
    store: Store | None = None
    if RUNS.exists():
        from upkeep.docker import Docker

        store = Docker()
    if options.dry_run:
        for each in () if store is None else store.holdings().idle():
            print(*described(each))
        return 0
    before = Status.parse(STATUS.read_text("utf-8", "replace")) if STATUS.exists() else Status()
    status, trouble = Keeper(limits, measured, store).look(before, time.clock_gettime(time.CLOCK_BOOTTIME))
    _publish(STATUS, json.dumps(status.json(), indent=1) + "\n")
    _publish(METRICS, status.metrics())
    if trouble is not None:
        raise trouble
    for fill in status.fills:
        print(f"{fill.path}: {fill.percent:.0f} % full", file=sys.stderr)
    return 0


def _publish(path: Path, text: str) -> None:
    """Write the file ``path`` in one step: others read it at any time."""
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        description="Remove ended containers and unused images of docker if the node's disk is filling up.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--above", type=float, default=85.0, metavar="PERCENT", help="how full is too full (default: 85)"
    )
    parser.add_argument(
        "--below", type=float, default=80.0, metavar="PERCENT", help="until when things go (default: 80)"
    )
    parser.add_argument(
        "--idle", type=float, default=120.0, metavar="SECONDS", help="spare what was used since (default: 120)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what may go; remove nothing")
    return parser

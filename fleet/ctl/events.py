"""The command that shows what happened in the cluster, and what happens."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

from fleet.ctl.client import Happened
from fleet.ctl.reach import Settings, open_reach
from fleet.ctl.session import Session
from fleet.ctl.units import parse_arguments
from terminal import UsageFailure, printable

WAIT_S = 20.0
"""Of one request while events are followed."""

LATEST = 10
"""Events that ``-f`` shows first, as ``journalctl -f`` does."""

SHORT_ID = 8
_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd])")
_AGO_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_events_options(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``events``."""
    parser.add_argument("--follow", "-f", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--unit", "-u", metavar="UNIT", help="of this unit only")
    parser.add_argument("--machine", metavar="ID", help="of this machine only: the beginning of its id")
    parser.add_argument(
        "--since",
        type=_since,
        default=0.0,
        metavar="WHEN",
        help="a time ago (90s, 15m, 2h, 1d) or 2026-01-31T12:00:00Z",
    )
    parser.add_argument("--full", "-l", action="store_true", help="do not shorten ids")
    parser.add_argument("--json", action="store_true", help="a JSON object a line")


def events(settings: Settings, options: argparse.Namespace) -> int:
    """Print the log of events, and go on with ``--follow``."""
    unit = str(parse_arguments([options.unit])[0].name) if options.unit else ""
    with open_reach(settings) as reach:
        session = Session(reach, _report, patience_s=None)
        read = partial(session.client.events, unit=unit, machine=options.machine or "", since=options.since)
        log = session.ask(read)
        latest = options.follow and not options.since
        _print(log.events[-LATEST:] if latest else log.events, options)
        while options.follow:
            log = session.ask(partial(read, after=log.revision, wait_s=WAIT_S))
            if log.is_torn:
                _report("events are missing here: the cluster no longer has them")
            _print(log.events, options)
    return 0


def _print(events: Iterable[Happened], options: argparse.Namespace) -> None:
    for each in events:
        print(json.dumps(asdict(each)) if options.json else printable(line(each, full=options.full)))
    sys.stdout.flush()


def line(event: Happened, *, full: bool = False) -> str:
    """An event as a line of text: time, kind, unit, machines, and by whom and why."""
    shown = {each: each if full or len(each) <= SHORT_ID else each[:SHORT_ID] for each in (event.machine, event.former)}
    machines = [shown[each] for each in (event.former, event.machine) if each]
    if event.former and not event.machine:
        machines.append("nowhere")
    by, _, identity = event.by.partition(" ")
    who = f"{by} {identity if full else identity[:SHORT_ID]}".rstrip()
    words = [event.unit, " -> ".join(machines), f"by {who}" if who else ""]
    text = " ".join(each for each in words if each)
    seconds = event.time.partition(".")[0].removesuffix("Z")
    return f"{seconds}Z {event.kind:17} {text}" + (f": {event.reason}" if event.reason else "")


def _since(text: str) -> float:
    """Unix seconds of a time ago, or of a date and time (UTC unless it says otherwise)."""
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(0.0, time.time() - float(ago[1]) * _AGO_S[ago[2]])
    try:
        found = datetime.fromisoformat(text)
        return max(0.0, (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise UsageFailure(
            f"{text[:40]!r} is no time",
            where="--since",
            hint="write 15m, 2h or 1d for a time ago, or 2026-01-31T12:00:00Z",
        ) from None


def _report(message: str) -> None:
    print(f"fleetctl: {message}", file=sys.stderr)

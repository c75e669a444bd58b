"""The last lines of the journal about a unit, by journalctl: what a person would look at first.

Fields: systemd.journal-fields(7). journalctl runs only when a unit has failed or was refused.
"""

from __future__ import annotations

import logging
import subprocess

from terminal import printable, record
from unitfile.name import UnitName

LINES_READ = 20
"""Lines that are read, to find those of the unit's processes among systemd's own."""

BEFORE_US = 1_000_000
"""systemd takes the time at which a run began a moment after its process may have written something."""

READ_S = 20.0
"""Longest time for it: an emulated node with a large journal is slow."""

_LOG = logging.getLogger(__name__)


def last_lines(unit: str, invocation: str, since_us: int) -> list[str]:
    """The last lines about the run ``invocation`` of ``unit``, oldest first; ``""`` for what systemd said of no run.

    ``since_us`` is when the run began, in microseconds since the epoch: a process that ends at once is gone when the
    journal looks for its run, and its lines have only the unit's name. Of a run those that its processes wrote;
    systemd's own if there are none. Empty when the journal cannot be read."""
    name = str(UnitName.parse(unit))
    if invocation:
        match = [
            f"_SYSTEMD_INVOCATION_ID={invocation}",
            "+",
            f"INVOCATION_ID={invocation}",
            "+",
            f"_SYSTEMD_UNIT={name}",
        ]
    else:
        match = [f"UNIT={name}", "_PID=1"]
    command = ["journalctl", "--quiet", "--lines", str(LINES_READ), "--output", "json", *match]
    try:
        # What a process wrote just before it died may still be on its way to the journal.
        subprocess.run(["journalctl", "--sync"], capture_output=True, timeout=READ_S, check=False)
        done = subprocess.run(command, capture_output=True, timeout=READ_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _LOG.info("the journal is not read: %s", error)
        return []
    return said(done.stdout, invocation, since_us)


def said(output: bytes, invocation: str = "", since_us: int = 0) -> list[str]:
    """The messages in journalctl's JSON: those that processes of units wrote, or systemd's own if there are none.

    With ``invocation``, those of this run: an entry that names no run belongs to it if it came after ``since_us``. What
    is no entry with a text is left out: units write what they like."""
    theirs: list[str] = []
    systemds: list[str] = []
    for line in output.splitlines():
        try:
            entry = record.parse(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or (invocation and not _is_of(entry, invocation, since_us)):
            continue
        message = entry.get("MESSAGE")
        if isinstance(message, list) and all(isinstance(each, int) and 0 <= each < 256 for each in message):
            message = bytes(message).decode(errors="replace")  # so journalctl writes what is no text
        if isinstance(message, str) and message.strip():
            lines = [printable(each, keep="\t") for each in message.strip().splitlines()]
            (systemds if entry.get("_PID") == "1" else theirs).extend(lines)
    return theirs or list(dict.fromkeys(systemds))  # of each try the same


def _is_of(entry: dict[str, object], invocation: str, since_us: int) -> bool:
    run = entry.get("_SYSTEMD_INVOCATION_ID") or entry.get("INVOCATION_ID")
    if run:
        return run == invocation
    came = entry.get("__REALTIME_TIMESTAMP")
    return isinstance(came, str) and came.isascii() and came.isdigit() and int(came[:20]) >= since_us - BEFORE_US

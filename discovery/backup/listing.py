"""Backups for people: a row each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from discovery.backup.shelf import Backup

COLUMNS: Final = ("TAKEN (UTC)", "AGE", "REVISION", "KEYS", "RAFT INDEX", "SIZE", "FILE")
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))


def age(taken: int, now: float) -> str:
    """How long ago that is, in its largest unit."""
    seconds = max(now - taken, 0)
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def amount(size: int) -> str:
    """Bytes, for people."""
    return f"{size / (1 << 20):.1f} MiB"


def rows(backups: Sequence[Backup], now: float) -> list[tuple[str, ...]]:
    """Cells: when, how long ago, revision, keys, raft index, size, file."""
    return [
        (
            datetime.fromtimestamp(one.taken, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            *(age(one.taken, now), str(one.revision), str(one.keys), str(one.raft_index), amount(one.size), one.name),
        )
        for one in backups
    ]

"""The logs of a cluster: consoles, the output of QEMU and of the services, our own.

Guests can add to most of them without end.

All of them are open for appending (``O_APPEND``), in QEMU too, so a file can be truncated under its writer, which goes
on at its new end. What is written between the copy of the last part and the truncation is lost.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

BYTES_MAX = 16 << 20
"""Of a log, and of what is kept of the one before: the console of a node that boots has 60 KB."""
LOOK_S = 2.0
"""Between two checks: a serial port of QEMU's carries some MB in that time."""
PIECE_BYTES = 1 << 20


def fresh(path: Path) -> IO[bytes]:
    """A new log at ``path``, in place of what is there. Raises OSError."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb")


def former(path: Path) -> Path:
    """What is kept of the log at ``path`` from before it was cut."""
    return path.with_name(f"{path.name}.1")


def roll(path: Path, bytes_max: int = BYTES_MAX) -> bool:
    """Cut the log at ``path`` if it is longer than ``bytes_max``, and keep that much of its end in :func:`former`.

    Returns whether it was cut.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size <= bytes_max:
            return False
        with path.open("r+b") as log:
            # Without room for what is kept, there is all the more reason to cut.
            with suppress(OSError), former(path).open("wb") as kept:
                log.seek(-bytes_max, os.SEEK_END)
                left = bytes_max
                while left and (piece := log.read(min(PIECE_BYTES, left))):
                    kept.write(piece)
                    left -= len(piece)
            log.truncate(0)
    except OSError:  # it is not there, or is another user's
        return False
    return True


def resume(log: IO[bytes], position: int) -> int:
    """Go on reading ``log`` at ``position``, or from its beginning if it was cut since; returns where that is."""
    if log.seek(0, os.SEEK_END) < position:
        position = 0
    return log.seek(position)


async def watch(paths: Callable[[], Iterable[Path]]) -> None:
    """Roll all that there are, without end."""
    while True:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(lambda: [roll(path) for path in paths()])

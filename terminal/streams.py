"""Standard streams that the caller has closed, or that have no reader any more: the work continues without output."""

from __future__ import annotations

import os
import sys
from typing import TextIO

STDOUT, STDERR = 1, 2


def open_closed() -> None:
    """Put the null device where the caller closed a standard stream (``>&-``), so that no file of ours gets its number.

    Python has None for such a stream, which ``print`` survives and ``flush`` does not.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = os.fdopen(STDOUT, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(STDERR, "w", closefd=False)


def say(text: str, stream: TextIO) -> None:
    """Print ``text`` as a line on ``stream``; does nothing if it is a pipe without a reader."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        discard(stream)


def discard(stream: TextIO) -> None:
    """Redirect ``stream`` to the null device permanently: buffered text would make Python complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

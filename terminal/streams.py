"""Standard streams that the caller has closed, or that nobody reads any more: the work goes on, unheard."""

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
    """Print ``text`` as a line on ``stream``; if it is a pipe whose reader went away, there is nobody to tell."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        discard(stream)


def discard(stream: TextIO) -> None:
    """Turn ``stream`` to the null device for good: what is still buffered would make Python complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

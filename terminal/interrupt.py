"""Ctrl-C, at a moment of our choice."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends a command (:func:`terminal.command`)."""


@contextmanager
def held_back() -> Iterator[None]:
    """What would interrupt the block interrupts whoever comes after it.

    For starting a process: an exception before its number is known would leave it running. Handlers of ours are not inherited through ``exec``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals do not reach it
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def settled() -> None:
    """What the command was asked for is done: Ctrl-C comes too late now, and is ignored until the process ends.

    Without it, one that comes while the interpreter shuts down would have a command that succeeded say that it was interrupted.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

"""How tests wait: for what happens, never for a time that is usually enough.

Where an event can be waited for itself (a pipe, a queue, a process's end), wait for that; all that can only be looked
at is looked at here.
"""

from __future__ import annotations

import asyncio
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

WITHIN_S = 120.0
"""More than anything takes on a machine that has ten other things to do; who is as late as this does not come."""
LOOK_EVERY_S = 0.005

T = TypeVar("T")


def eventually(what: Callable[[], T], otherwise: str | Callable[[], str] = "", within_s: float = WITHIN_S) -> T:
    """The first true answer of ``what``.

    AssertionError, with ``otherwise``, if none has come after ``within_s`` seconds.
    """
    deadline = time.monotonic() + within_s
    while not (answer := what()):
        _check(deadline, answer, otherwise)
        time.sleep(LOOK_EVERY_S)
    return answer


async def eventually_async(
    what: Callable[[], T], otherwise: str | Callable[[], str] = "", within_s: float = WITHIN_S
) -> T:
    """The same, while the event loop goes on."""
    deadline = time.monotonic() + within_s
    while not (answer := what()):
        _check(deadline, answer, otherwise)
        await asyncio.sleep(LOOK_EVERY_S)
    return answer


def is_blocked(thread: threading.Thread) -> bool:
    """Whether this thread waits for a lock, a condition or a socket, by the innermost of its frames."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_name in ("wait", "readinto", "read", "recv", "_recv", "reload")


def _check(deadline: float, answer: object, otherwise: str | Callable[[], str]) -> None:
    if time.monotonic() > deadline:
        because = otherwise if isinstance(otherwise, str) else otherwise()
        raise AssertionError(f"it never came about, the last answer is {answer!r}{': ' if because else ''}{because}")


def ended(*pids: int, within_s: float = WITHIN_S) -> bool:
    """Wait until these processes have ended, whoever's children they are; whether they have within ``within_s`` seconds
    each.
    """
    for pid in pids:
        with suppress(ProcessLookupError):  # it has, and its parent knows
            process = os.pidfd_open(pid)
            try:
                poll = select.poll()
                poll.register(process, select.POLLIN)
                if not poll.poll(within_s * 1000):
                    return False
            finally:
                os.close(process)
    return True

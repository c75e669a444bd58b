"""Ctrl-C, at a moment of our choice."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a command (:func:`terminal.command`)."""


_NUDGE: Final = signal.SIGURG
"""No process sends it to us, and programs that we start ignore it, as by default."""
_NUDGES: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds between them: on a busy computer it may take long until the main thread waits."""


@contextmanager
def noticed() -> Iterator[None]:
    """While the block runs, a signal is handled at once, not only after the system call of the main thread.

    Python's own handlers run between two steps of a program. A signal that comes after the last step before a system
    call, and before that has begun, interrupts neither: a wait for a pipe or a process then goes on, though Ctrl-C was
    pressed. So a thread receives each signal, and interrupts whatever the main thread waits for a moment later, by a
    signal that means nothing.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    main, over = threading.get_ident(), threading.Event()

    def nudge() -> None:
        while numbers := os.read(reader, 64):
            if set(numbers) != {_NUDGE}:  # its own come here, too
                for seconds in _NUDGES:
                    if over.wait(seconds):
                        return
                    signal.pthread_kill(main, _NUDGE)

    nudger = threading.Thread(target=nudge, name="nudger", daemon=True)
    before = signal.signal(_NUDGE, lambda _, __: None)
    heard_by = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    nudger.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(heard_by)
        os.close(writer)
        nudger.join()
        os.close(reader)
        signal.signal(_NUDGE, before)


@contextmanager
def held_back() -> Iterator[None]:
    """Signals that would interrupt the block are raised after it.

    For starting a process: an exception before its number is known would leave it running. Handlers of ours are not
    inherited through ``exec``.
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
    """The command has done its work: Ctrl-C comes too late now, and is ignored until the process ends.

    Without it, one that comes while the interpreter shuts down would have a command that succeeded say that it was
    interrupted.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

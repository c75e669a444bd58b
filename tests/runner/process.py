"""One program at a time: it receives the signals that we receive, and is waited for until it has cleaned up."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S: Final = 1.0
"""A signal that comes twice within this time is one: ``timeout`` sends it to us and to our process group. A person who
presses Ctrl-C again takes longer, and means it: pytest then breaks off its clean-up.
"""
GRACE_S: Final = 120.0
"""For a program that took too long to put its machines away, before it is killed."""
PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code (negative: the signal), whether a signal came, and whether because its time
    was over.
    """

    code: int
    seconds: float
    interrupted: bool
    timed_out: bool


class Foreman:
    """Starts programs, one after the other, and passes on what ends them. A context manager: signals are its own while
    it is open.

    They stay blocked and are taken from the queue one by one, so that none comes between two steps of ours: one that
    arrives while nothing runs has the next program not be started; ``heard`` is the last one. Each program has a
    process group of its own, so that Ctrl-C reaches it once and by us; if we are killed it gets SIGTERM.
    """

    def __init__(self) -> None:
        self.heard: signal.Signals | None = None
        self._last: dict[int, float] = {}

    def __enter__(self) -> Foreman:
        # Who runs us in the background of a script (SIGINT ignored) wants to be able to end us all the same; nohup
        # means what it says.
        self._ours = {
            number for number in ENDING if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
        }
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, {*self._ours, signal.SIGCHLD})
        return self

    def __exit__(self, *_: object) -> None:
        """What comes from now on, and what was not taken, ends us as it would end any program."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)

    def run(
        self,
        words: Sequence[str | Path],
        *,
        output: Path | None = None,
        limit_s: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Ended | None:
        """Run a program to its end; None if we were interrupted before it began. It has no input, and prints where we
        do, or to ``output``; ``environment`` goes over ours.

        After ``limit_s`` it gets SIGTERM, and its process group SIGKILL if it does not end.
        """
        while (number := self._taken(0)) is not None:
            if number in self._ours:
                self.heard = signal.Signals(number)
        if self.heard is not None:
            return None
        begin = time.monotonic()
        with output.open("wb") if output is not None else nullcontext() as out:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT if output is not None else None,
                env={**os.environ, **(environment or {})},
                process_group=0,
                preexec_fn=self._child,
            )
        timed_out = self._wait(process, None if limit_s is None else begin + limit_s)
        return Ended(process.returncode, time.monotonic() - begin, self.heard is not None, timed_out)

    def _wait(self, process: subprocess.Popen[bytes], deadline: float | None) -> bool:
        """Until it has ended, by itself or not; whether its time was over."""
        timed_out = False
        while process.poll() is None:
            number = self._taken(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if number is None:
                if timed_out:
                    os.killpg(process.pid, signal.SIGKILL)
                    deadline = None
                else:
                    process.send_signal(signal.SIGTERM)
                    timed_out, deadline = True, time.monotonic() + GRACE_S
            elif number in self._ours:
                self.heard = signal.Signals(number)
                now = time.monotonic()
                if now - self._last.get(number, -AGAIN_S) >= AGAIN_S:
                    # All of the group, as a terminal does: workers put away what their tests began.
                    os.killpg(process.pid, signal.SIGTERM if number == signal.SIGHUP else number)
                self._last[number] = now
        return timed_out

    def _taken(self, seconds: float | None) -> int | None:
        """The next signal for us; None if none comes within ``seconds``."""
        numbers = {*self._ours, signal.SIGCHLD}
        if seconds is None:
            return signal.sigwaitinfo(numbers).si_signo
        taken = signal.sigtimedwait(numbers, seconds)
        return None if taken is None else taken.si_signo

    def _child(self) -> None:
        """In the new process: signals as a program expects them."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())

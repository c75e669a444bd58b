"""Processes that outlive the command that made them.

A number is not enough to identify one, since numbers are reused.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PARENT_DEATH = Path(__file__).with_name("parent_death.py")


def dies_with_us(words: Sequence[str]) -> list[str]:
    """The command line that runs ``words`` so that the kernel kills it when this process ends, however it ends."""
    return [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *words]


@dataclass(frozen=True, slots=True)
class Process:
    """A process, identified by its number and its start time (in clock ticks since this computer's boot)."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has the number ``pid`` now, or None if none has, or only as a zombie."""
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, *fields = text[text.rindex(")") + 2 :].split()  # the name before may hold anything, blanks too; proc(5)
        return None if state in "ZX" else cls(pid, int(fields[18]), boot)

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self

    @property
    def memory_bytes(self) -> int:
        """The memory that its end would free; 0 if it has ended.

        That is its own pages and those of files without a name (``RssAnon``, ``RssShmem``; proc(5)).
        """
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process is gone."""
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def wait_gone(self, seconds: float) -> bool:
        """Wait until the process is gone, at most ``seconds``; returns whether it is."""
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def end(self, grace_s: float = 5) -> None:
        """Ask it to end, wait ``grace_s`` seconds, then kill it; returns when it is gone."""
        self.send(signal.SIGTERM)
        if not self.wait_gone(grace_s):
            self.send(signal.SIGKILL)
            self.wait_gone(grace_s)


def running(words: Sequence[str]) -> list[Process]:
    """The processes whose arguments are ``words``, whatever program runs them; those of this user, as others' are not
    ours to read."""
    wanted = "\0".join((*words, "")).encode(errors="surrogateescape")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().partition(b"\0")[2] == wanted and (process := Process.of(int(path.parent.name))):
                found.append(process)
    return found

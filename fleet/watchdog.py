"""fleetd under systemd's watchdog: it reports that it lives, as long as each of its loops advances.

A fleetd that hangs is worse than none: its machine's lease runs out while its units run, and other machines start them,
too. systemd kills and restarts it when no report has come for :func:`timeout_s`. The lease, which was renewed a third
of its time ago at most, lives for two thirds after a hang began; so the new fleetd is back before it ends, and resumes
it.

A thread of its own reports, so neither a long plan nor an etcd that does not answer makes fleetd look dead, while a
process that is stopped is silent at once. It counts the passes of each loop, and reports a loop that has stood still
for longer than its patience. Patience is counted in ticks of that thread, not by a clock: after a pause of the whole
machine all loops are late, and none of them hangs.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from fleet.model.vitals import LoopState

_TICKS = 3
"""In the time that systemd waits for a report. One may be late, another lost."""
_LEAST_S = 3.0
"""A busy machine leaves a process without a processor for a second or two; that is no hang."""
_LOG = logging.getLogger(__name__)


def timeout_s(ttl_s: float) -> float:
    """How long systemd waits for a report, where the machine's lease is ``ttl_s``: a third of it, and 3 s at least.

    So it takes a lease of 9 s or more for a fleetd that hangs to be back before anything moves.
    """
    return max(_LEAST_S, ttl_s / 3)


@dataclass
class Loop:
    """A loop under observation."""

    name: str
    patience: int
    passes: int = 0
    seen: int = 0
    still: int = 0

    def passed(self) -> None:
        """It has advanced; call it once a round, from its thread."""
        self.passes += 1


class Watchdog:
    """Observes loops of a daemon, and sends words of sd_notify(3) with ``send``."""

    def __init__(self, send: Callable[[str], None], *, ttl_s: float) -> None:
        self._send = send
        self._timeout_s = timeout_s(ttl_s)
        self._tick_s = self._timeout_s / _TICKS
        self._loops: list[Loop] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def loop(self, name: str, patience_s: float) -> Loop:
        """Observe a loop of which each round ends within ``patience_s`` seconds."""
        made = Loop(name, math.ceil(patience_s / self._tick_s))
        self._loops = [*self._loops, made]
        return made

    def states(self) -> dict[str, LoopState]:
        """All loops, as the last look found them; from any thread."""
        return {each.name: LoopState(each.passes, each.still > each.patience) for each in self._loops}

    def start(self) -> None:
        """Begin, and let systemd expect it."""
        self._send(f"WATCHDOG_USEC={round(self._timeout_s * 1e6)}\nWATCHDOG=1")
        self._thread.start()

    def stop(self) -> None:
        """End; to be called when the daemon stops, which systemd times by itself."""
        self._stopping.set()
        self._thread.join()

    def tick(self) -> list[str]:
        """Look at all loops, once; the names of those that hang."""
        for each in self._loops:
            passes = each.passes
            each.still = each.still + 1 if passes == each.seen else 0
            each.seen = passes
        return [each.name for each in self._loops if each.still > each.patience]

    def _run(self) -> None:
        while not self._stopping.wait(self._tick_s):
            hung = self.tick()
            if hung:
                _LOG.critical("fleetd hangs in its loop of %s; systemd will restart it", " and ".join(hung))
            self._send("WATCHDOG=trigger" if hung else "WATCHDOG=1")

"""The log of events is bounded: the leader deletes what is too old or too much.

It reads the log to know, a minute after its reign began and once an hour; earlier when it must have grown beyond the
bound. It deletes batches by their names, the oldest first, in fenced transactions; whoever leads after it goes on where
it ended. What is under the log's prefix and is no batch of fleet's stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from etcd.protocol import Op
from fleet.model.eventlog import EventLog
from fleet.model.events import Bound

FIRST_S = 60.0
EVERY_S = 3600.0
_OPS = 100


class Retention:
    """When to look at ``log``, and what to delete of it. Times are of the engine's clock."""

    def __init__(self, log: EventLog, bound: Bound) -> None:
        self._log = log
        self._bound = bound
        self._at: float | None = None
        self._count = 0

    def begin(self, now: float) -> None:
        """This engine leads from ``now`` on."""
        self._at = now + FIRST_S
        self._count = 0

    def end(self) -> None:
        """It no longer leads."""
        self._at = None

    def wrote(self, events: int) -> None:
        """So many events more are in the log, or may be."""
        self._count += events

    def doubt(self) -> None:
        """Whether what was to be deleted is deleted, is not known: look again."""
        if self._at is not None:
            self._count = self._bound.events + self._bound.slack + 1

    def is_due(self, now: float) -> bool:
        """Whether to look now."""
        return self._at is not None and (now >= self._at or self._count > self._bound.events + self._bound.slack)

    def due(self) -> float | None:
        """When to look at the latest; ``None`` without a reign."""
        return self._at

    def prune(self, now: float) -> Iterator[list[Op]]:
        """Look, once; transactions that delete what is too much. Raises :class:`etcd.errors.EtcdError`."""
        page = self._log.after(0)
        gone = self._bound.surplus(page.batches, self._log.clock())
        self._count = sum(len(each.events) for each in page.batches) - sum(len(each.events) for each in gone)
        self._at = now + EVERY_S
        for begin in range(0, len(gone), _OPS):
            yield self._log.prune(gone[begin : begin + _OPS], page.pruned)

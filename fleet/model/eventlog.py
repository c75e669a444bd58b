"""The log of events in etcd.

It is beside fleet's other keys, not among them (``/flotilla/fleet-events/`` for ``/flotilla/fleet/``), so that a view
of the cluster, and the watch that feeds it, has nothing to do with it:

=======================  ===============================================================================
``<ms>-<8 hex digits>``  a batch: events that were written together; its name begins with its time
``seen``                 the revision up to which leaders have written what they saw in their view
``pruned``               the newest revision of a batch that was deleted, because the log has a bound
=======================  ===============================================================================

A batch is written once, in the transaction that changes what it is about; its revision is its place in the log. Who
changes a unit writes its batch (the HTTP API), the leading engine writes all others, and only the leader deletes. So an
idle cluster writes nothing, and a move of fifty units is one transaction with one key more.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from etcd.errors import Compacted
from etcd.protocol import Etcd, KeyValue, Op
from fleet.model import codec
from fleet.model.events import Batch, Event
from fleet.model.vitals import Vitals

_NAME = re.compile(r"\d{13}-[0-9a-f]{8}")
_MS_END = 10**13


@dataclass(frozen=True, slots=True)
class Page:
    """Batches by revision, the oldest first, and the revision up to which they are all.

    ``pruned`` is the newest revision of what is no longer kept. ``is_torn``: that is newer than what was requested."""

    batches: tuple[Batch, ...]
    revision: int
    pruned: int = 0
    is_torn: bool = False


class EventLog:
    """The log beside the keys of ``prefix``, which ends with a slash. ``clock`` gives Unix seconds. Thread-safe.

    Methods that read raise :class:`etcd.errors.EtcdError`."""

    def __init__(
        self, client: Etcd, prefix: str, vitals: Vitals | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._vitals = vitals or Vitals()
        self.prefix = prefix.removesuffix("/") + "-events/"
        self.clock = clock
        self._client = client

    # Writing, as a part of the caller's transaction

    def put(self, events: Iterable[Event], by: str) -> Op:
        """What adds a batch with the time of now. Sent twice, it is the same batch."""
        batch = Batch(max(0.0, round(self.clock(), 3)), by, tuple(events))
        for each in batch.events:
            self._vitals.count("fleet_events_total", each.kind)
        name = f"{min(round(batch.at * 1000), _MS_END - 1):013d}-{secrets.token_hex(4)}"
        return Op.put(self.prefix + name, codec.batch_bytes(batch))

    def put_seen(self, revision: int) -> Op:
        """What notes that all is written that was seen up to this revision."""
        return Op.put(self.prefix + "seen", codec.revision_bytes(revision))

    def prune(self, batches: Sequence[Batch], pruned: int) -> list[Op]:
        """What deletes these batches, as read before, and nothing else; ``pruned`` is that of their page."""
        newest = max(pruned, *(each.revision for each in batches))
        mark = Op.put(self.prefix + "pruned", codec.revision_bytes(newest))
        return [*(Op.delete(self.prefix + each.name) for each in batches), mark]

    # Reading

    def seen(self) -> int:
        """Up to which revision leaders have written what they saw; 0 if none has."""
        found = self._client.get(self.prefix + "seen")
        return 0 if found is None else _revision(found)

    def after(self, revision: int) -> Page:
        """All that is kept and was written after ``revision`` (0: all)."""
        found = self._client.range(self.prefix)
        pruned = next((_revision(each) for each in found.kvs if each.key == self.prefix + "pruned"), 0)
        batches = [batch for each in found.kvs if each.create_revision > revision and (batch := self._batch(each))]
        # An etcd that is back at an earlier revision was restored: what the caller has seen may never have been.
        is_torn = 0 < revision < pruned or revision > found.revision
        return Page(tuple(sorted(batches, key=lambda each: each.revision)), found.revision, pruned, is_torn)

    def follow(self, revision: int, seconds: float) -> Page:
        """As :meth:`after`, but it waits until there is something, so many seconds at most."""
        if self._client.range(self.prefix + "seen").revision < revision:
            return self.after(revision)
        try:
            watch = self._client.watch(self.prefix, revision + 1)
        except Compacted:
            return self.after(revision)
        timer = threading.Timer(seconds, watch.close)
        timer.daemon = True
        timer.start()
        try:
            for batch in watch:
                # What was sent twice is written twice, and read once.
                puts = [each.kv for each in batch.events if each.kind == "put" and each.kv.version == 1]
                found = tuple(made for kv in puts if (made := self._batch(kv)) is not None)
                if found:
                    return Page(found, batch.revision)
        except Compacted:
            return self.after(revision)
        finally:
            timer.cancel()
            watch.close()
        return Page((), revision)

    def _batch(self, found: KeyValue) -> Batch | None:
        """The batch of a key; ``None`` for a key that is not of this format, which is left alone."""
        name = found.key.removeprefix(self.prefix)
        if not _NAME.fullmatch(name):
            return None
        try:
            return replace(codec.batch(name, found.value), revision=found.create_revision, name=name)
        except codec.BrokenValue:
            return None


def _revision(found: KeyValue) -> int:
    try:
        return codec.revision(found.key, found.value)
    except codec.BrokenValue:
        return 0

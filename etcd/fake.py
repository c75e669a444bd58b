"""etcd in memory, for tests and simulations: same answers, no network, and time that passes only on request.

    fake = FakeEtcd()
    lease = fake.lease_grant(10)
    fake.put("machines/a", b"{}", lease=lease.id)
    fake.advance(10.5)                 # the lease ends, the key is deleted, watches see it
    other = fake.connect()             # a second client of the same store ...
    other.reachable = False            # ... whose network is gone: its calls and watches are Unavailable
    fake.lose_reply()                  # the next write is applied, but its answer never comes

A watch may be read by a thread, which blocks, or by a single-threaded simulation with :meth:`FakeWatch.poll`, which
never does. Where etcd chooses (how events are grouped into batches) the fake gives one batch a revision.
"""

from __future__ import annotations

import itertools
import operator
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from etcd.errors import Compacted, EtcdError, LeaseNotFound, Unavailable
from etcd.protocol import (
    Compare,
    Event,
    KeyValue,
    Lease,
    Member,
    Op,
    OpResult,
    RangeResult,
    Relation,
    Status,
    TxnResult,
    WatchBatch,
)
from etcd.refusals import refusal
from etcd.wire import encode_key

_WHERE = "fake etcd"
_INVALID_ARGUMENT, _OUT_OF_RANGE = 3, 11

# etcd's own defaults: --max-txn-ops, --max-request-bytes.
TXN_OPS_MAX = 128
REQUEST_BYTES_MAX = 1536 * 1024

_RELATIONS: dict[Relation, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_MISSING = KeyValue("", b"", 0, 0, 0)


@dataclass
class _Lease:
    ttl: int
    deadline: float
    keys: set[str] = field(default_factory=set)


class Store:
    """The key space: every version since the last compaction, leases, and a clock in seconds. Not thread-safe by
    itself: the clients of it hold ``changed`` while they use it."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.now = 0.0
        self.revision = 1
        self.compacted = 0
        self.watches: list[FakeWatch] = []
        self._versions: dict[str, list[KeyValue]] = {}  # by revision; version 0 is a deletion
        self._history: list[WatchBatch] = []
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = itertools.count(1001)

    def at(self, key: str, revision: int = 0) -> KeyValue | None:
        """The key as of a revision (0 = the newest change, even one of the running transaction)."""
        for kv in reversed(self._versions.get(key, ())):
            if not revision or kv.mod_revision <= revision:
                return kv if kv.version else None
        return None

    def under(self, key: str, *, prefix: bool, revision: int = 0) -> tuple[KeyValue, ...]:
        """The key, or all that begin with it, in the order of their bytes."""
        names = [name for name in self._versions if name.startswith(key)] if prefix else [key]
        found = [kv for name in names if (kv := self.at(name, revision)) is not None]
        return tuple(sorted(found, key=lambda kv: encode_key(kv.key)))

    def check_revision(self, revision: int) -> None:
        """Raise etcd's error for a revision that is compacted, or in the future."""
        if revision > self.revision:
            raise EtcdError("mvcc: required revision is a future revision", where=_WHERE, code=_OUT_OF_RANGE)
        if 0 < revision < self.compacted:
            raise Compacted(0, where=_WHERE)

    def holds(self, compare: Compare) -> bool:
        """Whether the condition is true now."""
        kv = self.at(compare.key)
        if compare.target == "VALUE":
            return kv is not None and bool(_RELATIONS[compare.relation](kv.value, compare.operand))
        kv = kv or _MISSING
        actual = {
            "CREATE": kv.create_revision,
            "MOD": kv.mod_revision,
            "VERSION": kv.version,
            "LEASE": kv.lease,
        }[compare.target]
        return bool(_RELATIONS[compare.relation](actual, compare.operand))

    def apply(self, ops: Sequence[Op]) -> tuple[OpResult, ...]:
        """Do all of ``ops`` in one revision, or raise before anything is done."""
        for op in ops:
            if op.kind == "put" and op.lease and op.lease not in self._leases:
                raise LeaseNotFound(op.lease, where=_WHERE)
        events: list[Event] = []
        results = tuple(self._step(op, events) for op in ops)
        if events:
            self.revision += 1
            self._history.append(WatchBatch(self.revision, tuple(events)))
            self.changed.notify_all()
        return results

    def _step(self, op: Op, events: list[Event]) -> OpResult:
        if op.kind == "get":
            return OpResult("get", kvs=self.under(op.key, prefix=op.prefix))
        if op.kind == "delete":
            doomed = self.under(op.key, prefix=op.prefix)
            for kv in doomed:
                self._record(KeyValue(kv.key, b"", 0, self.revision + 1, 0), "delete", events)
            return OpResult("delete", deleted=len(doomed))
        revision = self.revision + 1
        old = self.at(op.key) or KeyValue(op.key, b"", revision, revision, 0)
        kv = KeyValue(op.key, op.value_bytes, old.create_revision, revision, old.version + 1, op.lease)
        self._record(kv, "put", events)
        return OpResult("put")

    def _record(self, kv: KeyValue, kind: str, events: list[Event]) -> None:
        old = self.at(kv.key)
        if old is not None and old.lease in self._leases:
            self._leases[old.lease].keys.discard(kv.key)
        if kv.lease:
            self._leases[kv.lease].keys.add(kv.key)
        self._versions.setdefault(kv.key, []).append(kv)
        events.append(Event("put" if kind == "put" else "delete", kv))

    def events_since(self, revision: int) -> Iterator[WatchBatch]:
        """What happened at ``revision`` and later."""
        begin = bisect_left(self._history, revision, key=lambda batch: batch.revision)
        return (self._history[index] for index in range(begin, len(self._history)))

    def compact(self, revision: int) -> None:
        """Forget all versions that ``revision`` does not see. Watches that are open lose nothing."""
        if revision <= self.compacted:
            raise Compacted(0, where=_WHERE)
        self.check_revision(revision)
        for watch in self.watches:
            watch.fill()
        self.compacted = revision
        self._history = list(self.events_since(revision))
        for key in list(self._versions):
            seen = self.at(key, revision)
            kept = [kv for kv in self._versions[key] if kv.mod_revision > revision]
            self._versions[key] = [seen, *kept] if seen is not None else kept
            if not self._versions[key]:
                del self._versions[key]

    def grant(self, ttl: int) -> Lease:
        """A new lease."""
        lease = next(self._lease_ids)
        self._leases[lease] = _Lease(ttl, self.now + ttl)
        return Lease(lease, ttl)

    def renew(self, lease: int) -> int:
        """Restart the lease's time."""
        found = self._leases.get(lease)
        if found is None:
            return 0
        found.deadline = self.now + found.ttl
        return found.ttl

    def revoke(self, lease: int) -> bool:
        """End the lease, delete its keys in one revision."""
        found = self._leases.get(lease)
        if found is None:
            return False
        self.apply([Op.delete(key) for key in sorted(found.keys, key=encode_key)])
        del self._leases[lease]
        return True

    def advance(self, seconds: float) -> None:
        """Let time pass; leases end in the order of their deadlines."""
        until = self.now + seconds
        while due := [(lease.deadline, id_) for id_, lease in self._leases.items() if lease.deadline <= until]:
            self.now, expired = min(due)
            self.revoke(expired)
        self.now = until


class FakeWatch:
    """See :class:`etcd.protocol.Watch`."""

    def __init__(self, client: FakeEtcd, prefix: str, start_revision: int, *, progress: bool) -> None:
        self._client = client
        self._store = client.store
        self._prefix = prefix
        self._next = start_revision or self._store.revision + 1
        self._progress = progress
        self._ready: deque[WatchBatch] = deque()
        self._trouble: EtcdError | None = None
        self._closed = False
        self.revision = self._next - 1
        if start_revision and start_revision < self._store.compacted:
            self._trouble = Compacted(self._store.compacted, where=_WHERE)
        self._store.watches.append(self)

    def fill(self, batches_max: int | None = None) -> None:
        """Take the events since the last time, at most so many batches."""
        for batch in self._store.events_since(self._next):
            if batches_max is not None and len(self._ready) >= batches_max:
                return
            self._next = batch.revision + 1
            events = tuple(event for event in batch.events if event.kv.key.startswith(self._prefix))
            if events:
                self._ready.append(WatchBatch(batch.revision, events))

    def notice(self) -> None:
        """What etcd does every ``--experimental-watch-progress-notify-interval``."""
        if self._progress and self._next <= self._store.revision + 1:  # not if it waits for the future
            self.fill()
            self._ready.append(WatchBatch(self._store.revision, ()))

    def lose(self) -> None:
        """The network goes away: what was not read yet is lost."""
        self._ready.clear()
        self._trouble = self._trouble or Unavailable("the watch was cut off", where=_WHERE)

    def poll(self) -> WatchBatch | None:
        """The next batch if there is one now; raises as the iterator does."""
        with self._store.changed:
            if self._closed:
                return None
            if self._trouble is not None:
                raise self._trouble
            self.fill(batches_max=1)
            if not self._ready:
                return None
            batch = self._ready.popleft()
            self.revision = batch.revision
            return batch

    def __iter__(self) -> Iterator[WatchBatch]:
        return self

    def __next__(self) -> WatchBatch:
        with self._store.changed:
            while not self._closed:
                batch = self.poll()
                if batch is not None:
                    return batch
                self._store.changed.wait()
        raise StopIteration

    def close(self) -> None:
        """See :meth:`etcd.protocol.Watch.close`."""
        with self._store.changed:
            if not self._closed:
                self._closed = True
                self._store.watches.remove(self)
                self._client.forget(self)
                self._store.changed.notify_all()


class FakeEtcd:
    """One client of a :class:`Store`; see :class:`etcd.protocol.Etcd`. Thread-safe."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store if store is not None else Store()
        self._reachable = True
        self._lose_reply = False
        self._watches: list[FakeWatch] = []

    def connect(self) -> FakeEtcd:
        """Another client of the same store, with a network of its own."""
        return FakeEtcd(self.store)

    @property
    def reachable(self) -> bool:
        """Whether this client's network works; setting it to False breaks its watches."""
        return self._reachable

    @reachable.setter
    def reachable(self, reachable: bool) -> None:
        with self.store.changed:
            self._reachable = reachable
            if not reachable:
                for watch in self._watches:
                    watch.lose()
                self._watches.clear()
                self.store.changed.notify_all()

    def forget(self, watch: FakeWatch) -> None:
        """A watch of this client was closed."""
        if watch in self._watches:
            self._watches.remove(watch)

    def lose_reply(self) -> None:
        """Apply the next write of this client, then raise Unavailable with ``maybe_applied``."""
        self._lose_reply = True

    def advance(self, seconds: float) -> None:
        """Let virtual time pass, for all clients of the store; leases that end delete their keys."""
        with self.store.changed:
            self.store.advance(seconds)

    def notify_progress(self) -> None:
        """Send a progress notice to the watches that requested them."""
        with self.store.changed:
            for watch in self.store.watches:
                watch.notice()
            self.store.changed.notify_all()

    def get(self, key: str) -> KeyValue | None:
        """See :meth:`etcd.protocol.Etcd.get`."""
        with self._reach():
            _check_key(key)
            return self.store.at(key)

    def range(self, prefix: str, *, revision: int = 0) -> RangeResult:
        """See :meth:`etcd.protocol.Etcd.range`."""
        with self._reach():
            self.store.check_revision(revision)
            return RangeResult(
                self.store.under(prefix, prefix=True, revision=revision), revision or self.store.revision
            )

    def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """See :meth:`etcd.protocol.Etcd.put`."""
        return self.txn((), (Op.put(key, value, lease=lease),)).revision

    def delete(self, key: str) -> bool:
        """See :meth:`etcd.protocol.Etcd.delete`."""
        return self.txn((), (Op.delete(key),)).responses[0].deleted > 0

    def delete_prefix(self, prefix: str) -> int:
        """See :meth:`etcd.protocol.Etcd.delete_prefix`."""
        return self.txn((), (Op.delete_prefix(prefix),)).responses[0].deleted

    def txn(self, compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """See :meth:`etcd.protocol.Etcd.txn`."""
        with self._reach():
            for one in compare:
                _check_key(one.key)
            _check_ops(success)
            _check_ops(failure)
            if max(len(compare), len(success), len(failure)) > TXN_OPS_MAX:
                raise refusal("too many operations in txn request", where=_WHERE, code=_INVALID_ARGUMENT)
            if sum(len(op.key) + len(op.value_bytes) for op in (*success, *failure)) > REQUEST_BYTES_MAX:
                raise refusal("request is too large", where=_WHERE, code=_INVALID_ARGUMENT)
            succeeded = all(self.store.holds(one) for one in compare)
            responses = self.store.apply(success if succeeded else failure)
            self._reply()
            return TxnResult(succeeded, self.store.revision, responses)

    def lease_grant(self, ttl_s: int) -> Lease:
        """See :meth:`etcd.protocol.Etcd.lease_grant`."""
        if ttl_s < 1:
            raise ValueError(f"a lease of {ttl_s} s")
        with self._reach():
            return self.store.grant(ttl_s)

    def lease_keepalive(self, lease: int) -> int:
        """See :meth:`etcd.protocol.Etcd.lease_keepalive`."""
        with self._reach():
            return self.store.renew(lease)

    def lease_revoke(self, lease: int) -> bool:
        """See :meth:`etcd.protocol.Etcd.lease_revoke`."""
        with self._reach():
            return self.store.revoke(lease)

    def watch(self, prefix: str, start_revision: int = 0, *, progress: bool = False) -> FakeWatch:
        """See :meth:`etcd.protocol.Etcd.watch`."""
        with self._reach():
            watch = FakeWatch(self, prefix, start_revision, progress=progress)
            self._watches.append(watch)
            return watch

    def compact(self, revision: int) -> None:
        """See :meth:`etcd.protocol.Etcd.compact`."""
        with self._reach():
            self.store.compact(revision)

    def members(self) -> tuple[Member, ...]:
        """See :meth:`etcd.protocol.Etcd.members`: one, always."""
        with self._reach():
            return (Member(1, "fake", ("http://fake:2380",), ("http://fake:2379",)),)

    def status(self, endpoint: str = "") -> Status:  # noqa: ARG002 - there is one endpoint
        """See :meth:`etcd.protocol.Etcd.status`."""
        with self._reach():
            return Status("3.5.0-fake", 1, 1, 1, self.store.revision, self.store.revision, 0)

    def health(self) -> bool:
        """See :meth:`etcd.protocol.Etcd.health`."""
        return self._reachable

    def close(self) -> None:
        """See :meth:`etcd.protocol.Etcd.close`."""

    def _reach(self) -> threading.Condition:
        if not self._reachable:
            raise Unavailable("cannot connect to etcd", where=_WHERE)
        return self.store.changed

    def _reply(self) -> None:
        if self._lose_reply:
            self._lose_reply = False
            raise Unavailable("etcd did not answer", where=_WHERE, maybe_applied=True)


def _check_key(key: str) -> None:
    if not key:
        raise EtcdError("key is not provided", where=_WHERE, code=_INVALID_ARGUMENT)


def _check_ops(ops: Sequence[Op]) -> None:
    """etcd refuses a transaction that could change one key twice."""
    put: set[str] = set()
    for op in ops:
        if not op.prefix:
            _check_key(op.key)
        if op.kind == "put":
            if op.key in put:
                raise EtcdError("duplicate key given in txn request", where=_WHERE, code=_INVALID_ARGUMENT)
            put.add(op.key)
    for op in ops:
        if op.kind == "delete" and any(key.startswith(op.key) if op.prefix else key == op.key for key in put):
            raise EtcdError("duplicate key given in txn request", where=_WHERE, code=_INVALID_ARGUMENT)

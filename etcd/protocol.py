"""The values that go into etcd and come out of it, and the protocol that the client and the fake satisfy.

Keys are ``str`` (UTF-8 on the wire; other bytes survive as surrogate escapes), values are ``bytes``, revisions are the
cluster-wide counter of etcd's MVCC store: 1 when empty, plus one for each transaction that changes something.
Source: https://etcd.io/docs/v3.5/learning/api/.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Relation = Literal["==", "!=", "<", ">"]
Target = Literal["CREATE", "MOD", "VERSION", "VALUE", "LEASE"]


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key at one revision. ``version`` counts the puts since creation; ``lease`` 0 means none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class RangeResult:
    """``kvs`` in key order, all as of ``revision``: a watch from ``revision + 1`` misses nothing."""

    kvs: tuple[KeyValue, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition of a transaction. A key that is missing has revisions, version and lease 0, and no value at all:
    every comparison of its value is false. Make one with the constructors below."""

    target: Target
    key: str
    relation: Relation
    operand: int | bytes

    @classmethod
    def created(cls, key: str, relation: Relation, revision: int) -> Compare:
        """Compare the revision that created ``key``; ``== 0`` is "does not exist"."""
        return cls("CREATE", key, relation, revision)

    @classmethod
    def modified(cls, key: str, relation: Relation, revision: int) -> Compare:
        """Compare the revision that last changed ``key``."""
        return cls("MOD", key, relation, revision)

    @classmethod
    def version(cls, key: str, relation: Relation, version: int) -> Compare:
        """Compare the number of puts since creation."""
        return cls("VERSION", key, relation, version)

    @classmethod
    def value(cls, key: str, relation: Relation, value: bytes) -> Compare:
        """Compare the value, bytewise."""
        return cls("VALUE", key, relation, value)

    @classmethod
    def lease(cls, key: str, relation: Relation, lease: int) -> Compare:
        """Compare the lease that ``key`` is bound to."""
        return cls("LEASE", key, relation, lease)


@dataclass(frozen=True, slots=True)
class Op:
    """One step of a transaction; ``prefix`` makes ``key`` stand for all keys that begin with it (not for puts)."""

    kind: Literal["put", "delete", "get"]
    key: str
    value_bytes: bytes = b""
    lease: int = 0
    prefix: bool = False

    @classmethod
    def put(cls, key: str, value: bytes, *, lease: int = 0) -> Op:
        """Set ``key``; a lease of 0 unbinds it from the lease it had."""
        return cls("put", key, value, lease)

    @classmethod
    def delete(cls, key: str) -> Op:
        """Delete ``key`` if it exists."""
        return cls("delete", key)

    @classmethod
    def delete_prefix(cls, prefix: str) -> Op:
        """Delete all keys that begin with ``prefix``."""
        return cls("delete", prefix, prefix=True)

    @classmethod
    def get(cls, key: str) -> Op:
        """Read ``key`` as the steps before left it."""
        return cls("get", key)

    @classmethod
    def get_prefix(cls, prefix: str) -> Op:
        """Read all keys that begin with ``prefix``, as the steps before left them."""
        return cls("get", prefix, prefix=True)


@dataclass(frozen=True, slots=True)
class OpResult:
    """What one step did: ``kvs`` of a get, the number of keys ``deleted``; a put has neither."""

    kind: Literal["put", "delete", "get"]
    kvs: tuple[KeyValue, ...] = ()
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class TxnResult:
    """``responses`` belong to the list that ran, step by step; ``revision`` is the store's after the transaction."""

    succeeded: bool
    revision: int
    responses: tuple[OpResult, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """``ttl`` is in seconds, and may be more than requested (etcd has a minimum of 1.5 election timeouts)."""

    id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class Event:
    """A put or a delete. In a delete ``kv`` has only the key and, as ``mod_revision``, when it happened."""

    kind: Literal["put", "delete"]
    kv: KeyValue


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All events up to and with ``revision`` have now been delivered: resume from ``revision + 1``.

    One transaction is never split over two batches. Without events it is a progress notice.
    """

    revision: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the etcd cluster; the name is empty until it started for the first time."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    learner: bool = False


@dataclass(frozen=True, slots=True)
class Status:
    """How one member sees itself. ``leader`` 0 means that it knows none; sizes are bytes."""

    version: str
    member_id: int
    leader: int
    raft_term: int
    raft_index: int
    revision: int
    db_size: int
    learner: bool = False
    errors: tuple[str, ...] = ()


class Watch(Protocol):
    """An iterator of batches that blocks until something happens.

    Raises :class:`~etcd.errors.Compacted` if the start is gone, :class:`~etcd.errors.Unavailable` if the stream is
    lost; ends after :meth:`close`.
    """

    def __iter__(self) -> Iterator[WatchBatch]: ...

    def __next__(self) -> WatchBatch: ...

    def close(self) -> None:
        """End the watch; from any thread, any number of times. A blocked reader gets StopIteration at once."""


class Etcd(Protocol):
    """etcd as the house uses it. All methods raise :class:`~etcd.errors.EtcdError`, mostly its kind ``Unavailable``."""

    def get(self, key: str) -> KeyValue | None:
        """The key now (a linearizable read), None if it does not exist."""

    def range(self, prefix: str, *, revision: int = 0) -> RangeResult:
        """All keys that begin with ``prefix``, at one revision (0 = now). Raises Compacted, for an old one."""

    def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Set the key, return the revision. Raises LeaseNotFound."""

    def delete(self, key: str) -> bool:
        """Delete the key; whether it existed."""

    def delete_prefix(self, prefix: str) -> int:
        """Delete all keys that begin with ``prefix``; how many there were."""

    def txn(self, compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """If all of ``compare`` hold, do ``success``, else ``failure``: atomically, in one revision."""

    def lease_grant(self, ttl_s: int) -> Lease:
        """A new lease that lives ``ttl_s`` seconds (at least 1) from each keep-alive on."""

    def lease_keepalive(self, lease: int) -> int:
        """Renew the lease; its TTL in seconds, 0 if it is gone."""

    def lease_revoke(self, lease: int) -> bool:
        """End the lease and delete its keys; False if it was gone before."""

    def watch(self, prefix: str, start_revision: int = 0, *, progress: bool = False) -> Watch:
        """Follow all keys that begin with ``prefix``, from ``start_revision`` on (0 = from now on).

        Returns when etcd has confirmed the watch. With ``progress``, batches without events come now and then.
        """

    def compact(self, revision: int) -> None:
        """Forget the history before ``revision``. Raises Compacted if that is done already."""

    def members(self) -> tuple[Member, ...]:
        """The members of the cluster, by id."""

    def status(self, endpoint: str = "") -> Status:
        """The state of the member behind ``endpoint`` (empty: the one that answers first)."""

    def health(self) -> bool:
        """Whether etcd answers a linearizable read, through any endpoint. Never raises."""

    def close(self) -> None:
        """Close connections. Watches are closed by their creators."""

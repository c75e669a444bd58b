"""The thin etcd v3 client that all packages share, and its in-memory twin.

Nouns: a :class:`KeyValue` is a key at a revision; a transaction is :class:`Compare` s that choose between two lists of
:class:`Op` s; a :class:`Lease` is time that keys may be bound to; a :class:`WatchBatch` is what changed up to a
revision. :class:`Client` talks to a real etcd through its JSON gateway; :class:`etcd.fake.FakeEtcd` is the same in
memory, under a virtual clock. Both satisfy :class:`etcd.protocol.Etcd`, and one conformance suite (tests/etcd) runs
against both.

``etcd.Client`` and ``etcd.Tls`` load the HTTP and TLS modules on first access, so that pure code can import the values
cheaply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etcd.errors import Compacted, Corrupt, Denied, EtcdError, LeaseNotFound, NoSpace, TooLarge, Unavailable, Untrusted
from etcd.protocol import (
    Compare,
    Etcd,
    Event,
    KeyValue,
    Lease,
    Member,
    Op,
    OpResult,
    RangeResult,
    Status,
    TxnResult,
    Watch,
    WatchBatch,
)

if TYPE_CHECKING:
    from etcd.client import Client
    from etcd.transport import Tls

__all__ = [
    "Client",
    "Compacted",
    "Compare",
    "Corrupt",
    "Denied",
    "Etcd",
    "EtcdError",
    "Event",
    "KeyValue",
    "Lease",
    "LeaseNotFound",
    "Member",
    "NoSpace",
    "Op",
    "OpResult",
    "RangeResult",
    "Status",
    "Tls",
    "TooLarge",
    "TxnResult",
    "Unavailable",
    "Untrusted",
    "Watch",
    "WatchBatch",
]


def __getattr__(name: str) -> object:
    if name == "Client":
        from etcd.client import Client

        return Client
    if name == "Tls":
        from etcd.transport import Tls

        return Tls
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

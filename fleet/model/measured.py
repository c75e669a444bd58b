"""etcd, with the time that each request takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from etcd.errors import Compacted, EtcdError, LeaseNotFound, Unavailable
from etcd.protocol import Compare, Etcd, KeyValue, Lease, Member, Op, RangeResult, Status, TxnResult, Watch
from fleet.model.vitals import Vitals

Answer = TypeVar("Answer")


class Measured:
    """``client``, whose requests are counted and timed in ``vitals``. See :class:`etcd.protocol.Etcd`."""

    def __init__(self, client: Etcd, vitals: Vitals) -> None:
        self._client = client
        self._vitals = vitals

    def get(self, key: str) -> KeyValue | None:
        """See :class:`etcd.protocol.Etcd`, as all of these."""
        return self._timed("get", lambda: self._client.get(key))

    def range(self, prefix: str, *, revision: int = 0) -> RangeResult:
        """Timed as ``range``."""
        return self._timed("range", lambda: self._client.range(prefix, revision=revision))

    def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Timed as ``put``."""
        return self._timed("put", lambda: self._client.put(key, value, lease=lease))

    def delete(self, key: str) -> bool:
        """Timed as ``delete``."""
        return self._timed("delete", lambda: self._client.delete(key))

    def delete_prefix(self, prefix: str) -> int:
        """Timed as ``delete``."""
        return self._timed("delete", lambda: self._client.delete_prefix(prefix))

    def txn(self, compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """Timed as ``txn``."""
        return self._timed("txn", lambda: self._client.txn(compare, success, failure))

    def lease_grant(self, ttl_s: int) -> Lease:
        """Timed as ``lease``."""
        return self._timed("lease", lambda: self._client.lease_grant(ttl_s))

    def lease_keepalive(self, lease: int) -> int:
        """Timed as ``lease``."""
        return self._timed("lease", lambda: self._client.lease_keepalive(lease))

    def lease_revoke(self, lease: int) -> bool:
        """Timed as ``lease``."""
        return self._timed("lease", lambda: self._client.lease_revoke(lease))

    def watch(self, prefix: str, start_revision: int = 0, *, progress: bool = False) -> Watch:
        """Timed as ``watch``, until it is confirmed."""
        return self._timed("watch", lambda: self._client.watch(prefix, start_revision, progress=progress))

    def compact(self, revision: int) -> None:
        """Timed as ``compact``."""
        self._timed("compact", lambda: self._client.compact(revision))

    def members(self) -> tuple[Member, ...]:
        """Timed as ``members``."""
        return self._timed("members", self._client.members)

    def status(self, endpoint: str = "") -> Status:
        """Timed as ``status``."""
        return self._timed("status", lambda: self._client.status(endpoint))

    def health(self) -> bool:
        """Not timed: it never raises."""
        return self._client.health()

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def _timed(self, operation: str, call: Callable[[], Answer]) -> Answer:
        begin = time.monotonic()
        try:
            answer = call()
        except (Compacted, LeaseNotFound):
            self._vitals.set("fleet_etcd_up", 1)
            raise  # answers, of which the caller makes something
        except EtcdError as error:
            self._vitals.count("fleet_etcd_errors_total", operation)
            self._vitals.set("fleet_etcd_up", 0 if isinstance(error, Unavailable) else 1)
            raise
        self._vitals.observe("fleet_etcd_request_seconds", time.monotonic() - begin, operation)
        self._vitals.set("fleet_etcd_up", 1)
        return answer

"""A real etcd, through the JSON gateway that every member serves beside gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from etcd import wire
from etcd.errors import Compacted, EtcdError, LeaseNotFound
from etcd.paging import PageSize
from etcd.protocol import Compare, KeyValue, Lease, Member, Op, RangeResult, Status, TxnResult
from etcd.stream import StreamWatch
from etcd.transport import Endpoint, Tls, Transport
from etcd.wire import Json

__all__ = ["Client", "Tls"]

_T = TypeVar("_T")


class Client:
    """See :class:`etcd.protocol.Etcd`. Thread-safe.

    ``endpoints`` are tried in turn; ``timeout`` is seconds for one request to one endpoint. ``watch_silence``, if
    given, is how long a watch may bring nothing, not even a progress notice, before it is taken for lost: more than
    etcd's ``--experimental-watch-progress-notify-interval`` (10 minutes, unless set).
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout: float = 5.0,
        tls: Tls | None = None,
        watch_silence: float | None = None,
    ) -> None:
        self._transport = Transport(endpoints, timeout=timeout, tls=tls)
        self._silence = watch_silence

    @classmethod
    def over(cls, transport: Transport) -> Client:
        """A client that sends its requests with ``transport``, which may be one of the caller's making."""
        client = cls([str(endpoint) for endpoint in transport.endpoints], timeout=transport.timeout)
        client._transport = transport
        return client

    def get(self, key: str) -> KeyValue | None:
        """See :meth:`etcd.protocol.Etcd.get`."""
        kvs = self._call("/v3/kv/range", wire.key_fields(key, prefix=False), wire.decode_range, resend=True).kvs
        return kvs[0] if kvs else None

    def range(self, prefix: str, *, revision: int = 0) -> RangeResult:
        """See :meth:`etcd.protocol.Etcd.range`. Read in pages, all at the revision of the first."""
        while True:
            try:
                return self._pages(wire.key_fields(prefix, prefix=True), revision)
            except Compacted:
                if revision:
                    raise
                # The revision of our first page was compacted before the last one was read: begin again with now.

    def _pages(self, fields: Json, revision: int) -> RangeResult:
        """All pages. While one is decoded, etcd works on the next."""
        kvs: list[KeyValue] = []
        size = PageSize()
        request = fields | {"limit": str(size.keys), "revision": str(revision)}
        answer, seconds = self._page(request)
        if answer.get("more") is not True:  # most ranges are small: no thread for them
            page = self._decoded(answer, wire.decode_range)
            return RangeResult(page.kvs, revision or page.revision)
        with ThreadPoolExecutor(1) as beside:
            while True:
                following: Future[tuple[Json, float]] | None = None
                if answer.get("more") is True:
                    after, newest = self._decoded(answer, wire.decode_end)
                    revision = revision or newest  # of the first page; later ones have the store's at their time
                    request |= {"key": after, "limit": str(size.keys), "revision": str(revision)}
                    following = beside.submit(self._page, dict(request))
                page = self._decoded(answer, wire.decode_range)
                kvs.extend(page.kvs)
                if following is None:
                    return RangeResult(tuple(kvs), revision or page.revision)
                size.learn(len(page.kvs), sum(len(kv.value) for kv in page.kvs), seconds)
                answer, seconds = following.result()

    def _page(self, request: Json) -> tuple[Json, float]:
        begin = time.monotonic()
        return self._transport.call("/v3/kv/range", request, resend=True), time.monotonic() - begin

    def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """See :meth:`etcd.protocol.Etcd.put`."""
        return self._call("/v3/kv/put", wire.put_fields(key, value, lease), wire.revision, resend=False)

    def delete(self, key: str) -> bool:
        """See :meth:`etcd.protocol.Etcd.delete`."""
        return self._delete(wire.key_fields(key, prefix=False)) > 0

    def delete_prefix(self, prefix: str) -> int:
        """See :meth:`etcd.protocol.Etcd.delete_prefix`."""
        return self._delete(wire.key_fields(prefix, prefix=True))

    def _delete(self, fields: Json) -> int:
        return self._call("/v3/kv/deleterange", fields, lambda answer: wire.integer(answer, "deleted"), resend=False)

    def txn(self, compare: Sequence[Compare], success: Sequence[Op], failure: Sequence[Op] = ()) -> TxnResult:
        """See :meth:`etcd.protocol.Etcd.txn`."""
        request = {
            "compare": [wire.encode_compare(one) for one in compare],
            "success": [wire.encode_op(op) for op in success],
            "failure": [wire.encode_op(op) for op in failure],
        }
        only_reads = all(op.kind == "get" for op in (*success, *failure))
        try:
            return self._call("/v3/kv/txn", request, wire.decode_txn, resend=only_reads)
        except LeaseNotFound as error:
            leases = {op.lease for op in (*success, *failure) if op.lease}
            if len(leases) == 1:
                raise LeaseNotFound(leases.pop(), where=error.where) from error
            raise

    def lease_grant(self, ttl_s: int) -> Lease:
        """See :meth:`etcd.protocol.Etcd.lease_grant`.

        Sent twice at worst: a lease that is not renewed expires."""
        if ttl_s < 1:
            raise ValueError(f"a lease of {ttl_s} s")
        return self._call(
            "/v3/lease/grant",
            {"TTL": str(ttl_s)},
            lambda answer: Lease(wire.integer(answer, "ID"), wire.integer(answer, "TTL")),
            resend=True,
        )

    def lease_keepalive(self, lease: int) -> int:
        """See :meth:`etcd.protocol.Etcd.lease_keepalive`."""
        return self._call(
            "/v3/lease/keepalive", {"ID": str(lease)}, lambda answer: wire.integer(answer, "TTL"), resend=True
        )

    def lease_revoke(self, lease: int) -> bool:
        """See :meth:`etcd.protocol.Etcd.lease_revoke`."""
        try:
            self._call("/v3/lease/revoke", {"ID": str(lease)}, wire.revision, resend=True)
        except LeaseNotFound:
            return False
        return True

    def watch(self, prefix: str, start_revision: int = 0, *, progress: bool = False) -> StreamWatch:
        """See :meth:`etcd.protocol.Etcd.watch`. Each watch has a connection of its own."""
        return StreamWatch.open(self._transport, prefix, start_revision, progress=progress, silence=self._silence)

    def compact(self, revision: int) -> None:
        """See :meth:`etcd.protocol.Etcd.compact`."""
        self._call("/v3/kv/compaction", {"revision": str(revision)}, wire.revision, resend=False)

    def members(self, *, agreed: bool = False) -> tuple[Member, ...]:
        """See :meth:`etcd.protocol.Etcd.members`.

        ``agreed``: as a quorum knows them now, not as the member that answers does.
        """

        def decode(answer: Json) -> tuple[Member, ...]:
            found = [wire.decode_member(fields) for fields in wire.object_list(answer, "members")]
            return tuple(sorted(found, key=lambda member: member.id))

        return self._call("/v3/cluster/member/list", {"linearizable": agreed}, decode, resend=True)

    def add_learner(self, peer_urls: Sequence[str]) -> Member:
        """Add a member that does not vote yet, and is reached there. Raises EtcdError if one of the URLs is taken.

        It, and the two below, raise EtcdError too while a change could cost the quorum, by etcd's own account."""
        return self._call(
            "/v3/cluster/member/add",
            {"peerURLs": list(peer_urls), "isLearner": True},
            lambda answer: wire.decode_member(wire.member_object(answer, "member")),
            resend=False,
        )

    def promote(self, member: int) -> None:
        """Let a learner vote. Raises EtcdError while it has not what the others have, or if it is none."""
        self._call("/v3/cluster/member/promote", {"ID": str(member)}, wire.revision, resend=False)

    def remove_member(self, member: int) -> None:
        """Take a member out of the cluster, for good: its id does not come back. Raises EtcdError if there is none."""
        self._call("/v3/cluster/member/remove", {"ID": str(member)}, wire.revision, resend=False)

    def status(self, endpoint: str = "") -> Status:
        """See :meth:`etcd.protocol.Etcd.status`."""
        if not endpoint:
            return self._call("/v3/maintenance/status", {}, wire.decode_status, resend=True)
        at = Endpoint.parse(endpoint)
        return self._decoded(
            self._transport.call_at(at, "/v3/maintenance/status", {}), wire.decode_status, where=str(at)
        )

    def health(self) -> bool:
        """See :meth:`etcd.protocol.Etcd.health`."""
        return any(self._transport.healthy_at(endpoint) for _, endpoint in self._transport.order())

    def close(self) -> None:
        """See :meth:`etcd.protocol.Etcd.close`."""
        self._transport.close()

    def _call(self, path: str, request: Json, decode: Callable[[Json], _T], *, resend: bool) -> _T:
        return self._decoded(self._transport.call(path, request, resend=resend), decode)

    def _decoded(self, answer: Json, decode: Callable[[Json], _T], *, where: str = "") -> _T:
        try:
            return decode(answer)
        except ValueError as error:
            where = where or str(self._transport.order()[0][1])
            raise EtcdError("cannot understand the answer", where=where) from error

"""What one member is asked about itself: its condition, its snapshot, its hash, its alarms; and what is done to it.

Other than :class:`etcd.protocol.Etcd`, which any member may answer, these requests go to one member, and most of them
need no quorum. Each has a connection of its own: they are few, and one of them lasts. Source: rpc.proto of etcd 3.5.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
from binascii import a2b_base64
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from etcd import wire
from etcd.errors import EtcdError, Unavailable
from etcd.protocol import Status
from etcd.transport import Tls, Transport, error_in, understand
from etcd.wire import Json
from terminal import record

NOSPACE: Final = "NOSPACE"
CORRUPT: Final = "CORRUPT"
_EVERY_KEY: Final = {"key": wire.base64(b"\0"), "range_end": wire.base64(b"\0")}
_QUOTA: Final = re.compile(rb"^etcd_server_quota_backend_bytes ([0-9.e+]{1,30})$", re.MULTILINE)
_LINE_MAX: Final = 64 << 20  # of a streamed snapshot: etcd sends 32 KiB at a time
_UNANSWERED: Final = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, http.client.RemoteDisconnected)


class Alarm(NamedTuple):
    """``kind`` is NOSPACE or CORRUPT; ``member`` 0 stands for one that etcd could not name."""

    member: int
    kind: str


class HashAt(NamedTuple):
    """The hash of all keys up to a revision. Two are comparable if ``compacted``, the revision before which history is
    gone, is the same."""

    value: int
    compacted: int


class Condition(NamedTuple):
    """A member's own account. ``used`` of ``status.db_size`` bytes hold data; the rest is free within the file."""

    status: Status
    cluster: int
    used: int
    applied: int


class Maintenance:
    """One member: behind ``endpoint``, a URL, or, for one that serves only this user, on a socket of the file system.

    ``timeout`` is seconds that it may be silent. All methods raise :class:`EtcdError`, mostly its kind ``Unavailable``.
    """

    def __init__(self, endpoint: str, *, timeout: float = 5.0, tls: Tls | None = None) -> None:
        self.where = endpoint
        self._timeout = timeout
        self._socket: Path | None = None
        self._transport = Transport([endpoint], timeout=timeout, tls=tls)
        self._endpoint = self._transport.endpoints[0]

    @classmethod
    def on_socket(cls, path: Path, *, timeout: float = 5.0) -> Maintenance:
        """The member that listens there, in plain text."""
        member = cls("http://localhost", timeout=timeout)
        member._socket, member.where = path, str(path)
        return member

    def condition(self) -> Condition:
        """How it is, by its own account; also without a leader."""
        answer = self._ask("/v3/maintenance/status", {})
        try:
            header = wire.member_object(answer, "header")
            return Condition(
                wire.decode_status(answer),
                cluster=wire.integer(header, "cluster_id"),
                used=wire.integer(answer, "dbSizeInUse"),
                applied=wire.integer(answer, "raftAppliedIndex"),
            )
        except ValueError as error:
            raise self._strange() from error

    def hash_at(self, revision: int) -> HashAt:
        """The hash of its keys up to ``revision``. Raises Compacted."""
        answer = self._ask("/v3/maintenance/hashkv", {"revision": str(revision)})
        try:
            return HashAt(wire.integer(answer, "hash"), wire.integer(answer, "compact_revision"))
        except ValueError as error:
            raise self._strange() from error

    def keys_at(self, revision: int) -> int:
        """How many keys it had at ``revision``, by its own knowledge. Raises Compacted."""
        request = {**_EVERY_KEY, "count_only": True, "serializable": True, "revision": str(revision)}
        answer = self._ask("/v3/kv/range", request)
        try:
            return wire.integer(answer, "count")
        except ValueError as error:
            raise self._strange() from error

    def disarm(self, alarm: Alarm) -> None:
        """End an alarm, in the whole cluster."""
        request = {"action": "DEACTIVATE", "memberID": str(alarm.member), "alarm": alarm.kind}
        self._ask("/v3/maintenance/alarm", request)

    def compact(self, revision: int) -> None:
        """Forget the history before ``revision``, and wait until that is done here. Raises Compacted."""
        self._ask("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    def defragment(self) -> None:
        """Give the free bytes of its file back to the disk; it answers nothing meanwhile."""
        self._ask("/v3/maintenance/defragment", {})

    def quota(self) -> int:
        """Bytes that its file may have before it raises NOSPACE, as its metrics have it; 0 if they do not."""
        with self._send("/metrics", None) as response:
            try:
                found = _QUOTA.search(response.read())
                return int(float(found[1])) if found else 0
            except (OSError, ValueError, OverflowError, http.client.HTTPException) as error:
                raise Unavailable("etcd did not answer", where=self.where) from error

    def snapshot(self) -> Iterator[bytes]:
        """Its whole data, piece by piece: a database file and, at its end, the SHA-256 of that."""
        response = self._send("/v3/maintenance/snapshot", {})
        with response:
            while line := self._line(response):
                try:
                    answer = record.parse(line)
                except ValueError as error:
                    raise self._strange() from error
                result = answer.get("result") if isinstance(answer, dict) else None
                if not isinstance(result, dict):
                    raise error_in(self.where, answer if isinstance(answer, dict) else {}, {})
                try:
                    yield a2b_base64(result.get("blob", ""), strict_mode=True)
                except (TypeError, ValueError) as error:
                    raise self._strange() from error

    def _line(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.readline(_LINE_MAX)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable("the snapshot was cut off", where=self.where) from error

    def _ask(self, path: str, request: Json) -> Json:
        with self._send(path, request) as response:
            try:
                body = response.read()
            except (OSError, http.client.HTTPException) as error:
                raise Unavailable("etcd did not answer", where=self.where, maybe_applied=True) from error
            return understand(self.where, response.status, body, request)

    def _send(self, path: str, request: Json | None) -> http.client.HTTPResponse:
        """``request`` is None for a GET."""
        connection = self._connection()
        sent = False
        try:
            connection.connect()
            sent = True
            # The connection is this answer's alone: it ends with it.
            method, body = ("GET", None) if request is None else ("POST", json.dumps(request).encode())
            connection.request(method, path, body=body, headers={"Connection": "close"})
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            message = "etcd did not answer" if sent else "cannot connect to etcd"
            if self._socket is not None:
                raise Unavailable(message, where=self.where, maybe_applied=sent) from error
            unanswered = isinstance(error, _UNANSWERED)
            raise self._transport.trouble(
                self._endpoint, message, error, unanswered=unanswered, maybe_applied=sent
            ) from error

    def _connection(self) -> http.client.HTTPConnection:
        at = self._endpoint
        if self._socket is not None:
            return _OnSocket(self._socket, self._timeout)
        if at.scheme == "https":
            context = self._transport.context_of(at)
            return http.client.HTTPSConnection(at.host, at.port, timeout=self._timeout, context=context)
        return http.client.HTTPConnection(at.host, at.port, timeout=self._timeout)

    def _strange(self) -> EtcdError:
        return EtcdError("cannot understand the answer", where=self.where)


class _OnSocket(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """By way of the folder: a socket's address has 107 bytes at most, and a folder of a test may have more."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)

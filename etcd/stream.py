"""A watch over one HTTP connection of its own: a reader that blocks, and a close that frees it from any thread."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress

from etcd import wire
from etcd.errors import Compacted, EtcdError, Unavailable
from etcd.protocol import WatchBatch
from etcd.refusals import refusal
from etcd.transport import KEEPALIVE, Endpoint, Transport, error_in
from etcd.wire import Json
from terminal import record


class StreamWatch:
    """See :class:`etcd.protocol.Watch`; made by :meth:`open`.

    ``revision`` is the last one delivered (at first: the store's when the watch began), to resume from
    ``revision + 1``.
    """

    def __init__(self, endpoint: Endpoint, transport: Transport, *, progress: bool) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._where = str(endpoint)
        self._progress = progress
        self._closed = False
        self._reading = threading.Lock()
        self.revision = 0
        if endpoint.scheme == "https":
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                endpoint.host, endpoint.port, timeout=transport.timeout, context=transport.context_of(endpoint)
            )
        else:
            self._connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=transport.timeout)
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None

    @classmethod
    def open(
        cls, transport: Transport, prefix: str, start_revision: int, *, progress: bool, silence: float | None
    ) -> StreamWatch:
        """Request a watch from the endpoints in turn, return the first that is confirmed."""
        create: Json = wire.key_fields(prefix, prefix=True) | {"progress_notify": True}
        if start_revision:
            create["start_revision"] = str(start_revision)
        body = json.dumps({"create_request": create}).encode()
        trouble: Unavailable | None = None
        for index, endpoint in transport.order():
            watch = cls(endpoint, transport, progress=progress)
            try:
                watch._begin(body, start_revision, silence)
            except Unavailable as error:
                watch.close()
                trouble = error
                continue
            except BaseException:
                watch.close()
                raise
            transport.prefer(index)
            return watch
        assert trouble is not None
        raise trouble

    def _begin(self, body: bytes, start_revision: int, silence: float | None) -> None:
        try:
            self._connection.connect()
            self._socket = self._connection.sock
            for option in KEEPALIVE:
                self._socket.setsockopt(*option)
            # Without it a member that was cut off from the others keeps the watch open, and silent, for ever.
            headers = {"Grpc-Metadata-Hasleader": "true"}
            self._connection.request("POST", "/v3/watch", body=body, headers=headers)
            self._response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            unanswered = isinstance(error, (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError))
            raise self._transport.trouble(
                self._endpoint, "cannot begin a watch", error, unanswered=unanswered
            ) from error
        answer = self._message()
        if answer is None or answer.get("created") is not True:
            raise Unavailable("etcd did not confirm the watch", where=self._where)
        self.revision = max(start_revision - 1, 0) or self._understood(answer).revision
        self._socket.settimeout(silence)

    def __iter__(self) -> Iterator[WatchBatch]:
        return self

    def __next__(self) -> WatchBatch:
        """The next batch; blocks. Only one thread may read."""
        with self._reading:
            try:
                while not self._closed:
                    answer = self._message()
                    if answer is None:
                        break
                    batch = self._understood(answer)
                    if batch.events or self._progress:
                        self.revision = batch.revision
                        return batch
            except EtcdError:
                if not self._closed:
                    raise
            finally:
                if self._closed:
                    self._release()
        raise StopIteration

    def _understood(self, answer: Json) -> WatchBatch:
        try:
            compacted = wire.integer(answer, "compact_revision")
            reason = wire.text(answer, "cancel_reason")
            batch = wire.decode_batch(answer)
        except ValueError as error:
            raise EtcdError("cannot understand an event", where=self._where) from error
        if compacted:
            raise Compacted(compacted, where=self._where)
        if answer.get("canceled") is True:
            refused = refusal(reason, where=self._where)
            if type(refused) is not EtcdError:
                raise refused
            raise Unavailable(f"etcd ended the watch: {reason or 'no reason given'}", where=self._where)
        return batch

    def _message(self) -> Json | None:
        """The next message of the stream; None once the watch is closed."""
        assert self._response is not None
        try:
            line = self._response.readline()
        except TimeoutError as error:
            raise Unavailable("the watch is silent", where=self._where) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable("the watch was cut off", where=self._where) from error
        if self._closed:
            return None
        if not line.endswith(b"\n"):
            raise Unavailable("the watch was cut off", where=self._where)
        try:
            answer = record.parse(line)
        except ValueError as error:
            raise EtcdError("an event is not JSON", where=self._where) from error
        result = answer.get("result") if isinstance(answer, dict) else None
        if not isinstance(result, dict):
            raise error_in(self._where, answer if isinstance(answer, dict) else {}, {})
        return result

    def close(self) -> None:
        """See :meth:`etcd.protocol.Watch.close`."""
        self._closed = True
        if self._socket is not None:
            # The plain method, not that of an SSLSocket, which would take its TLS state away from under the reader.
            with suppress(OSError):  # the other side may have been first
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        if self._reading.acquire(blocking=False):  # else the reader, woken just now, releases on its way out
            try:
                self._release()
            finally:
                self._reading.release()

    def _release(self) -> None:
        if self._response is not None:
            self._response.close()
        self._connection.close()
        if self._socket is not None:
            self._socket.close()

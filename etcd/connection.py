"""Persistent connections to one endpoint: the HTTP/1.1 of etcd's gateway, with or without TLS (RFC 9112).

A general HTTP library spends five times as long on a request, most of it on headers that no caller reads. Of an
answer's headers three matter here: its length, whether it comes in chunks, and whether the connection ends with it.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import weakref
from collections.abc import Iterable

LINE_MAX = 64 << 10
HEADERS_MAX = 200
PIECE = 1 << 20
"""Bytes that are read at once: an answer that is shorter than announced must not make us allocate that length."""


class NotConnectedError(OSError):
    """No connection could be made: nothing was sent."""


class BrokenError(OSError):
    """The connection ended, timed out, or brought invalid HTTP, after the request was sent, in full or in part.

    ``unanswered`` is true if the other side ended it before its first byte of an answer.
    """

    def __init__(self, text: str, *, unanswered: bool = False) -> None:
        super().__init__(text)
        self.unanswered = unanswered


class Pool:
    """Connections to ``host`` and ``port``, of which up to ``kept_max`` are kept for the next request. Thread-safe.

    ``timeout`` is seconds to connect, and that the other side may be silent. ``options`` are of ``socket.setsockopt``.
    ``context`` is for TLS.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        timeout: float,
        kept_max: int,
        options: Iterable[tuple[int, int, int]] = (),
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._timeout = timeout
        self._kept_max = kept_max
        self._options = tuple(options)
        self._context = context
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)  # a client that is never closed leaves no connection behind
        name = f"[{host}]" if ":" in host else host
        self._end = f" HTTP/1.1\r\nHost: {name}:{port}\r\n".encode("ascii")

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and body of the answer. Raises :class:`NotConnectedError` and :class:`BrokenError`."""
        head = f"{method} {path}".encode("ascii") + self._end
        if body:
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        connection = self._taken() or self._connected()
        kept = False
        try:
            status, answer, kept = connection.exchange(head + b"\r\n" + body)
        except (OSError, ValueError) as error:
            unanswered = not connection.has_answered and not isinstance(error, TimeoutError)
            raise BrokenError(str(error), unanswered=unanswered) from error
        finally:
            if not (kept and self._put_back(connection)):
                connection.close()
        return status, answer

    def close(self) -> None:
        """Close the connections that are idle."""
        with self._lock:
            _close_all(self._idle)

    def _taken(self) -> _Connection | None:
        """A kept connection that the other side has not closed meanwhile."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_quiet():
                return connection
            connection.close()

    def _put_back(self, connection: _Connection) -> bool:
        with self._lock:
            if len(self._idle) >= self._kept_max:
                return False
            self._idle.append(connection)
            return True

    def _connected(self) -> _Connection:
        try:
            made = socket.create_connection((self._host, self._port), self._timeout)
        except (OSError, UnicodeError) as error:
            raise NotConnectedError(str(error)) from error
        try:
            for option in self._options:
                made.setsockopt(*option)
            if self._context is not None:
                made = self._context.wrap_socket(made, server_hostname=self._host)
        except (OSError, ValueError) as error:
            made.close()
            raise NotConnectedError(str(error)) from error
        return _Connection(made)


def _close_all(connections: list[_Connection]) -> None:
    while connections:
        connections.pop().close()


class _Connection:
    """One connection; one exchange at a time."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._reader = connected.makefile("rb")
        self.has_answered = False

    def is_quiet(self) -> bool:
        """Whether nothing came since the last answer: unrequested data is the end, or an error."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def exchange(self, request: bytes) -> tuple[int, bytes, bool]:
        """Send ``request``; status and body of the answer, and whether the connection may be used again.

        Raises OSError and, for what is no HTTP, ValueError.
        """
        self._socket.sendall(request)
        status, length, is_chunked, kept = self._head()
        while status == 100:
            status, length, is_chunked, kept = self._head()
        if status in (204, 304):
            return status, b"", kept
        if is_chunked:
            return status, self._chunks(), kept
        if length is None:
            return status, self._reader.read(), False
        return status, self._exactly(length), kept

    def _head(self) -> tuple[int, int | None, bool, bool]:
        """Status, length if given, whether in chunks, and whether the connection stays open."""
        version, _, rest = self._line().partition(b" ")
        code = rest[:3]
        if not version.startswith(b"HTTP/1.") or len(code) != 3 or not code.isdigit():
            raise ValueError("the answer is not HTTP/1")
        length, is_chunked, kept = None, False, version != b"HTTP/1.0"
        for _ in range(HEADERS_MAX):
            line = self._line()
            if not line:
                return int(code), length, is_chunked, kept
            name, _, value = line.lower().partition(b":")
            value = value.strip()
            if name == b"content-length":
                if not value.isdigit() or len(value) > 15:
                    raise ValueError("Content-Length is no number")
                length = int(value)
            elif name == b"transfer-encoding":
                if value != b"chunked":
                    raise ValueError("an unknown Transfer-Encoding")
                is_chunked = True
            elif name == b"connection" and value == b"close":
                kept = False
        raise ValueError(f"more than {HEADERS_MAX} headers")

    def _line(self) -> bytes:
        line = self._reader.readline(LINE_MAX)
        self.has_answered = self.has_answered or bool(line)
        if not line.endswith(b"\n"):
            raise ValueError(
                "the connection ended in the middle of an answer" if len(line) < LINE_MAX else "a long line"
            )
        return line.rstrip(b"\r\n")

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            length = self._line().partition(b";")[0].strip()
            if not 0 < len(length) <= 12 or length.translate(None, b"0123456789abcdefABCDEF"):
                raise ValueError("a chunk without its length")
            size = int(length, 16)
            if size == 0:
                break
            parts.append(self._exactly(size))
            if self._exactly(2) != b"\r\n":
                raise ValueError("a chunk of another length than announced")
        for _ in range(HEADERS_MAX):
            if not self._line():
                return b"".join(parts)
        raise ValueError(f"more than {HEADERS_MAX} trailers")

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            part = self._reader.read(min(size, PIECE))
            if not part:
                raise ValueError("the connection ended in the middle of an answer")
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close it."""
        self._reader.close()
        self._socket.close()

"""Bounded HTTP/1.1 over a listening socket: TCP or unix, our own or passed in by systemd.

One thread accepts connections; each is served by a thread of its own. Bounds: connections in all and of one client, the
size of request line, headers and body, and the time for a request to arrive and for each piece of its response to be
sent. A handler may take long: a watch holds its connection and nothing else. Syntax is checked by ``http.server`` (RFC
9112).
"""

from __future__ import annotations

import http.client
import http.server
import io
import logging
import re
import selectors
import shutil
import socket
import threading
import time
from collections.abc import Callable, Collection
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from terminal import Failure
from webserver.message import Certificate, Refusal, Request, Response, client_of
from webserver.unix import uid_of

if TYPE_CHECKING:
    import ssl

    from webserver.tls import Handshakes

METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS")
FINISH_S = 2.0
"""How long :meth:`Server.stop` waits for responses to leave."""

LINE_BYTES_MAX = 1 << 16
"""Of a request line. All headers together may have the same number again; ``http.client`` accepts 100 of them."""

NO_CHUNKS = "send a Content-Length, no chunks"
BAD_LENGTH = "Content-Length is no number"
_CHANGED = "the certificates here have changed since this connection began, and nothing was done: connect again"
_BACKLOG = 128
_LINGER_S = 1.0
"""How long a refused client may go on sending: an earlier close would reset the connection and lose its answer."""
_PAUSE_S = 0.5
"""Before the next try to accept a connection when the process or the computer has no room for one."""
_FREEBIND = {socket.AF_INET: (socket.SOL_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
"""IP_FREEBIND of linux/in.h, and IPV6_FREEBIND of linux/in6.h."""
_PROXY = re.compile(rb"PROXY TCP4 ([0-9.]{7,15}) [0-9.]+ [0-9]+ [0-9]+\r\n")
_CONTROL = dict.fromkeys((*range(32), 127), "?")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A site: its function and its bounds.

    ``handle`` is called in the connection's thread, for ``methods`` only. ``refuse`` gives the response to a status and
    a message of this module; None is an HTML page. ``name`` is the header ``Server``. ``log`` takes a client's address
    ("" on a unix socket) and a line about its request, without control characters.
    """

    handle: Callable[[Request], Response]
    name: str
    log: Callable[[str, str], None]
    methods: Collection[str] = METHODS
    refuse: Callable[[int, str], Response | None] = lambda _status, _message: None
    body_bytes: int = 0
    """The largest body of a request."""
    request_s: float = 30.0
    """For a request to begin, for all of it to arrive from then on, and for each piece of the response to leave."""
    connections: int = 128
    """At the same time."""
    connections_client: int | None = None
    """Of one client (:func:`webserver.message.client_of`); this machine may have all."""
    queue_s: float = 0.0
    """How long one connection too many waits for another to end before it is closed.

    Those behind it are in the kernel's queue."""
    once: bool = False
    """One request a connection, by HTTP/1.0, of which no body is read."""
    proxied: bool = False
    """A PROXY line (version 1) before the request may name the client.

    Only for a socket that clients do not reach themselves."""


def listen(address: tuple[str, int], *, early: bool = False) -> socket.socket:
    """Listen on TCP; the IPv6 wildcard address also accepts IPv4. Raises OSError and OverflowError.

    ``early``: no card needs to have the address yet."""
    listening = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if early:
            listening.setsockopt(*_FREEBIND[listening.family], 1)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


class Server:
    """Serves ``site`` on ``listening``, a bound, listening stream socket, which is the server's from now on."""

    def __init__(
        self,
        listening: socket.socket,
        site: Site,
        *,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        """``tls``, if given, wraps the connections; their handshake has the time of a request.

        One that is called (:class:`webserver.tls.Tls`) may give another context later. Then connections of before
        are answered no more: who was let in may be revoked since."""
        self.site = site
        self.stopping = False
        self._listening = listening
        self._listening.setblocking(False)  # a client may be gone between select and accept
        self._tls = tls if tls is None or callable(tls) else lambda: tls
        self._path: Path | None = None
        self._connections: dict[socket.socket, str] = {}  # and whose they are
        self._full = False
        self._handshakes = None if tls is None else _handshakes(site.name)
        self._changed = threading.Condition()
        self._wake_write, self._wake_read = socket.socketpair()
        self._thread = threading.Thread(target=self._accept_all, name=f"http {site.name}", daemon=True)

    @classmethod
    def at(cls, path: Path, site: Site, *, tls: ssl.SSLContext | None = None) -> Server:
        """One on a unix socket at ``path``, which :meth:`stop` removes.

        What a killed server left there is replaced. Raises OSError."""
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(str(path))
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        server = cls(listening, site, tls=tls)
        server._path = path
        return server

    def start(self) -> None:
        """Begin to serve, in threads of this process."""
        self._thread.start()

    def stop(self, finish_s: float = FINISH_S) -> None:
        """Close the socket, read no more requests, and drop all connections.

        Pending responses have ``finish_s`` seconds at most to be sent."""
        with self._changed:
            if self.stopping:
                return
            self.stopping = True
            self._changed.notify_all()
        self._wake_write.send(b"x")
        if self._thread.ident is not None:
            self._thread.join()
        for each in (self._listening, self._wake_write, self._wake_read):
            each.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._shut(socket.SHUT_RD)
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, finish_s)
        self._shut(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        """How many there are now."""
        return len(self._connections)

    def _shut(self, how: int) -> None:
        """Wake the threads that read, or write; each closes its own connection."""
        with self._changed:
            connections = [*self._connections]
        for each in connections:
            _shutdown(each, how)

    def _accept_all(self) -> None:
        """Accept connections until :meth:`stop`. Costs nothing while nothing happens."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                selector.select()
                if self.stopping:
                    return
                try:
                    connection, address = self._listening.accept()
                except (BlockingIOError, ConnectionError):
                    continue
                except OSError as error:
                    _LOG.warning("cannot accept a connection: %s", error)
                    with self._changed:
                        self._changed.wait(_PAUSE_S)
                    continue
                self._begin(connection, str(address[0]) if isinstance(address, tuple) else "")

    def _begin(self, connection: socket.socket, peer: str) -> None:
        context = None
        try:
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                context = self._tls()
                connection = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, Failure):  # the client went away; or there are no certificates, which has been logged
            connection.close()
            return
        if not self._admit(connection, peer):
            connection.close()
            if not self._full:
                _LOG.warning("%s: too many connections, more are refused", self.site.name)
            self._full = True
            return
        self._full = False
        serve = threading.Thread(
            target=self._serve, args=(connection, peer, context), name="http connection", daemon=True
        )
        try:
            serve.start()
        except RuntimeError as error:  # this computer has no room for a thread
            _LOG.warning("cannot serve a connection: %s", error)
            self._end(connection)

    def _admit(self, connection: socket.socket, peer: str) -> bool:
        """Count a connection, if there is room for it."""
        site = self.site
        client = client_of(peer) if site.connections_client is not None and peer else ""
        with self._changed:
            if client and sum(each == client for each in self._connections.values()) >= (site.connections_client or 0):
                return False
            # Blocks the accepting thread, no other.
            room = self._changed.wait_for(
                lambda: self.stopping or len(self._connections) < site.connections, site.queue_s
            )
            if not room or self.stopping:
                return False
            self._connections[connection] = client
            return True

    def _end(self, connection: socket.socket) -> None:
        connection.close()
        with self._changed:
            del self._connections[connection]
            self._changed.notify_all()

    def _serve(self, connection: socket.socket, peer: str, context: ssl.SSLContext | None) -> None:
        """All requests of one connection, in its own thread."""
        try:
            certificate = None
            if self._handshakes is not None:
                connection.settimeout(self.site.request_s)
                try:
                    certificate = self._handshakes.agree(cast("ssl.SSLSocket", connection))
                except OSError as error:
                    self._turn_away(connection, peer, error)
                    return
            served = _Connection(connection, peer, self, context, certificate)
            served.handle()
            _shutdown(connection, socket.SHUT_WR)
            if served.refused:
                _linger(connection)
        except OSError:
            pass  # the client went away, or was too slow
        finally:
            self._end(connection)

    def is_current(self, context: ssl.SSLContext | None) -> bool:
        """Whether a connection of this context would come about as well with the certificates of now."""
        return context is None or self._tls is None or self._tls() is context

    def _turn_away(self, connection: socket.socket, peer: str, error: OSError) -> None:
        """After a handshake that failed: its reason for our log, and for the client, whom an early close would keep
        from reading it."""
        if self._handshakes is None or not self._handshakes.failed(peer, error):
            return
        socket.socket.sendall(connection, self._handshakes.answer(error, self.site.refuse))
        _shutdown(connection, socket.SHUT_WR)
        _linger(connection)


def _handshakes(server: str) -> Handshakes:
    from webserver.tls import Handshakes  # only with TLS: each import costs an emulated node

    return Handshakes(server)


class _Arrivals(io.RawIOBase):
    """What a socket reads.

    It must have come by ``deadline`` (monotonic), however busily a byte now and then keeps it alive."""

    deadline = 0.0

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Writer(io.BufferedIOBase):
    """Each write has left within ``seconds``, or it is a TimeoutError."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds

    def write(self, data: Any) -> int:
        self._connection.settimeout(self._seconds)
        self._connection.sendall(data)
        return len(data)


class _Reader(io.BufferedReader):
    """``left`` is how many bytes of lines may still be read; bodies are bounded by their length."""

    left = 0

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(min(size if size is not None and size >= 0 else self.left, self.left))
        self.left -= len(line)
        if not self.left:
            raise http.client.LineTooLong("header")  # what http.server takes for too much of them
        return line


class _Connection(http.server.BaseHTTPRequestHandler):
    """What ``http.server`` knows of requests and responses, between our bounds and the site's function."""

    rfile: _Reader

    def __init__(
        self,
        connection: socket.socket,
        peer: str,
        server: Server,
        context: ssl.SSLContext | None,
        certificate: Certificate | None,
    ) -> None:
        # Not the base class's, which would serve at once.
        self._server, self._site = server, server.site
        self._context, self._certificate, self._uid = context, certificate, uid_of(connection)
        self.refused = False
        self._arrivals = _Arrivals(connection)
        self.rfile = _Reader(self._arrivals)
        self.wfile = _Writer(connection, self._site.request_s)
        self.client_address = (peer, 0)
        self.protocol_version = "HTTP/1.0" if self._site.once else "HTTP/1.1"
        self.requestline = self.command = ""

    def handle_one_request(self) -> None:
        """Read a request and answer it. Sets ``close_connection`` after the last one."""
        self.close_connection = True
        self._expect()
        if not self.rfile.peek(1):
            return
        self._expect()
        self.rfile.left = 2 * LINE_BYTES_MAX
        self.raw_requestline = self.rfile.readline(LINE_BYTES_MAX + 1)
        if self._site.proxied and not self._peer and (found := _PROXY.fullmatch(self.raw_requestline)):
            # Once: what follows it comes from the client itself.
            self.client_address = (found[1].decode(), 0)
            self.raw_requestline = self.rfile.readline(LINE_BYTES_MAX + 1)
        if len(self.raw_requestline) > LINE_BYTES_MAX:
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
            return
        self.command = ""
        if not self.raw_requestline or not self.parse_request():
            return
        if self.command not in self._site.methods:
            self.send_error(HTTPStatus.NOT_IMPLEMENTED, f"Unsupported method ({self.command!r})")
            return
        body = b"" if self._site.once else self._read_body()
        if body is None:
            return
        if not self._server.is_current(self._context):
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, _CHANGED)
            return
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            # Several lines of one name are one list (RFC 9110, 5.3).
            headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
        try:
            response = self._site.handle(
                Request(self.command, self.path, headers, body, self._peer, self._certificate, self._uid)
            )
        except Refusal as refused:
            self.send_error(refused.status, refused.message)
            return
        except Exception:
            # Its traceback is for our log, not for the client.
            _LOG.exception("a request failed by a bug of ours")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self._send(response)

    def _expect(self) -> None:
        self._arrivals.deadline = time.monotonic() + self._site.request_s

    def _read_body(self) -> bytes | None:
        """The body, None if it was refused: then the connection ends, since it cannot be distinguished from what
        follows."""
        if "Transfer-Encoding" in self.headers:
            self.send_error(HTTPStatus.LENGTH_REQUIRED, NO_CHUNKS)
            return None
        (length, *others) = {*self.headers.get_all("Content-Length", ["0"])}
        if others or not (length.isascii() and length.isdigit()):
            self.send_error(HTTPStatus.BAD_REQUEST, BAD_LENGTH)
            return None
        bound = self._site.body_bytes
        if len(length) > 12 or int(length) > bound:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {bound} bytes")
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.send_error(HTTPStatus.BAD_REQUEST, "the body ended early")
            return None
        return body

    def _send(self, response: Response) -> None:
        file = response.file
        with file or nullcontext():
            self.send_response(response.status)
            if response.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
                if response.content_type:
                    self.send_header("Content-Type", response.content_type)
                if file is None:
                    self.send_header("Content-Length", str(len(response.body)))
            for name, value in response.headers.items():
                self.send_header(name, value)
            if self.close_connection or response.close or self._server.stopping or file is not None:
                self.send_header("Connection", "close")
            self.end_headers()
            if self.command == "HEAD":
                return
            if file is None:
                self.wfile.write(response.body)
            else:
                shutil.copyfileobj(file, self.wfile)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request and end the connection; what ``http.server`` refuses comes here, too."""
        self.refused = self.close_connection = True
        self.command = self.command or "GET"
        # http.server takes a broken line for HTTP/0.9, which has no headers.
        self.request_version = self.protocol_version
        response = self._site.refuse(code, message or "")
        if response is None:
            super().send_error(code, message, explain)
        else:
            self._send(response)

    def version_string(self) -> str:
        """The header ``Server``, without Python's version."""
        return self._site.name

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is given
        self._site.log(self._peer, (format % args).translate(_CONTROL))

    @property
    def _peer(self) -> str:
        return self.client_address[0]


def _shutdown(connection: socket.socket, how: int) -> None:
    """Of the socket, also below TLS: an SSLSocket's own would take the ciphers from a thread that still writes."""
    with suppress(OSError):
        socket.socket.shutdown(connection, how)


def _linger(connection: socket.socket) -> None:
    end = time.monotonic() + _LINGER_S
    while (left := end - time.monotonic()) > 0:
        connection.settimeout(left)
        if not socket.socket.recv(connection, 1 << 16):  # below TLS as well: it is not read, but thrown away
            return

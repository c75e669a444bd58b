"""The API's bytes: HTTP/1.1 over sockets that systemd, or a test, has bound already.

Bounds: the body of a request, the time that a silent client may hold a connection, and the number of connections served at
once; more of them wait in the kernel's queue.
"""

from __future__ import annotations

import http.server
import logging
import selectors
import socket
import sys
import threading
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fleet.api.handlers import Api, Request, Response, failed
from fleet.api.shapes import BODY_SIZE_MAX
from fleet.model.registry import Registry
from terminal.version import VERSION

IDLE_S = 60
"""Seconds that a connection may be silent; the original's client keeps its own open for 90 and copes with losing them."""

CONNECTIONS_MAX = 64
"""Connections of one socket that are served at the same time, a thread each."""

QUEUE_S = 5
"""Seconds that one more connection waits for another to end before it is dropped."""

_LOG = logging.getLogger(__name__)


class ApiServer:
    """Serves ``registry`` on ``sockets``, which are bound, listening stream sockets (unix or TCP); closing them is its job."""

    def __init__(self, registry: Registry, *, sockets: Sequence[socket.socket]) -> None:
        api = Api(registry)
        self._servers = [_Server(each, api) for each in sockets]
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to serve, in threads of its own."""
        for number, server in enumerate(self._servers):
            thread = threading.Thread(target=server.serve, name=f"api-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Take no more connections and close the sockets; requests that are being answered go on."""
        for server in self._servers:
            server.wake()
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        for server in self._servers:
            server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, api: Api) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()  # socketserver always makes one of its own
        self.socket = listening
        self.socket.setblocking(False)  # a client may be gone between select and accept
        self.api = api
        self._wake_write, self._wake_read = socket.socketpair()
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def serve(self) -> None:
        """Accept connections until :meth:`wake`. Unlike ``serve_forever`` it costs nothing while nothing happens."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while True:
                if any(key.fileobj is self._wake_read for key, _ in selector.select()):
                    return
                try:
                    connection, address = self.get_request()
                except OSError:
                    continue
                connection.setblocking(True)
                self.process_request(connection, address)

    def wake(self) -> None:
        """End :meth:`serve`; from any thread."""
        self._wake_write.send(b"x")

    def server_close(self) -> None:
        super().server_close()
        self._wake_read.close()
        self._wake_write.close()

    def process_request(self, request: Any, client_address: Any) -> None:
        # Blocks the accepting thread, no other; not for long, since stop() waits for it.
        if not self._slots.acquire(timeout=QUEUE_S):
            _LOG.warning("too many connections: one was refused")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        error = sys.exception()
        if isinstance(error, OSError):
            return  # the client went away
        _LOG.error("a request failed by a bug of ours", exc_info=error)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = f"fleetd/{VERSION}"
    timeout = IDLE_S
    disable_nagle_algorithm = False  # meaningless on a unix socket, and an error there

    def _answer(self) -> None:
        refused, body = self._read_body()
        # Sent whatever happens: a bug's traceback goes to our log, the client gets a plain 500.
        response = failed(HTTPStatus.INTERNAL_SERVER_ERROR)
        try:
            if refused is not None:
                response = refused
                self.close_connection = True
            else:
                content_type = self.headers.get("Content-Type", "")
                response = self.server.api.handle(Request(self.command, self.path, content_type, body))
        finally:
            self._send(response)

    do_GET = do_HEAD = do_PUT = do_DELETE = do_PATCH = do_POST = do_OPTIONS = _answer  # noqa: N815 - http.server's names

    def _read_body(self) -> tuple[Response | None, bytes]:
        """The body, or the response that refuses it."""
        if "Transfer-Encoding" in self.headers:
            return failed(HTTPStatus.LENGTH_REQUIRED, "send a Content-Length, no chunks"), b""
        told = self.headers.get("Content-Length", "0")
        if not (told.isascii() and told.isdigit()):
            return failed(HTTPStatus.BAD_REQUEST, "Content-Length is no number"), b""
        if len(told) > 12 or int(told) > BODY_SIZE_MAX:
            return failed(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {BODY_SIZE_MAX} bytes"), b""
        return None, self.rfile.read(int(told))

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", response.content_type)
            self.send_header("Content-Length", str(len(response.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What http.server itself refuses (a broken request line, an unknown verb), in our shape instead of HTML."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or "GET"
        self.request_version = (
            self.protocol_version
        )  # http.server takes a broken line for HTTP/0.9, which has no headers
        self._send(failed(HTTPStatus(code), message or ""))

    def version_string(self) -> str:
        """The header ``Server``, without Python's version."""
        return self.server_version

    def address_string(self) -> str:
        """A unix socket's client has no address."""
        return (
            str(self.client_address[0]) if isinstance(self.client_address, tuple) and self.client_address else "local"
        )

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """One line a request, when somebody asked for debugging."""
        _LOG.debug("%s %s", self.address_string(), format % args)

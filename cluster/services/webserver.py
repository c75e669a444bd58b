"""HTTP servers on unix sockets of the cluster's own folder, which other users of this computer cannot reach."""

from __future__ import annotations

import http.server
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

REQUEST_DEADLINE_S = 30
"""For a client to say something; threads of silent ones end."""
CONNECTIONS_MAX = 128
"""At a time, each with a thread; who comes then is hung up on."""
_PROXY = re.compile(rb"PROXY TCP4 ([0-9.]{7,15}) [0-9.]+ [0-9]+ [0-9]+\r\n")


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. ``caller`` is the address that a PROXY line (version 1) named before the first request, else empty."""

    timeout = REQUEST_DEADLINE_S
    server_version = "flotilla"
    sys_version = ""
    caller = ""
    raw_requestline: bytes

    def parse_request(self) -> bool:
        """Read a PROXY line where the request line is expected, and then the real one."""
        # Once: what comes after it is the client's own word.
        if not self.caller and (found := _PROXY.fullmatch(self.raw_requestline)):
            self.caller = found[1].decode()
            self.raw_requestline = self.rfile.readline(65537)
        return super().parse_request()

    def address_string(self) -> str:
        """Who asks, for the log: there is no peer address on a unix socket."""
        return self.caller or "a node"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class named it
        """One line for the supervisor's log."""
        server = self.server
        assert isinstance(server, WebServer)
        server.say(f"{self.address_string()}: {format % args}")


Request: TypeAlias = socket.socket | tuple[bytes, socket.socket]
"""A connection, as socketserver hands it on (a pair is what UDP has)."""


class WebServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves ``handler`` at the socket ``path`` in threads of this process until :meth:`stop`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: Path, handler: Callable[..., Handler], say: Callable[[str], None]) -> None:
        """Listen; a socket left by a dead server is replaced. Raises OSError."""
        path.unlink(missing_ok=True)
        self.say = say
        self._path = path
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)
        super().__init__(str(path), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name=path.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        self._path.unlink(missing_ok=True)

    def process_request(self, request: Request, client_address: object) -> None:
        """Serve a connection in a thread of its own, if there is room for one."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Request, client_address: object) -> None:
        """That thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Request, client_address: object) -> None:
        """A client that went away in the middle is not worth a traceback; anything else is."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

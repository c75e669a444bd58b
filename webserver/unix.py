"""A client's side of HTTP over a unix socket."""

from __future__ import annotations

import http.client
import os
import socket


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the unix socket at ``path``; ``host`` is the header, ``timeout_s`` bounds each step (None: never)."""

    def __init__(
        self, path: str | os.PathLike[str], *, host: str = "localhost", timeout_s: float | None = None
    ) -> None:
        super().__init__(host, timeout=timeout_s)
        self._path = os.fspath(path)

    def connect(self) -> None:
        """See http.client."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

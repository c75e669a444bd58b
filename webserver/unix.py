"""HTTP over a unix socket: a client's side, and who the client is."""

from __future__ import annotations

import http.client
import os
import socket
import struct


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


def uid_of(connection: socket.socket) -> int | None:
    """Whose process is at the other end of a unix socket (unix(7), SO_PEERCRED: pid, uid, gid); None of another one."""
    if connection.family != socket.AF_UNIX:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])

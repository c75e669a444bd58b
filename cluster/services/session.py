"""Requests over a unix socket."""

from __future__ import annotations

import socket
from pathlib import Path

from requests import Session
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

BLOCK_BYTES = 1 << 20
"""Of a file that is sent, at once."""


def unix_session(path: Path) -> Session:
    """A session whose requests for http://, whatever host they name, go to the server at the unix socket ``path``.

    Neither the environment's proxies nor a netrc file count.
    """
    session = Session()
    session.trust_env = False
    session.mount("http://", _Adapter(path))
    return session


class _Adapter(HTTPAdapter):
    def __init__(self, path: Path) -> None:
        class Connection(HTTPConnection):
            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(self.timeout)
                self.sock.connect(str(path))

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        self._pool = Pool("localhost", blocksize=BLOCK_BYTES)
        super().__init__()

    def get_connection_with_tls_context(self, *_: object, **__: object) -> HTTPConnectionPool:
        """See requests: the one that there is."""
        return self._pool

    def close(self) -> None:
        """See requests."""
        self._pool.close()
        super().close()

"""TLS over what is no socket of the kernel's: a channel within an ssh connection."""

from __future__ import annotations

import io
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import paramiko
    from _typeshed import ReadableBuffer, WriteableBuffer

T = TypeVar("T")
PIECE_BYTES = 1 << 15


class Secured:
    """What :mod:`http.client` needs of a socket. Errors are OSError, of which ssl's are some."""

    def __init__(self, channel: paramiko.Channel, context: ssl.SSLContext, name: str) -> None:
        """Agrees on TLS with the server ``name`` at the other end of ``channel``."""
        self._channel = channel
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._done(self._tls.do_handshake)

    def sendall(self, data: ReadableBuffer) -> None:
        """Send all of ``data``."""
        with memoryview(data) as view:
            left = view
            while left:
                left = left[self._done(partial(self._tls.write, left)) :]

    def recv(self, size: int) -> bytes:
        """What is there, up to ``size`` bytes, or comes next; empty at the end."""
        try:
            return self._done(lambda: self._tls.read(size))
        except ssl.SSLEOFError:
            return b""

    def makefile(self, _: str) -> io.BufferedReader:
        """To read from."""
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """Nothing: whoever made the channel closes it."""

    def _done(self, step: Callable[[], T]) -> T:
        """Repeat ``step`` while TLS lacks bytes of the other side; what it has for that side is sent."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._channel.recv(PIECE_BYTES)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._channel.sendall(data)


class _Reader(io.RawIOBase):
    """As a file; its end is not the connection's."""

    def __init__(self, secured: Secured) -> None:
        self._secured = secured

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self._secured.recv(view.nbytes)
        view[: len(data)] = data
        return len(data)

"""Terminals of this computer that a node has for devices: its console, and the port of its root shell."""

from __future__ import annotations

import asyncio
import os
import pty
import termios
import tty
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from cluster.model import logs

PIECE_BYTES = 1 << 16


class Terminal:
    """A pseudo-terminal.

    The node's end is the device at :attr:`path`, ours the descriptor :attr:`ours`, which does not block.
    """

    def __init__(self, *, raw: bool) -> None:
        """``raw`` is one that carries bytes as they are. Raises OSError."""
        self.ours, self._theirs = pty.openpty()
        # Theirs stays open here, too: a terminal that no process has open reads as an error.
        self.path = Path(os.ttyname(self._theirs))
        os.set_blocking(self.ours, False)
        if raw:
            tty.setraw(self._theirs)

    def flush(self) -> None:
        """Forget what neither end has read yet."""
        termios.tcflush(self._theirs, termios.TCIOFLUSH)

    def close(self) -> None:
        """Let go of it."""
        os.close(self.ours)
        os.close(self._theirs)


class Console:
    """Writes what a terminal shows to the end of a file."""

    def __init__(self, terminal: Terminal, log: Path) -> None:
        """Raises OSError if ``log`` cannot be opened."""
        self._ours = terminal.ours
        self._path = log
        self._log: IO[bytes] = log.open("ab", buffering=0)
        self._bytes = self._log.tell()
        asyncio.get_running_loop().add_reader(self._ours, self._read)

    def close(self) -> None:
        """Write what is there, and no more."""
        asyncio.get_running_loop().remove_reader(self._ours)
        while self._read():
            pass
        self._log.close()

    def _read(self) -> bool:
        """Write a piece; whether there was one."""
        try:
            data = os.read(self._ours, PIECE_BYTES)
        except BlockingIOError:
            return False
        with suppress(OSError):  # this computer has no room for it
            self._log.write(data)
        # Checked here, and not only from time to time: a terminal is a thousand times as fast as a serial port.
        self._bytes += len(data)
        if self._bytes > logs.BYTES_MAX:
            logs.roll(self._path)
            self._bytes = 0
        return True


class Port(asyncio.Protocol):
    """A terminal behind a unix socket, like a virtio port of QEMU's.

    It has one host at a time; without one, the node's output is lost.
    """

    def __init__(self, terminal: Terminal) -> None:
        """:meth:`listen` opens it."""
        self._ours = terminal.ours
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._host: asyncio.Transport | None = None
        self._unwritten = bytearray()
        self._is_open = False

    async def listen(self, path: Path) -> None:
        """Take hosts at ``path``. Raises OSError."""
        path.unlink(missing_ok=True)
        self._server = await self._loop.create_unix_server(lambda: self, str(path))
        self._is_open = True
        self.resume_writing()

    def close(self) -> None:
        """Hang up, and take no more hosts."""
        self._loop.remove_reader(self._ours)
        self._loop.remove_writer(self._ours)
        self._is_open = False
        if self._server is not None:
            self._server.close()
        if self._host is not None:
            self._host.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new host takes the place of a former one."""
        if self._host is not None:
            self._host.abort()
        self._host = cast("asyncio.Transport", transport)
        self._unwritten.clear()
        self.resume_writing()

    def connection_lost(self, _: Exception | None) -> None:
        """The host has hung up."""
        if self._host is not None and self._host.is_closing():
            self._host = None
            self.resume_writing()

    def pause_writing(self) -> None:
        """The host reads no more for now: neither do we."""
        if self._is_open:  # else the number of the descriptor may be another's by now
            self._loop.remove_reader(self._ours)

    def resume_writing(self) -> None:
        """It does again."""
        if self._is_open:
            self._loop.add_reader(self._ours, self._read)

    def data_received(self, data: bytes) -> None:
        """Data from the host; if the node does not take it, the host has to wait."""
        if self._is_open:
            self._unwritten += data
            self._write()

    def _write(self) -> None:
        with suppress(BlockingIOError):
            while self._unwritten:
                del self._unwritten[: os.write(self._ours, self._unwritten)]
        if self._host is None:
            return
        if self._unwritten:
            self._host.pause_reading()
            self._loop.add_writer(self._ours, self._write)
        else:
            self._loop.remove_writer(self._ours)
            self._host.resume_reading()

    def _read(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._ours, PIECE_BYTES)
            if self._host is not None:
                self._host.write(data)

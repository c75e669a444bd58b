"""Relays on the loopback address between etcd's members, which can be cut: from one member to another, both ways.

A member dials from any address; whose connection it is shows in /proc (proc_net(5), proc_pid_fd(5)).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

_LISTENING = 64


class Relays:
    """``pids()`` are the processes of the members, by number. End it with :meth:`close`."""

    def __init__(self, pids: Callable[[], dict[int, int]]) -> None:
        self._pids = pids
        self._alone: set[int] = set()
        self._open: set[tuple[int, int, asyncio.StreamWriter]] = set()
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def add(self, number: int, port: int, target: int) -> None:
        """Whoever connects to ``port`` reaches ``target``, which member ``number`` listens at."""
        asyncio.run_coroutine_threadsafe(self._serve(number, port, target), self._loop).result(30)

    def isolate(self, number: int) -> None:
        """Member ``number`` reaches no other one, and no other one reaches it."""
        self._loop.call_soon_threadsafe(self._cut, number)

    def heal(self) -> None:
        """All is connected again."""
        self._alone.clear()

    def close(self) -> None:
        """End all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, number: int, port: int, target: int) -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._relay(number, target, reader, writer)
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", port, backlog=_LISTENING)
        self._servers.append(server)

    async def _relay(
        self, number: int, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        source = self._owner(writer.get_extra_info("peername")[1])
        if source != number and not self._alone.isdisjoint((source, number)):
            return
        there, back = await asyncio.open_connection("127.0.0.1", target)
        entry = (source, number, writer)
        self._open.add(entry)
        try:
            await asyncio.wait(
                [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._open.discard(entry)
            back.close()

    def _cut(self, number: int) -> None:
        self._alone.add(number)
        for source, target, writer in list(self._open):
            if source != target and number in (source, target):
                writer.close()

    def _owner(self, port: int) -> int:
        """The member whose socket has this local port; 0 for one that is no member's."""
        inode = ""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(f":{port:04X}"):
                inode = fields[9]
                break
        for number, pid in self._pids().items():
            with contextlib.suppress(OSError):
                for link in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        if str(link.readlink()) == f"socket:[{inode}]":
                            return number
        return 0


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

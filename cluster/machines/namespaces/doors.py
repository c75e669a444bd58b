"""Connections between a node's own network namespace and this computer's.

They are carried one by one, as QEMU's user network does.

A socket belongs to the network namespace of the thread that makes it, for good (network_namespaces(7)). So a thread
that lives in the node's namespace makes sockets there, and the event loop uses them like any other.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

CLONE_NEWNET = 0x40000000
PIECE_BYTES = 1 << 16
BACKLOG = 64


class Network:
    """A network namespace, in which sockets can be made."""

    def __init__(self, descriptor: int) -> None:
        """``descriptor`` is of the namespace; it may be closed after this. Raises OSError."""
        self._thread = ThreadPoolExecutor(1, "namespace")
        try:
            self._thread.submit(enter, descriptor).result()
        except OSError:
            self.close()
            raise

    async def socket(self) -> socket.socket:
        """A new TCP socket there, not blocking. Raises OSError, RuntimeError after :meth:`close`."""
        made = await asyncio.get_running_loop().run_in_executor(self._thread, socket.socket)
        made.setblocking(False)
        return made

    def close(self) -> None:
        """Make no more sockets."""
        self._thread.shutdown(wait=False)


def enter(descriptor: int) -> None:
    """Make this thread one of the namespace. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) == -1:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")


class Doors:
    """The two ways between a node and this computer.

    A port of ours leads to the node's ssh server, a port of the node to one of ours.
    """

    def __init__(self) -> None:
        """Both are closed."""
        self._network: Network | None = None
        self._servers: list[asyncio.Server] = []
        self._inner: asyncio.Server | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    async def open(self, port: int, inner_port: int) -> None:
        """Accept connections at ``port`` of our loopback, for ``inner_port`` of the node's, in any boot of it.

        Raises OSError.
        """

        async def enter_node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                inside = None if self._network is None else await self._network.socket()
            except (OSError, RuntimeError):  # the boot has just ended, and its namespace with it
                inside = None
            if inside is None:
                writer.close()
            else:
                await self._carry(reader, writer, inside, ("127.0.0.1", inner_port))

        self._servers.append(await asyncio.start_server(enter_node, "127.0.0.1", port, backlog=BACKLOG))

    async def boot(self, network: Network, inside: tuple[str, int], port: int) -> None:
        """The node is in ``network`` from now on.

        Accept connections there, at the address ``inside``, for ``port`` of our loopback. Raises OSError.
        """
        self.shut()
        self._network = network

        async def leave_node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            outside = socket.socket()
            outside.setblocking(False)
            await self._carry(reader, writer, outside, ("127.0.0.1", port))

        listening = await network.socket()
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(inside)
            self._inner = await asyncio.start_server(leave_node, sock=listening, backlog=BACKLOG)
        except BaseException:
            listening.close()
            raise

    def shut(self) -> None:
        """The node's boot is over: close all connections. New ones are refused."""
        if self._inner is not None:
            self._inner.close()
        if self._network is not None:
            self._network.close()
        self._inner = self._network = None
        for task in self._under_way:
            task.cancel()

    def close(self) -> None:
        """Close all of it."""
        self.shut()
        for server in self._servers:
            server.close()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        other: socket.socket,
        address: tuple[str, int],
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._under_way.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            await asyncio.get_running_loop().sock_connect(other, address)
            far_reader, far = await asyncio.open_connection(sock=other)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pour(reader, far))
                both.create_task(_pour(far_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass  # no one listens there, one of the two hung up, or the node is off
        finally:
            self._under_way.discard(task)
            other.close() if far is None else far.close()
            writer.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one direction to its end, and pass that on."""
    while data := await reader.read(PIECE_BYTES):
        writer.write(data)
        await writer.drain()
    with suppress(OSError):
        writer.write_eof()

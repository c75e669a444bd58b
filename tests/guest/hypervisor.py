"""The real agent as a process of its own, on a terminal in place of the virtio port, behind a socket as QEMU has it."""

import asyncio
import contextlib
import os
import sys
import tty
from collections.abc import AsyncIterator
from pathlib import Path

from tests.eventually import eventually_async

ROOT = Path(__file__).parents[2]


class Hypervisor:
    """Stands between a unix socket, as QEMU does for its chardev, and the port of an agent: what one end says the other
    hears.

    It takes one connection at a time; while there is none, what the guest says is gone.
    """

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "shell"
        self._master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(self._master, False)
        self._slave = slave  # kept open: a port does not hang up because its agent does
        self.agent: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._backlog = bytearray()
        self.garbled = b""
        self.carried = 0
        """Bytes that have come from the guest."""

    async def start(self) -> None:
        """Listen, and switch the guest on."""
        self._server = await asyncio.start_unix_server(self._connected, str(self.socket))
        asyncio.get_running_loop().add_reader(self._master, self._from_guest)
        await self.boot()

    async def boot(self) -> None:
        """Start the agent (again), as its unit does."""
        if self.agent is not None:
            with contextlib.suppress(ProcessLookupError):
                self.agent.kill()
            await self.agent.wait()
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from guest.agent import main; sys.exit(main())"
        self.agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", code, os.ttyname(self._slave)), stdin=asyncio.subprocess.DEVNULL
        )

    async def stop(self) -> None:
        """Switch everything off."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        if self._writer is not None:
            self._writer.close()
        self._server.close()
        if self.agent is not None:
            with contextlib.suppress(ProcessLookupError):
                self.agent.kill()
            await self.agent.wait()
        os.close(self._master)
        os.close(self._slave)

    def say(self, data: bytes) -> None:
        """Put ``data`` into the guest's port, as an earlier connection might have."""
        self._backlog += data
        self._to_guest()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        while data := await reader.read(4096):
            self.say(data)
            await eventually_async(lambda: len(self._backlog) <= 65536)
        self._writer = None
        writer.close()

    def _from_guest(self) -> None:
        # A reader that does not keep up holds the guest up, too.
        data = os.read(self._master, 4096)
        self.carried += len(data)
        if self._writer is not None:
            self._writer.write(data)

    def _to_guest(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            del self._backlog[: os.write(self._master, self._backlog[:2048])]
        except BlockingIOError:
            loop.add_writer(self._master, self._to_guest)
            return
        if self._backlog:
            loop.add_writer(self._master, self._to_guest)
        else:
            loop.remove_writer(self._master)


@contextlib.asynccontextmanager
async def hypervisor(folder: Path) -> AsyncIterator[Hypervisor]:
    """A guest with an agent that is switched on, and off in the end."""
    guest = Hypervisor(folder)
    await guest.start()
    try:
        yield guest
    finally:
        await guest.stop()

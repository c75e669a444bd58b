"""QEMU's monitor: JSON lines over a unix socket (QEMU ``docs/interop/qmp-spec``), on one connection that is kept.

Commands carry a number, by which their replies are known; what comes without one is an event. A QEMU that its guest has
taken over may send anything: each line is taken as a reply or an event, or dropped; one line of :data:`LINE_BYTES_MAX`
at most is held, and :data:`BYTES_A_SECOND` at most are read.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.model.utterance import printable
from guest.lines import Message, decode
from terminal import Failure

LINE_BYTES_MAX = 1 << 20
BYTES_A_SECOND = 4 << 20
"""A QEMU that sends more has to wait, in its own memory: all nodes share the supervisor's one thread."""
CONNECTION = "CONNECTION"
"""Not an event of QEMU's: the connection was made, or was lost, so that events may have been missed."""


class Monitor:
    """The connection to the monitor at ``socket``.

    It is made by the first command, and once more by the next one after it broke.

    ``on_event`` is called with each event's name and data, an unchecked object; :data:`CONNECTION` is one of the
    events. All of it belongs to one asyncio loop.
    """

    def __init__(self, socket: Path, on_event: Callable[[str, Message], None]) -> None:
        self._socket, self._on_event = socket, on_event
        self._numbers = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Message]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._end = ""

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, deadline_s: float = 10
    ) -> object:
        """Run ``command`` ("stop", "cont", "query-status", "system_powerdown", "quit" ...) and return what it returns.

        Raises :class:`Failure` if QEMU refuses, is gone, or does not reply within ``deadline_s`` seconds.
        """
        try:
            async with asyncio.timeout(deadline_s):
                async with self._opening:
                    if self._writer is None:
                        await self._open()
                return await self._call(command, arguments)
        except TimeoutError as error:
            raise Failure(
                f"QEMU did not answer {command} within {deadline_s:.0f} s", where=str(self._socket)
            ) from error
        except (OSError, ValueError) as error:
            why = f"QEMU's monitor cannot be talked to about {command}"
            raise Failure(why, where=str(self._socket)) from error

    def close(self) -> None:
        """Hang up: QEMU has ended. Commands under way fail, and so does every later one."""
        self._end = self._end or "QEMU has ended"
        if self._reading is not None:
            self._reading.cancel()
        self._lost(ConnectionResetError(self._end))

    async def _open(self) -> None:
        if self._end:
            raise ConnectionResetError(self._end)
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=LINE_BYTES_MAX)
        try:
            if not await reader.readline():  # the greeting
                raise ConnectionResetError("QEMU hung up")
            self._writer = writer
            self._reading = asyncio.create_task(self._read(reader, writer))
            await self._call("qmp_capabilities")  # before that, no other is carried out
        except BaseException as error:
            if self._reading is not None:
                self._reading.cancel()
            writer.close()
            self._lost(error)
            raise
        self._on_event(CONNECTION, {})

    async def _call(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        if self._writer is None:
            raise ConnectionResetError(self._end or "QEMU hung up")
        number, reply = next(self._numbers), asyncio.get_running_loop().create_future()
        self._pending[number] = reply
        try:
            message = {"execute": command, "arguments": arguments or {}, "id": number}
            self._writer.write(json.dumps(message).encode() + b"\n")
            await self._writer.drain()
            return result(await reply, command)
        finally:
            self._pending.pop(number, None)
            if reply.done() and not reply.cancelled():
                reply.exception()  # looked at, though the trouble may have been met in sending

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read until the connection breaks, or until QEMU sends a line that is too long."""
        trouble: Exception = ConnectionResetError("QEMU hung up")
        second, taken = time.monotonic(), 0
        try:
            while line := await reader.readline():
                self._hear(decode(line) or {})
                taken += len(line)
                if taken >= BYTES_A_SECOND:
                    await asyncio.sleep(second + 1 - time.monotonic())
                    second, taken = time.monotonic(), 0
        except (OSError, ValueError) as error:
            trouble = error
        finally:
            writer.close()
            if self._writer is writer:
                self._lost(trouble)
                self._on_event(CONNECTION, {})

    def _hear(self, message: Message) -> None:
        match message:
            case {"id": int(number)} if (reply := self._pending.get(number)) is not None:
                if not reply.done():
                    reply.set_result(message)
            case {"event": str(name)}:
                data = message.get("data")
                if name == "SHUTDOWN":
                    self._end = "QEMU ends: it was shut down"
                self._on_event(name, data if isinstance(data, dict) else {})

    def _lost(self, trouble: BaseException) -> None:
        writer, self._writer, self._reading = self._writer, None, None
        if writer is not None:
            writer.close()
        for reply in self._pending.values():
            if not reply.done():
                reply.set_exception(ConnectionResetError(str(trouble)))


def result(answer: Message, command: str) -> object:
    """What an answer to ``command`` returns. Raises :class:`Failure` if it is a refusal, or no answer."""
    match answer:
        case {"return": value}:
            return value
        case {"error": {"desc": str(why)}}:
            raise Failure(f"QEMU refuses {command}: {printable(why)}")
        case _:
            raise Failure(f"QEMU refuses {command} without a reason")


def status(value: object) -> str | None:
    """The ``status`` in what query-status and query-migrate return."""
    match value:
        case {"status": str(found)}:
            return found
        case _:
            return None

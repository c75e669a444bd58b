"""The host's half of a node's root shell.

One connection to the port that :mod:`guest.agent` serves carries many commands.

The supervisor holds one :class:`Shell` a node, from the start of its QEMU to the end. The guest is not trusted: its
lines are short or dropped, what it sends beyond its window ends the command, and messages about commands that do not
run, or with unknown fields, are ignored.
"""

from __future__ import annotations

import asyncio
import binascii
import secrets
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.model.run import RunResult, require_short
from cluster.model.utterance import kept, number, printable
from guest.command import COST_BYTES, INPUT_WINDOW_BYTES, WINDOW_BYTES
from guest.lines import Lines, Message, encode
from terminal import Failure

PIECE_BYTES = 1 << 16
UNREAD_BYTES_MAX = 2 * WINDOW_BYTES
"""Of messages that were not read yet; a guest that keeps to its window stays below."""
OTHER_BYTES = 1 << 12
"""The size that a message without output counts for: few of those are ever sent.

(Names of failed units may be eight times as long.)
"""
INPUT_BYTES = 1 << 14
"""Of input in one message."""
OUTPUT_BYTES_MAX = 1 << 24
"""Of a command of the supervisor's own, all of which it holds."""
UNSENT_BYTES_MAX = 1 << 18
"""What may wait for a guest that takes nothing.

It is several times what sessions leave there before a reset waits in vain.
"""
HELLOS_LOGGED_MAX = 100
"""Of one machine, in the log: a guest may send hello as often as it likes."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What the guest reported: which boot this is (a UUID of the kernel's), and its uptime in seconds then."""

    boot: str
    uptime: float


class Lost(Failure):
    """The command's outcome cannot be known any more: the node was switched off or reset, or its shell restarted."""


class Session:
    """One command or watch of a guest, as its caller sees it."""

    def __init__(self, shell: Shell, number: int) -> None:
        self._shell, self.number = shell, number
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._room = INPUT_WINDOW_BYTES
        self._has_room = asyncio.Event()
        self._unread = 0
        self._lost: str | None = None
        self.is_over = False

    async def messages(self) -> AsyncIterator[Message]:
        """The guest's messages, up to the ``exit``. Raises :class:`Lost`, and :class:`Failure` if the guest refuses."""
        while True:
            message = await self._messages.get()
            if message is None:
                raise Lost(self._lost or "the root shell went away", where=self._shell.name)
            if "error" in message:
                raise Failure(f"the node refuses: {message['error']}", where=self._shell.name)
            yield message
            self._unread -= _weight(message)
            if (size := _size(message)) > 0:
                self._shell.send({"do": "more", "id": self.number, "bytes": size})
                await self._shell.sent()
            if "exit" in message:
                return

    def send(self, do: str, **values: object) -> None:
        """Send a request about this command: ``size``, ``signal``, ``end``."""
        if not self.is_over:
            self._shell.send({"do": do, "id": self.number, **values})

    async def type(self, data: bytes) -> None:
        """Give the command input, as fast as it takes it; what comes after its end is gone."""
        for begin in range(0, len(data), INPUT_BYTES):
            piece = data[begin : begin + INPUT_BYTES]
            while self._room < len(piece) and not self.is_over:
                self._has_room.clear()
                await self._has_room.wait()
            if self.is_over:
                return
            self._room -= len(piece)
            self.send("input", data=b64encode(piece).decode())
            await self._shell.sent()

    def give_up(self, why: str) -> None:
        """Kill it; its caller receives ``why``."""
        self.send("drop")
        self._shell.forget(self, why)

    def heard(self, message: Message) -> None:
        """For the shell: the guest has sent this message, see :func:`cluster.model.utterance.kept`."""
        if "took" in message:
            self._room = min(self._room + message["took"], INPUT_WINDOW_BYTES)
            self._has_room.set()
            return
        self._unread += _weight(message)
        if self._unread > UNREAD_BYTES_MAX:
            self._shell.forget(self, "the guest sends more than it may")
            return
        if "exit" in message or "error" in message:
            self.is_over = True
            self._has_room.set()
        self._messages.put_nowait(message)

    def lose(self, why: str) -> None:
        """For the shell: there will be no more."""
        if not self.is_over:
            self.is_over, self._lost = True, why
            self._has_room.set()
            self._messages.put_nowait(None)


class Shell:
    """The root shell of node ``name`` at the unix socket ``path``.

    :attr:`hello` shows whether it can be used just now.
    """

    def __init__(self, path: Path, name: str, log: Callable[[str], None]) -> None:
        self.path, self.name, self._log = path, name, log
        self.hello: Hello | None = None
        self._changed = asyncio.Condition()
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._nonce = ""
        self._logged = 0
        self._next = 1
        self._sessions: dict[int, Session] = {}

    async def open(self) -> None:
        """Connect to a QEMU that listens, and go on until it hangs up. Raises OSError."""
        await self.close()
        reader, self._writer = await asyncio.open_unix_connection(str(self.path))
        self._logged = 0
        self._reset()
        self._task = asyncio.create_task(self._listen(reader, self._writer))

    async def close(self) -> None:
        """Hang up; what runs in the guest is killed there when the next host resets it."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def ready(self, timeout: float | None) -> Hello:
        """Wait until the guest has sent hello. Raises :class:`Failure` if it has not within ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(lambda: self.hello is not None)
        except TimeoutError:
            hint = "it comes up some seconds into a boot; an image of an older version has none: then 'cluster ssh'"
            raise Failure(f"no root shell within {timeout or 0:.0f} s", where=self.name, hint=hint) from None
        assert self.hello is not None
        return self.hello

    @asynccontextmanager
    async def session(self, request: Message) -> AsyncIterator[Session]:
        """Begin a command or a watch (docs/guest.md); one that has not ended at the end of the block is killed."""
        if self.hello is None:
            raise Lost("the root shell is not there", where=self.name)
        session = Session(self, self._next)
        self._next += 1
        self._sessions[session.number] = session
        try:
            self.send({**request, "id": session.number})
            await self.sent()
            yield session
        finally:
            session.give_up("it was given up")

    async def run(self, command: str, *, timeout: float, stdin: bytes | None = None) -> RunResult:
        """Run a shell command as root and return its outcome.

        Raises :class:`Failure` if that takes longer than ``timeout`` seconds in all.
        """
        out, err = bytearray(), bytearray()
        try:
            async with asyncio.timeout(timeout):
                await self.ready(timeout)
                async with self.session(run_request(command, has_input=stdin is not None)) as session:
                    typing = asyncio.create_task(_type(session, stdin))
                    try:
                        async for message in session.messages():
                            out += _bytes(message, "out")
                            err += _bytes(message, "err")
                            code = message.get("exit")
                            if len(out) + len(err) > OUTPUT_BYTES_MAX:
                                complaint = f"{printable(command)!r} says more than {OUTPUT_BYTES_MAX >> 20} MiB"
                                raise Failure(complaint, where=self.name)
                    finally:
                        typing.cancel()
        except TimeoutError:
            raise overdue(command, timeout, bytes(out + err), self.name) from None
        return RunResult(int(code or 0), out.decode(errors="replace"), err.decode(errors="replace"))

    async def clock_step(self, epoch_s: float, *, rtc: bool = False, timeout: float = 30) -> tuple[float, float]:
        """Set the node's wall clock, and its hardware clock if ``rtc``; returns its time before and after.

        The new time is ``epoch_s`` seconds since 1970. Raises :class:`Failure`.
        """
        try:
            async with asyncio.timeout(timeout):
                await self.ready(timeout)
                async with self.session({"do": "clock", "epoch": epoch_s, "rtc": rtc}) as session:
                    async for message in session.messages():
                        return message["before"], message["after"]
        except (TimeoutError, KeyError):
            pass
        raise Failure(f"its clock was not set within {timeout:.0f} s", where=self.name)

    def send(self, message: Message) -> None:
        """For sessions: put a message on the line, if there is one."""
        if self._writer is not None:
            self._writer.write(encode(message))

    async def sent(self) -> None:
        """For sessions: wait until the guest has taken most of what was sent."""
        if self._writer is not None:
            with suppress(OSError):
                await self._writer.drain()

    def forget(self, session: Session, why: str) -> None:
        """For sessions: forget it, and drop its messages."""
        self._sessions.pop(session.number, None)
        session.lose(why)

    def _reset(self) -> None:
        assert self._writer is not None
        if self._writer.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            return  # the last one waits there still
        self._nonce = secrets.token_hex(8)
        # This ends what an earlier host sent half.
        self._writer.write(b"\n" + encode({"do": "reset", "nonce": self._nonce}))

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = Lines()
        try:
            while data := await reader.read(PIECE_BYTES):
                for message in lines.feed(data):
                    await self._hear(message)
        except OSError as error:
            self._log(f"{self.name}'s root shell: {error}")
        finally:
            writer.close()
            self._writer = None
            self._lose("its machine was switched off")
            with suppress(OSError):
                await writer.wait_closed()

    async def _hear(self, message: Message) -> None:
        match message:
            case {"hello": int(), "nonce": nonce, "boot": str(boot), "uptime": said}:
                if (uptime := number(said)) is None:
                    return
                if nonce is None:
                    # Not an answer: the agent has just started. What ran before is gone, and it serves no host yet.
                    self._lose("the node was reset, or its root shell restarted")
                    self._reset()
                elif nonce == self._nonce and self.hello is None:
                    self.hello = Hello(printable(boot), uptime)
                    self._logged += 1
                    if self._logged <= HELLOS_LOGGED_MAX:
                        self._log(f"{self.name}'s root shell is there, {uptime:.1f} s after its start")
                    async with self._changed:
                        self._changed.notify_all()
                # Else it answers an earlier reset, and the answer to ours is on its way. Another reset would make that
                # an answer to an earlier one, too.
            case {"id": int(id_)} if id_ in self._sessions:
                session = self._sessions[id_]
                if heard := kept(message):
                    session.heard({"id": id_, **heard})
                if session.is_over:
                    self._sessions.pop(id_, None)

    def _lose(self, why: str) -> None:
        self.hello = None
        for session in list(self._sessions.values()):
            self.forget(session, why)


def run_request(command: str | None, *, has_input: bool, tty: Message | None = None) -> Message:
    """The guest's request for a shell command, or for a login shell.

    Raises :class:`Failure` if the command is too long for a line.
    """
    if command is not None:
        require_short(command)
    argv = ["/bin/bash", "-l"] if command is None else ["/bin/bash", "-c", command]
    return {"do": "run", "argv": argv, "input": has_input, **({"tty": tty} if tty is not None else {})}


def overdue(command: str, seconds: float, said: bytes, where: str) -> Failure:
    """The failure of a command that did not end, with the last line of its output ``said``."""
    last = said.decode(errors="replace").strip().splitlines()[-1:]
    ending = f"; the last it said: {printable(last[0])}" if last else ""
    return Failure(f"{command!r} did not end within {seconds:.0f} s{ending}", where=where)


async def _type(session: Session, data: bytes | None) -> None:
    if data is not None:
        await session.type(data)
        session.send("end")


def _bytes(message: Message, name: str) -> bytes:
    try:
        return b64decode(message.get(name, ""), validate=True)
    except (binascii.Error, TypeError, ValueError):
        return b""


def _size(message: Message) -> int:
    """How much of its window the guest has used with this message."""
    return sum(len(_bytes(message, name)) + COST_BYTES for name in ("out", "err") if name in message)


def _weight(message: Message) -> int:
    """How much of our memory it takes until it is read.

    For output in base64, that is at most a third more than its size.
    """
    texts = [message[name] for name in ("out", "err") if name in message]
    return sum(len(text) + COST_BYTES for text in texts) if texts else OTHER_BYTES

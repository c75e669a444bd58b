"""The supervisor's side of the conversations of :mod:`cluster.client.root_shell`.

Lines go both ways until either side ends.
"""

from __future__ import annotations

import asyncio
import binascii
import json
from base64 import b64decode
from contextlib import suppress

from cluster.machines.shell import Lost, Session, Shell, overdue, run_request
from cluster.model import encoding
from cluster.model.protocol import EndOfInput, Input, Resize, RootShell, Signal, Watch
from guest.lines import Message
from terminal import Failure

READY_S = 600.0
"""For the root shell to be there, if the caller gives no timeout.

Such a caller interrupts, or receives a failure when the machine is off.
"""


async def run(shell: Shell, request: RootShell, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Run a command, or a shell, until it ends or the caller hangs up.

    Raises :class:`Failure`, and OSError if the caller went away.
    """
    command, timeout = request.command, request.timeout
    tty = None if request.tty is None else {"size": list(request.tty.size), "term": request.tty.term}
    wanted = run_request(command, has_input=request.input, tty=tty)
    said = b""
    try:
        async with asyncio.timeout(timeout):
            await shell.ready(timeout or READY_S)
            async with shell.session(wanted) as session:
                relay = asyncio.create_task(_relay(reader, session))
                try:
                    async for message in session.messages():
                        said = (said + _said(message))[-4096:]
                        await _write(writer, {key: message[key] for key in ("out", "err", "exit") if key in message})
                finally:
                    relay.cancel()
                    with suppress(asyncio.CancelledError):
                        await relay
    except TimeoutError:
        raise overdue(command or "a shell", timeout or 0, said, shell.name) from None


async def _relay(reader: asyncio.StreamReader, session: Session) -> None:
    """Pass on what the caller types; a caller that hangs up wants the command to end."""
    try:
        while line := await reader.readline():
            match encoding.decode_turn(line):
                case Input(data):
                    await session.type(b64decode(data))
                case EndOfInput():
                    session.send("end")
                case Resize(size):
                    session.send("size", size=list(size))
                case Signal(number):
                    session.send("signal", signal=number)
    except (OSError, ValueError):
        pass
    session.give_up("its asker went away")


async def watch(shell: Shell, request: Watch, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on the node's reports until all conditions hold or the caller hangs up. Raises as :func:`run` does."""
    work = asyncio.create_task(_watch(shell, request, writer))
    gone = asyncio.create_task(_hung_up(reader))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
    finally:
        for task in (work, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Failure, OSError):
                await task


async def _watch(shell: Shell, request: Watch, writer: asyncio.StreamWriter) -> None:
    wanted: Message = {
        "do": "watch",
        "conditions": list(request.conditions),
        "units": list(request.units),
        "interval": request.interval,
    }
    while True:
        hello = await shell.ready(None)
        await _write(writer, {"boot": hello.boot, "uptime": hello.uptime})
        try:
            async with shell.session(wanted) as session:
                async for message in session.messages():
                    known: Message = {key: message[key] for key in ("held", "failed", "exit") if key in message}
                    await _write(writer, known)
                return
        except Lost as lost:
            await _write(writer, {"lost": lost.message})


async def _hung_up(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(4096):
            pass


async def _write(writer: asyncio.StreamWriter, message: Message) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()


def _said(message: Message) -> bytes:
    try:
        return b64decode(message.get("err") or message.get("out") or "")
    except (binascii.Error, TypeError):
        return b""

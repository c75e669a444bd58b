"""What the supervisor does for somebody who asks for a node's root shell: lines to and fro until one of the two is done.

The asker's first line is the request, ``{"do": "root" or "watch", "node": N, ...}``; see :mod:`cluster.client.root_shell` for all of them.
"""

from __future__ import annotations

import asyncio
import binascii
import json
from base64 import b64decode
from contextlib import suppress
from typing import Any

from cluster.machines.shell import Lost, Session, Shell, overdue, run_request
from terminal import Failure, record

VERBS = ("root", "watch")
READY_S = 600.0
"""For the root shell to be there, if the asker names no time: it is interrupted, or is told when the machine is off."""


async def attend(
    shell: Shell, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one request of :data:`VERBS`. Raises :class:`Failure`, OSError if the asker went away, and KeyError, TypeError, ValueError for nonsense."""
    work = asyncio.create_task((_root if request["do"] == "root" else _watch)(shell, request, reader, writer))
    # Who hangs up wants nothing any more. (The asker of a command says more than one line; _root reads those.)
    gone = asyncio.create_task(_hung_up(reader)) if request["do"] != "root" else work
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
    finally:
        for task in {work, gone}:
            task.cancel()
            with suppress(asyncio.CancelledError, Failure, OSError):
                await task


async def _root(
    shell: Shell, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    command, timeout = request.get("command"), request.get("timeout")
    wanted = run_request(command, has_input=bool(request.get("input")), tty=request.get("tty"))
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
    """Pass on what the asker types; an asker who hangs up wants the command to end."""
    try:
        while line := await reader.readline():
            match record.parse(line):
                case {"do": "input", "data": str(data)}:
                    await session.type(b64decode(data))
                case {"do": "end"}:
                    session.tell("end")
                case {"do": "size", "size": [int(rows), int(columns)]}:
                    session.tell("size", size=[rows, columns])
                case {"do": "signal", "signal": int(number)}:
                    session.tell("signal", signal=number)
    except (OSError, ValueError):
        pass
    session.give_up("its asker went away")


async def _watch(shell: Shell, request: dict[str, Any], _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    wanted = {
        "do": "watch",
        "conditions": list(request["conditions"]),
        "units": list(request["units"]),
        "interval": float(request["interval"]),
    }
    while True:
        hello = await shell.ready(None)
        await _write(writer, {"boot": hello.boot, "uptime": hello.uptime})
        try:
            async with shell.session(wanted) as session:
                async for message in session.messages():
                    known: dict[str, Any] = {key: message[key] for key in ("held", "failed", "exit") if key in message}
                    await _write(writer, known)
                return
        except Lost as lost:
            await _write(writer, {"lost": lost.message})


async def _hung_up(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(4096):
            pass


async def _write(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    await writer.drain()


def _said(message: dict[str, Any]) -> bytes:
    try:
        return b64decode(message.get("err") or message.get("out") or "")
    except (binascii.Error, TypeError):
        return b""

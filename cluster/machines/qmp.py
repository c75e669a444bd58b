"""QEMU's monitor: JSON lines over a unix socket (QEMU ``docs/interop/qmp-spec``), one command per connection.

A QEMU that its guest has taken over may say anything: it is taken as an answer, or not at all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.model.utterance import printable
from guest.lines import Message, decode
from terminal import Failure

LINE_BYTES_MAX = 1 << 20


async def execute(
    socket: Path, command: str, arguments: Mapping[str, Any] | None = None, *, deadline_s: float = 10
) -> Any:
    """Run ``command`` ("stop", "cont", "query-status", "system_powerdown", "quit" ...) and return what it returns.

    Raises :class:`Failure` if QEMU refuses, is gone, or does not answer within ``deadline_s`` seconds.
    """
    try:
        async with asyncio.timeout(deadline_s):
            reader, writer = await asyncio.open_unix_connection(str(socket), limit=LINE_BYTES_MAX)
            try:
                await reader.readline()  # the greeting
                await _ask(reader, writer, "qmp_capabilities")
                return await _ask(reader, writer, command, arguments)
            finally:
                writer.close()
    except TimeoutError as error:
        raise Failure(f"QEMU did not answer {command} within {deadline_s:.0f} s", where=str(socket)) from error
    except (OSError, ValueError) as error:
        raise Failure(f"QEMU's monitor cannot be talked to about {command}", where=str(socket)) from error


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str, arguments: Mapping[str, Any] | None = None
) -> Any:
    writer.write(json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n")
    await writer.drain()
    while line := await reader.readline():
        answer = decode(line) or {}
        if "return" in answer or "error" in answer:
            return result(answer, command)
    raise ConnectionResetError("QEMU hung up")


def result(answer: Message, command: str) -> Any:
    """What an answer to ``command`` returns. Raises :class:`Failure` if it is a refusal, or no answer."""
    match answer:
        case {"return": value}:
            return value
        case {"error": {"desc": str(why)}}:
            raise Failure(f"QEMU refuses {command}: {printable(why)}")
        case _:
            raise Failure(f"QEMU refuses {command}, and does not say why")


def status(value: object) -> str | None:
    """The ``status`` in what query-status and query-migrate return."""
    match value:
        case {"status": str(found)}:
            return found
        case _:
            return None

"""A table of what a supervisor does for each request, and the one place that reads requests and writes replies."""

from __future__ import annotations

import inspect
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cluster.model import encoding
from cluster.model.protocol import LINE_BYTES_MAX, Conversation, Request
from terminal import Failure

R = TypeVar("R", bound=Request[object])
C = TypeVar("C", bound=Conversation)


class Handlers:
    """What is done for each type of request.

    Handlers raise :class:`Failure` and OSError, which are sent to the caller.
    """

    def __init__(self, refusal: Callable[[type[Request[object]]], str | None], where: str, hint: str) -> None:
        """``refusal`` returns why requests of a type cannot be carried out here, None if they can.

        ``where`` and ``hint`` are for people.
        """
        self._refusal, self._where, self._hint = refusal, where, hint
        # Each takes what its key says, which no type of a dict can express; on() and converse() check it.
        self._handlers: dict[type[Request[object]], Callable[..., object]] = {}
        self._conversations: dict[type[Request[object]], Callable[..., Awaitable[None]]] = {}

    @property
    def known(self) -> set[type[Request[object]]]:
        """The types of request that there is a handler for."""
        return {*self._handlers, *self._conversations}

    def on(self, kind: type[R], handler: Callable[[R], object]) -> None:
        """Have ``handler`` carry out requests of this ``kind``; it returns the reply, or a coroutine that does."""
        self._handlers[kind] = handler

    def converse(self, kind: type[C], handler: Callable[[C, StreamReader, StreamWriter], Awaitable[None]]) -> None:
        """Have ``handler`` hold conversations of this ``kind``, with the reader and writer of the connection."""
        self._conversations[kind] = handler

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serve one connection. Raises OSError if the caller has gone away."""
        try:
            request = encoding.decode(await _line(reader))
            kind = type(request)
            if (why := self._refusal(kind)) is not None:
                raise Failure(why, where=self._where, hint=self._hint)
            if kind in self._conversations:
                await self._conversations[kind](request, reader, writer)
                return
            result = self._handlers[kind](request)
            reply = encoding.encode_reply(request, await result if inspect.isawaitable(result) else result)
        except Failure as failure:
            reply = encoding.encode_failure(failure)
        except OSError as error:  # the disk is full, say
            reply = encoding.encode_failure(Failure(f"this computer does not permit it: {error}"))
        writer.write(reply)
        await writer.drain()


async def _line(reader: StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:  # asyncio's word for it
        raise Failure(f"the request is longer than {LINE_BYTES_MAX} bytes") from None

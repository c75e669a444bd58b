"""The cable between a node's card, a TAP device, and its port of the cluster's switch."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import cast

from cluster.model.framing import FRAME_BYTES_MAX, HEADER_BYTES, with_header

FRAMES_AT_ONCE = 64
"""Taken from a card before others have their turn in the event loop."""


class Cable(asyncio.Protocol):
    """Carries frames both ways, from :meth:`asyncio.loop.create_unix_connection` on to :meth:`unplug`.

    A switch that is full holds the node's card back, as it does with a QEMU. A card that is down loses the frames sent
    to it, like any card.
    """

    def __init__(self, card: int) -> None:
        """``card`` is a non-blocking descriptor of the TAP device (without packet information), closed in the end."""
        self._card = card
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._unread = bytearray()
        self._is_plugged = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The switch is there."""
        self._transport = cast("asyncio.Transport", transport)
        self.resume_writing()

    def connection_lost(self, _: Exception | None) -> None:
        """The switch has hung up; the card receives nothing from now on."""
        self.pause_writing()

    def pause_writing(self) -> None:
        """The switch takes no more for now."""
        if self._is_plugged:  # else the number of the descriptor may be another's by now
            self._loop.remove_reader(self._card)

    def resume_writing(self) -> None:
        """It does again."""
        if self._is_plugged:
            self._loop.add_reader(self._card, self._send)

    def data_received(self, data: bytes) -> None:
        """Give the card what came from the switch."""
        if not self._is_plugged:
            return
        self._unread += data
        position = 0
        while position + HEADER_BYTES <= len(self._unread):
            start = position + HEADER_BYTES
            end = start + int.from_bytes(self._unread[position:start], "big")
            if end > len(self._unread):
                break
            with suppress(OSError):  # the card is down
                os.write(self._card, self._unread[start:end])
            position = end
        del self._unread[:position]

    def unplug(self) -> None:
        """End it; the card is gone. Call it once."""
        self.pause_writing()
        self._is_plugged = False
        if self._transport is not None:
            self._transport.abort()
        os.close(self._card)

    def _send(self) -> None:
        frames = []
        with suppress(OSError):  # no more for now, or the namespace is about to go
            for _ in range(FRAMES_AT_ONCE):
                frames.append(with_header(os.read(self._card, FRAME_BYTES_MAX)))  # noqa: PERF401 - an exception ends it
        if frames and self._transport is not None:
            self._transport.write(b"".join(frames))

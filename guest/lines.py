"""The framing of both directions: a message is one JSON object on one line of at most :data:`LINE_BYTES_MAX` bytes.

Whatever is no such line is dropped, by both sides: what a guest wrote half when it was reset, what an earlier
connection left in a queue, and malicious input. No reader ever has to wait for the rest of a line that does not come.
"""

from __future__ import annotations

import json

LINE_BYTES_MAX = 1 << 17
"""Newline included. A longer line is dropped as a whole, and never held."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
else:
    Message = dict  # importing typing would cost as much as all of ours


def encode(message: Message) -> bytes:
    """``message`` as a line. JSON writes control characters as escapes, so there is one newline, the last byte."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Message | None:
    """The message on ``line``; None if there is none."""
    if line[:1] != b"{":  # looked at before: a mebibyte has room for half a million errors
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


class Lines:
    """Messages out of bytes that come in pieces of any size."""

    def __init__(self, limit: int = LINE_BYTES_MAX) -> None:
        self._limit = limit
        self._part = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes, in order."""
        messages = []
        *whole, rest = data.split(b"\n")
        for piece in whole:
            line = bytes(self._part + piece)
            self._part.clear()
            if not self._skipping and len(line) < self._limit and (message := decode(line)) is not None:
                messages.append(message)
            self._skipping = False
        self._part += rest
        if len(self._part) >= self._limit:
            self._part.clear()
            self._skipping = True
        return messages

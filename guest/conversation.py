"""One request to a server on the node itself, without blocking: connect, send all, read the answer, close."""

from __future__ import annotations

import errno
import select
import time
from _socket import (
    AF_INET,
    AF_UNIX,
    socket,
)  # socket proper imports enumerations of all families there are, at every boot
from collections.abc import Callable

from guest.loop import Loop

ANSWER_BYTES_MAX = 1 << 20
DEADLINE_S = 30.0
"""For an answer; after that the request is repeated. An emulated server may be slow."""
PIECE_BYTES = 1 << 16


Answered = Callable[[bytes | None], None]


class Question:
    """A request: its address (a unix socket's path, or a loopback port), its text, and a test for a whole answer.

    An answer also ends when the connection is closed. A ``greeting`` is sent first, and the words once it was answered.
    """

    def __init__(
        self, address: str | int, words: bytes, is_whole: Callable[[bytes], bool], greeting: bytes = b""
    ) -> None:
        self.address, self.words, self.is_whole, self.greeting = address, words, is_whole, greeting


class Conversation:
    """A request in progress; ``answered`` receives the answer, or None if there is none."""

    def __init__(self, question: Question, loop: Loop, answered: Answered) -> None:
        self._question, self._loop, self._answered = question, loop, answered
        self._unsaid = question.greeting or question.words
        self._is_greeting = bool(question.greeting)
        self._heard = bytearray()
        self._ends_at = time.monotonic() + DEADLINE_S
        self._line: socket | None = None

    def begin(self) -> None:
        """Connect; call it once."""
        address = self._question.address
        target = address if isinstance(address, str) else ("127.0.0.1", address)
        self._line = socket(AF_UNIX if isinstance(address, str) else AF_INET)
        self._line.setblocking(False)
        if self._line.connect_ex(target) in (0, errno.EINPROGRESS):
            self._loop.add(self._line.fileno(), select.EPOLLOUT, self._go)
        else:
            self._end(None)

    def tick(self, now: float) -> None:
        """Give up if it takes too long."""
        if now > self._ends_at:
            self._end(None)

    def close(self) -> None:
        """Close without an answer."""
        if self._line is not None:
            self._loop.remove(self._line.fileno())
            self._line.close()
            self._line = None

    def _go(self, _: int) -> None:
        line = self._line
        assert line is not None
        try:
            if self._unsaid:
                self._unsaid = self._unsaid[line.send(self._unsaid) :]
                if not self._unsaid:
                    self._loop.add(line.fileno(), select.EPOLLIN, self._go)
                return
            piece = line.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._end(None)
            return
        self._heard += piece
        heard = bytes(self._heard)
        if self._is_greeting and piece:
            self._is_greeting, self._unsaid = False, self._question.words
            self._loop.add(line.fileno(), select.EPOLLOUT, self._go)
            return
        if not piece or self._question.is_whole(heard):
            self._end(heard)
        elif len(heard) > ANSWER_BYTES_MAX:
            self._end(None)

    def _end(self, answer: bytes | None) -> None:
        if self._line is not None:
            self.close()
            self._answered(answer)

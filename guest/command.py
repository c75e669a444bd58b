"""One command: a process in a session of its own, with pipes or a terminal.

Its output is sent as far as the host has room for it."""

from __future__ import annotations

import os
import select
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from functools import partial

from guest.lines import Message
from guest.loop import Loop
from guest.process import Process, set_size, start

CHUNK_BYTES = 1 << 14
"""Of output in one message."""
WINDOW_BYTES = 1 << 18
"""Output that a command may be ahead of the host's ``more``."""
COST_BYTES = 128
"""Of the window for a message besides its output: a byte at a time fills the host's memory, too."""
INPUT_WINDOW_BYTES = 1 << 16
"""Input that the host may be ahead of our ``took``; twice as much ends the command."""
PIPE_BYTES = 1 << 16
"""The size of a pipe: after the process has ended, more than this is the output of others."""
SIGKILL = 9

Send = Callable[[Message], None]


class Command:
    """A running process.

    ``send`` takes messages for the host; the last of a command is its ``exit``, with which :attr:`is_over` is true."""

    def __init__(self, number: int, request: Message, loop: Loop, send: Send) -> None:
        """Start the command of ``request``, see docs/guest.md.

        Raises OSError, and KeyError, TypeError, ValueError for an invalid request."""
        self.number = number
        self._loop, self._send = loop, send
        self._window = WINDOW_BYTES
        self._code: int | None = None
        self.is_over = False
        self._process: Process = start(request)
        self._input = Input(self, self._process.input, loop, send, is_terminal=self._process.terminal)
        self._outputs = dict.fromkeys(self._process.outputs, PIPE_BYTES)
        loop.add(self._process.pidfd, select.EPOLLIN, self._ended)
        for fd in self._outputs:
            os.set_blocking(fd, False)
            self._listen(fd)

    def receive(self, message: Message) -> None:
        """Handle a message of the host to this command.

        Raises KeyError, TypeError, ValueError if that makes no sense."""
        match message["do"]:
            case "input":
                self._input.feed(a2b_base64(message["data"], strict_mode=True))
            case "end":
                self._input.end()
            case "more":
                self._window += int(message["bytes"])
                for fd in list(self._outputs):
                    self._listen(fd) if self._code is None else self._drain(fd)
            case "size":
                if self._process.terminal and self._outputs:
                    set_size(next(iter(self._outputs)), message["size"])
            case "signal":
                self.signal(int(message["signal"]))
            case _:
                raise ValueError("no such request")

    def signal(self, number: int) -> None:
        """Send a signal to the process and what it started, as far as that has stayed in its process group."""
        if self._code is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                return  # it is ending just now

    def drop(self) -> None:
        """Kill it and forget it.

        Neither the host nor we wait for its end: a process that hangs in the kernel dies when it can."""
        self.is_over = True
        self.signal(SIGKILL)
        self._input.close()
        for fd in list(self._outputs):
            self._close(fd)

    def _listen(self, fd: int) -> None:
        # epoll always reports an end: without room for the rest, the descriptor must not be registered at all.
        if self._window > 0:
            self._loop.add(fd, select.EPOLLIN, partial(self._readable, fd))
        else:
            self._loop.remove(fd)

    def _readable(self, fd: int, _: int) -> None:
        if self._window > 0:
            self._read(fd, CHUNK_BYTES)
        else:
            self._listen(fd)  # the other output has just used it up

    def _read(self, fd: int, size: int) -> int:
        """Pass on what ``fd`` has, up to ``size`` bytes.

        Returns how many that were, 0 at the end or if there is nothing now."""
        assert self._window > 0
        try:
            data = os.read(fd, min(size, self._window))
        except BlockingIOError:
            return 0
        except OSError:  # EIO: no process has the other end of the terminal open any more
            data = b""
        if not data:
            self._close(fd)
            self._finish()
            return 0
        self._window -= len(data) + COST_BYTES
        self._send({"id": self.number, self._process.outputs[fd]: b2a_base64(data, newline=False).decode()})
        if self._code is None:
            self._listen(fd)
        return len(data)

    def _drain(self, fd: int) -> None:
        """Pass on what the ended process has left in ``fd``, as far as there is room.

        Then it is closed, even if other processes write to it."""
        self._loop.remove(fd)
        while fd in self._outputs and self._window > 0:
            count = self._read(fd, min(CHUNK_BYTES, self._outputs[fd]))
            if fd in self._outputs:
                self._outputs[fd] -= count
                if count == 0 or self._outputs[fd] <= 0:
                    self._close(fd)
                    self._finish()

    def _ended(self, _: int) -> None:
        _, status = os.waitpid(self._process.pid, 0)
        self._loop.remove(self._process.pidfd)
        os.close(self._process.pidfd)
        code = os.waitstatus_to_exitcode(status)
        self._code = code if code >= 0 else 128 - code
        self._input.close()
        for fd in list(self._outputs):
            self._drain(fd)
        self._finish()

    def _close(self, fd: int) -> None:
        self._loop.remove(fd)
        os.close(fd)
        del self._outputs[fd]

    def _finish(self) -> None:
        if self._code is not None and not self._outputs and not self.is_over:
            self.is_over = True
            self._send({"id": self.number, "exit": self._code})


class Input:
    """The writing end of a command's standard input; without one (``fd`` None) all input is dropped."""

    def __init__(self, command: Command, fd: int | None, loop: Loop, send: Send, *, is_terminal: bool) -> None:
        self._number, self._fd, self._is_terminal = command.number, fd, is_terminal
        self._loop, self._send = loop, send
        self._waiting = bytearray()
        self._ends = False
        if fd is not None:
            os.set_blocking(fd, False)

    def feed(self, data: bytes) -> None:
        """Write ``data`` as soon as the command accepts it. Raises ValueError if the host exceeds the window."""
        if len(self._waiting) + len(data) > 2 * INPUT_WINDOW_BYTES:
            raise ValueError("more input than there is room for")
        self._waiting += data
        self._write()

    def end(self) -> None:
        """End the input; on a terminal that is Ctrl-D."""
        if self._is_terminal:
            self._waiting += b"\x04"
        self._ends = True
        self._write()

    def close(self) -> None:
        """Close it: the command has ended, or does not read any more."""
        if self._fd is not None:
            self._loop.remove(self._fd)
            os.close(self._fd)
            self._fd = None

    def _write(self, _: int = 0) -> None:
        if self._fd is not None and self._waiting:
            try:
                count = os.write(self._fd, self._waiting)
            except BlockingIOError:
                count = 0
            except OSError:  # EPIPE, EIO
                self.close()
            else:
                self._took(count)
        if self._fd is None:
            self._took(len(self._waiting))
        elif self._waiting:
            self._loop.add(self._fd, select.EPOLLOUT, self._write)
        else:
            self._loop.remove(self._fd)
            if self._ends and not self._is_terminal:
                self.close()

    def _took(self, count: int) -> None:
        del self._waiting[:count]
        if count:
            self._send({"id": self._number, "took": count})

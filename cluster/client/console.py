"""A person, or a script, at a node's root shell: the terminal here becomes the terminal there."""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import struct
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from cluster.client.root_shell import Line, data, feed
from cluster.model.protocol import Resize, RootShell, Terminal
from cluster.model.run import require_short

LEAVE = b"\x1d"
"""Ctrl-], as in telnet and 'virsh console'."""
TYPED_BYTES = 4096


class Output(Protocol):
    """Where a command's output goes."""

    def write(self, data: bytes, /) -> object:
        """Take it."""

    def flush(self) -> None:
        """Pass it on."""


def run(control: Path, node: int, command: str | None, output: Output, errors: Output, source: IO[bytes] | None) -> int:
    """Run a shell command, or a shell, as root; returns its exit code.

    Output is passed on as it comes; ``source`` is the input.

    Raises :class:`terminal.Failure` if there is no root shell; waits for one that is still to come.
    """
    require_short(command or "")
    request = RootShell(node, command, input=source is not None)
    with Line(control, request) as line:
        if source is not None:
            _feed_aside(line, source)
        for message in line.messages():
            for name, stream in (("out", output), ("err", errors)):
                if name in message:
                    stream.write(data(message, name))
                    stream.flush()
            if "exit" in message:
                return int(message["exit"])
    return 255


def attach(control: Path, node: int, command: str | None) -> int:
    """Give this process' terminal to a shell (or ``command``) on the node; returns its exit code.

    It ends when that ends, or when :data:`LEAVE` is typed.
    """
    fd = sys.stdin.fileno()
    require_short(command or "")
    here = Terminal(size(fd), os.environ.get("TERM") or "dumb")
    request = RootShell(node, command, input=True, tty=here)
    with Line(control, request) as line, _raw(fd), _resized() as resizes, selectors.DefaultSelector() as waiting:
        waiting.register(fd, selectors.EVENT_READ)
        waiting.register(line.socket, selectors.EVENT_READ)
        waiting.register(resizes, selectors.EVENT_READ)
        while True:
            waiting.select()
            # A signal's handler runs when that returns: input typed after a resize does not overtake the resize.
            ready = [key.fileobj for key, _ in waiting.select(0)]
            if resizes in ready:
                os.read(resizes, TYPED_BYTES)
                line.send(Resize(size(fd)))
            if fd in ready:
                typed = os.read(fd, TYPED_BYTES)
                before, leaves, _ = typed.partition(LEAVE)
                if before:
                    line.type(before)
                if leaves or not typed:
                    return 0
            if line.socket in ready:
                for message in line.receive():
                    _write_all(sys.stdout.fileno(), data(message, "out"))
                    if "exit" in message:
                        return int(message["exit"])


def size(fd: int) -> tuple[int, int]:
    """Rows and columns of a terminal; 24 and 80 if it does not report them."""
    rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
    return rows or 24, columns or 80


def _feed_aside(line: Line, source: IO[bytes]) -> None:
    import threading

    threading.Thread(target=feed, args=(line, source), daemon=True).start()


def _write_all(fd: int, text: bytes) -> None:
    while text:
        text = text[os.write(fd, text) :]


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def _resized() -> Iterator[int]:
    """A descriptor that can be read whenever the terminal's size has changed."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def changed(*_: object) -> None:
        os.write(writer, b"\0")

    before = signal.signal(signal.SIGWINCH, changed)
    try:
        yield reader
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(reader)
        os.close(writer)

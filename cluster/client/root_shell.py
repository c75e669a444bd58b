"""Requests for a node's root shell, from any process.

They go through the supervisor, which holds the one connection to the node's port.

A :class:`~cluster.model.protocol.Conversation` is one line on the supervisor's socket, after which lines go both ways
(:mod:`cluster.daemon.shell_session` is the other side)::

    -> RootShell    -> Input ..., EndOfInput, Resize, Signal
                    <- {"out": BASE64}, {"err": BASE64} ..., {"exit": 0}
    -> Watch        <- {"boot": UUID, "uptime": 6.2}, {"held": 0} ..., {"failed": [...]}, {"lost": WHY}, {"exit": 0}

The supervisor passes on the messages of a guest, which may be hostile: readers check each value. A failure ends the
conversation.
"""

from __future__ import annotations

import binascii
import socket
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from cluster.model import encoding
from cluster.model.protocol import Conversation, EndOfInput, Input, RootShell, Turn
from cluster.model.run import RunResult, require_short
from guest.lines import Lines, Message
from terminal import Failure

CHUNK_BYTES = 1 << 15
PIECE_BYTES = 1 << 16
OUTPUT_BYTES_MAX = 1 << 28
"""Of a command that is held whole; ten times the journal of a node that was busy for a day."""
GRACE_S = 10.0
"""The supervisor ends what takes too long; a supervisor that does not is not waited for."""


class Line:
    """One request, and the lines that follow it."""

    def __init__(self, control: Path, request: Conversation, timeout: float | None = None) -> None:
        """``timeout`` is for each line that is waited for.

        Raises :class:`Failure` if the supervisor cannot be reached.
        """
        self._control = control
        self._sending = threading.Lock()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        try:
            self.socket.connect(str(control))
            self.socket.sendall(encoding.encode(request))
        except OSError as error:
            self.socket.close()
            raise self._silent() from error
        self._lines = Lines()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, which ends the requested command or watch."""
        # Another thread may be reading, and must be woken first.
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def send(self, turn: Turn) -> None:
        """Send a message; from any thread. Raises OSError if the supervisor has hung up."""
        with self._sending:
            self.socket.sendall(encoding.encode_turn(turn))

    def type(self, data: bytes) -> None:
        """Give the command input. Raises OSError."""
        self.send(Input(b64encode(data).decode()))

    def receive(self) -> list[Message]:
        """Wait for input, at least a part of a line, and return it.

        Raises :class:`Failure`, also if that is what was received.
        """
        try:
            piece = self.socket.recv(PIECE_BYTES)
        except OSError as error:
            raise self._silent() from error
        if not piece:
            raise self._silent()
        messages = self._lines.feed(piece)
        for message in messages:
            if (failure := encoding.failure_of(message, str(self._control))) is not None:
                raise failure
        return messages

    def messages(self) -> Iterator[Message]:
        """The supervisor's messages, ``exit`` last. Raises :class:`Failure`."""
        while True:
            for message in self.receive():
                yield message
                if "exit" in message:
                    return

    def _silent(self) -> Failure:
        return Failure("the cluster's supervisor went away", where=str(self._control))


def run(control: Path, node: int, command: str, timeout: float, stdin: IO[bytes] | None = None) -> RunResult:
    """Run a shell command as root on ``node``, fed with ``stdin``, and return its outcome.

    Raises :class:`Failure` if it takes longer than ``timeout`` seconds (with its last output), if its output is longer
    than :data:`OUTPUT_BYTES_MAX`, or if the node has no root shell.
    """
    require_short(command)
    request = RootShell(node, command, input=stdin is not None, timeout=timeout)
    out, err, code = bytearray(), bytearray(), 255
    with Line(control, request, timeout + GRACE_S) as line:
        if stdin is not None:
            threading.Thread(target=feed, args=(line, stdin), daemon=True).start()
        for message in line.messages():
            out += data(message, "out")
            err += data(message, "err")
            if len(out) + len(err) > OUTPUT_BYTES_MAX:
                hint = f"let it write to a file there, or here: cluster console node-{node} COMMAND > FILE"
                raise Failure(
                    f"{command!r} says more than {OUTPUT_BYTES_MAX >> 20} MiB", where=f"node-{node}", hint=hint
                )
            code = message.get("exit", code)
    return RunResult(code, out.decode(errors="replace"), err.decode(errors="replace"))


def feed(line: Line, source: IO[bytes]) -> None:
    """Give all of ``source`` to the command, at the speed at which it takes that, and then the end of it."""
    try:
        while chunk := source.read(CHUNK_BYTES):
            line.type(chunk)
        line.send(EndOfInput())
    except OSError:
        return  # the command has ended without reading all


def data(message: Message, name: str) -> bytes:
    """The bytes of ``message`` called ``name`` ("out", "err").

    Empty if there are none, or if the guest sent invalid base64.
    """
    try:
        return b64decode(message.get(name, ""))
    except (binascii.Error, TypeError):
        return b""

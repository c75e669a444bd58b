"""Requests to a cluster's supervisor over its unix socket.

One line there, one line back (:mod:`cluster.model.protocol`).
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TypeVar

from cluster.model import encoding
from cluster.model.protocol import DEADLINE_S, LINE_BYTES_MAX, Request
from terminal import Failure

T = TypeVar("T")


def ask(path: Path, request: Request[T], /, *, deadline_s: float = DEADLINE_S) -> T:
    """Send ``request`` to the supervisor at the socket ``path`` and return its reply.

    Raises :class:`Failure`, with the supervisor's own message if it refuses.
    """
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(deadline_s)
            line.connect(str(path))
            line.sendall(encoding.encode(request))
            with line.makefile("rb") as replies:
                reply = replies.readline(LINE_BYTES_MAX)
    except OSError as error:
        name = type(request).__name__
        raise Failure(f"the cluster's supervisor does not answer to {name}", where=str(path)) from error
    return encoding.decode_reply(request, reply, str(path))

"""Events: lines of the journal with fields and an id by which they are found (``journalctl MESSAGE_ID=...``).

The protocol is systemd's (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram, ``NAME=value`` lines.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Final

from terminal import printable

SOCKET: Final = "/run/systemd/journal/socket"
WARNING, NOTICE = 4, 5


class Event(StrEnum):
    """Events about the room on a disk; the values are the message ids."""

    FILLING = "2cf6383d8bac4121bc53f68906845d6c"
    REMOVED = "b49d646dcc2b49d2b86926a5b10effd6"
    STUCK = "1e836b0dcf594e04834635fbb41bd3c7"
    ROOM_AGAIN = "759a40b51705428bab14485cc4590295"


def datagram(event: Event, message: str, fields: Mapping[str, str], priority: int) -> bytes:
    """``message`` as one line.

    Control characters become blanks, in fields, too: they come from names that any user may choose."""
    lines = {
        "MESSAGE": message,
        "MESSAGE_ID": event.value,
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "flotilla-room",
        **fields,
    }
    text = "".join(f"{name}={printable(value, instead=' ')}\n" for name, value in lines.items())
    return text.encode("utf-8", "replace")


def report(event: Event, message: str, fields: Mapping[str, str] | None = None, *, path: str = SOCKET) -> None:
    """Write to the journal, or to stderr where there is none."""
    data = datagram(event, message, fields or {}, NOTICE if event in (Event.REMOVED, Event.ROOM_AGAIN) else WARNING)
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(data, path)
        return
    print(printable(message, instead=" "), file=sys.stderr)

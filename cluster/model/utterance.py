"""A guest's messages about a command or a watch, reduced to what docs/guest.md defines.

Pure. A guest is not trusted, so the rest is not kept.

Readers of the messages of :class:`cluster.machines.shell.Session` find these fields, of these types, and no others.
"""

from __future__ import annotations

from collections.abc import Callable

import terminal
from guest.lines import Message
from guest.watch import UNITS_MAX

TEXT_CHARS_MAX = 500
"""Of a reason, or of a unit's name: systemd allows 255."""
SECONDS_MAX = 1e12
"""Some thirty thousand years."""


def kept(message: Message) -> Message:
    """The fields of ``message`` that are known and of the right kind; there may be none."""
    return {
        name: value for name, read in _FIELDS.items() if name in message and (value := read(message[name])) is not None
    }


def number(value: object) -> float | None:
    """Seconds, or None: JSON as Python reads it has numbers without end, and some that are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < SECONDS_MAX else None


def printable(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """``text`` as it can be shown to a person: short, on one line, and no orders to a terminal."""
    return terminal.printable(text[:chars_max])


def _base64(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 1 << 31 else None


def _code(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 256 else None


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) else None


def _units(value: object) -> list[str] | None:
    if not isinstance(value, list):
        return None
    return [printable(each) for each in value[:UNITS_MAX] if isinstance(each, str)]


_FIELDS: dict[str, Callable[[object], object]] = {
    "out": _base64,
    "err": _base64,
    "exit": _code,
    "error": _text,
    "held": _count,
    "failed": _units,
    "took": _count,
    "before": number,
    "after": number,
}

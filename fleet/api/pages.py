"""Lists in pages: the whole list is read once, for the first page, and the others come from what was read then.

The original read everything for each page of a hundred rows: the cost was the square of their number, and rows were
missed or repeated when the list changed in between. Here a page token also names the reading that its list comes from.
A list whose reading is no longer kept (the client was slow, or now uses another fleetd) is read again for the current
page and those after it.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from fleet.api.shapes import PAGE_ROWS, BadRequest

KEPT_MAX = 4
"""Readings that are kept at the same time. Each may keep a view's values alive after they have changed."""

KEPT_S = 60.0
"""Seconds that a reading is kept after the last request for one of its pages."""

Row = TypeVar("Row")
_TOKEN = struct.Struct("<HHQ")


def token_of(number: int, reading: int) -> str:
    """The token of page ``number`` (from 0): URL-safe base64 of the rows of a page, the page, and the reading."""
    return base64.urlsafe_b64encode(_TOKEN.pack(PAGE_ROWS, number, reading)).decode()


def _parsed(token: str) -> tuple[int, int]:
    """Page and reading of a token; raises :class:`BadRequest` for one that is not ours."""
    try:
        rows, number, reading = _TOKEN.unpack(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, struct.error, ValueError):
        raise BadRequest("invalid value for nextPageToken") from None
    if rows != PAGE_ROWS:
        raise BadRequest(f"nextPageToken is for pages of {rows} rows, ours have {PAGE_ROWS}")
    return number, reading


class Pages:
    """The readings whose pages clients are reading. Rows are values that never change. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[tuple[str, int], tuple[float, Sequence[Any]]] = {}
        self._lock = threading.Lock()

    def page(self, name: str, token: str, read: Callable[[], Sequence[Row]]) -> tuple[Sequence[Row], str]:
        """Rows of the page ``token`` ("" for the first) of the list ``name``, and the next token ("" for none).

        ``read`` reads the list. Raises :class:`BadRequest` for a token that is not ours.
        """
        number, reading = _parsed(token) if token else (0, secrets.randbits(64))
        rows = self._taken(name, reading) if token else None
        if rows is None:
            rows = read()
        begin = number * PAGE_ROWS
        if begin + PAGE_ROWS >= len(rows):
            return rows[begin:], ""
        self._keep(name, reading, rows)
        return rows[begin : begin + PAGE_ROWS], token_of(number + 1, reading)

    def _taken(self, name: str, reading: int) -> Sequence[Any] | None:
        """Take a reading out; the caller puts it back if there are more pages."""
        with self._lock:
            self._forget_old()
            found = self._kept.pop((name, reading), None)
            return None if found is None else found[1]

    def _keep(self, name: str, reading: int, rows: Sequence[Any]) -> None:
        with self._lock:
            self._kept[name, reading] = (self._clock(), rows)
            self._forget_old()
            while len(self._kept) > KEPT_MAX:
                del self._kept[next(iter(self._kept))]  # the one with the oldest request

    def _forget_old(self) -> None:
        oldest = self._clock() - KEPT_S
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] >= oldest}

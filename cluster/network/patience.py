"""How long a node may take nothing before its link is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE_S: Final = 0.25
"""Well above a scheduling hiccup of a busy host, well below etcd's shortest election timeout (1 s)."""
LOOKS: Final = 5
"""In that time. One that comes late by more than the time between two shows that this process itself had no time."""


class Patience:
    """Looks, while it is on, at how much was taken; when nothing was at :data:`LOOKS` looks in a row, ``give_up``."""

    def __init__(self, taken: Callable[[], int], give_up: Callable[[], None]) -> None:
        """``taken`` returns a number of bytes that only grows."""
        self._taken, self._give_up = taken, give_up
        self._next: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """From now on."""
        self._await(LOOKS)

    def end(self) -> None:
        """It is taken again, or there is no need to know."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _await(self, looks: int) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + PATIENCE_S / LOOKS
        self._next = loop.call_at(due, self._look, looks - 1, self._taken(), due)

    def _look(self, left: int, taken_before: int, due: float) -> None:
        """Begin again for a slow one, and when this process had no time: then it has passed nothing on."""
        is_late = asyncio.get_running_loop().time() > due + PATIENCE_S / LOOKS
        if self._taken() > taken_before or is_late:
            self.begin()
        elif left:
            self._await(left)
        else:
            self._give_up()

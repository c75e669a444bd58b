"""Nodes that stand still because this computer has no room for what they write: told apart from those that run, and let go on once there is room.

QEMU stops such a machine and keeps the request; told to go on, it tries that request again, and stops again if there still is no room. So who
stands still is told to go on from time to time, and nobody has to know what fills which disk, here or on another computer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from terminal import Failure

if TYPE_CHECKING:
    from cluster.supervisor import Guest

LOOK_S = 5.0
"""Between two looks at all machines: it costs each a question, and a node that waits for room has waited for a person."""
WHY = "its computer has no room for what it writes"
"""Of a node that stands still."""
HINT = "cluster doctor says how much is free; with some more, the node goes on by itself"
"""What a person can do about it."""


class Record(Protocol):
    """:meth:`cluster.timeline.Timeline.record`."""

    def __call__(self, kind: str, what: str, nodes: Iterable[int] = ()) -> None:
        """Add a line."""


class Stalls:
    """Looks after the machines of one cluster while :meth:`watch` runs."""

    def __init__(self, on_purpose: Callable[[int], bool], record: Record) -> None:
        """``on_purpose`` says of a node's number whether it stands still as a fault, which is healed and does not end by itself."""
        self._on_purpose, self._record = on_purpose, record
        self._told: set[int] = set()

    async def watch(self, guests: Callable[[], Iterable[Guest]]) -> None:
        """Look at all that are there, without end."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.gather(*map(self.look, guests()))

    async def look(self, guest: Guest) -> None:
        """See whether it stands still, tell if that has changed, and have it try again."""
        if (vm := guest.vm) is None:
            self._told.discard(guest.number)
            return
        with suppress(Failure):  # it does not answer just now, or ends
            stalled = await vm.is_stalled()
            if guest.vm is not vm or guest.paused:
                return
            guest.stalled = stalled
            if stalled and not self._on_purpose(guest.number):
                await vm.resume()
        if guest.stalled != (guest.number in self._told):
            what = f"stands still: {WHY}" if guest.stalled else "stands still no more"
            self._record("power", f"node-{guest.number} {what}", [guest.number])
            self._told ^= {guest.number}

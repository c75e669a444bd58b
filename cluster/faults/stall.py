"""Nodes that stand still because this computer has no room for what they write: told apart from those that run, and let go on once there is room.

QEMU stops such a machine and keeps the request; told to go on, it tries that request again, and stops again if there still is no room. So who
stands still is told to go on from time to time, and nobody has to know what fills which disk, here or on another computer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from terminal import Failure

if TYPE_CHECKING:  # commands that only want the words load nothing of the supervisor's
    from cluster.faults.book import Record
    from cluster.machines.running import RunningNode

LOOK_S = 5.0
"""Between two looks at all machines: it costs each a question, and a node that waits for room has waited for a person."""
WHY = "its computer has no room for what it writes"
"""Of a node that stands still."""
HINT = "cluster doctor says how much is free; with some more, the node goes on by itself"
"""What a person can do about it."""


async def watch(guests: Callable[[], Iterable[RunningNode]], on_purpose: Callable[[int], bool], record: Record) -> None:
    """Look at all that are there, without end; see :func:`look`."""
    while True:
        await asyncio.sleep(LOOK_S)
        await asyncio.gather(*(look(guest, on_purpose, record) for guest in guests()))


async def look(guest: RunningNode, on_purpose: Callable[[int], bool], record: Record) -> None:
    """See whether ``guest`` stands still, record it if that has changed, and have it try again.

    ``on_purpose`` says of a node's number whether it stands still as a fault, which is healed and does not end by itself.
    """
    if (vm := guest.vm) is None:
        return
    with suppress(Failure):  # it does not answer just now, or ends
        stalled = await vm.is_stalled()
        if guest.vm is not vm or guest.paused:
            return
        if stalled != guest.stalled:
            guest.stalled = stalled
            what = f"stands still: {WHY}" if stalled else "stands still no more"
            record("power", f"node-{guest.number} {what}", [guest.number], None)
        if stalled and not on_purpose(guest.number):
            await vm.resume()

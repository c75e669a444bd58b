"""Nodes that are stalled because this computer has no room for their writes.

They are detected, and go on once there is room.

QEMU stops such a machine and keeps the request. When resumed, it tries that request again, and stops again if there
still is no room. So a node that is stalled is resumed from time to time, and no part of this program has to know what
fills which disk, here or on another computer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from terminal import Failure

if TYPE_CHECKING:  # commands that only need the texts load nothing of the supervisor's
    from cluster.faults.book import Record
    from cluster.machines.driver import Vm
    from cluster.machines.running import RunningNode

LOOK_S = 5.0
"""Between two attempts to resume a stalled machine: a node that waits for room has waited for a person."""
PACE_S = 0.2
"""Between two looks at least: a QEMU that its guest has taken over may report changes as fast as it likes."""
WHY = "its computer has no room for what it writes"
"""Of a stalled node."""
HINT = "cluster doctor shows how much is free; with some more, the node goes on by itself"
"""What a person can do about it."""


async def watch(guest: RunningNode, vm: Vm, on_purpose: Callable[[int], bool], record: Record) -> None:
    """Check the machine ``vm`` of ``guest`` whenever it has changed, and while it is stalled, without end.

    See :func:`look`.
    """
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S if guest.stalled else None):
                await vm.changed.wait()
        vm.changed.clear()
        if await look(guest, vm, on_purpose, record):
            await asyncio.sleep(PACE_S)
        else:
            await asyncio.sleep(LOOK_S)
            vm.changed.set()


async def look(guest: RunningNode, vm: Vm, on_purpose: Callable[[int], bool], record: Record) -> bool:
    """See whether ``guest`` is stalled, record it if that has changed, and have it try again.

    ``on_purpose`` returns for a node's number whether it is stalled as a fault, which ends only when it is healed.
    Returns whether the machine reports its next change by itself. If not, it was resumed, perhaps in vain, or does not
    answer.
    """
    try:
        stalled = await vm.is_stalled()
        if guest.vm is not vm or guest.paused:
            return True
        if stalled != guest.stalled:
            guest.stalled = stalled
            what = f"is stalled: {WHY}" if stalled else "is no longer stalled"
            record("power", f"node-{guest.number} {what}", [guest.number], None)
        if stalled and not on_purpose(guest.number):
            await vm.resume()
            return False
    except Failure:
        return False
    return True

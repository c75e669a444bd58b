"""Faults of single nodes, their disks and clocks, as the supervisor carries them out and remembers them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from cluster.faults import corruption
from cluster.faults.book import FaultBook, Heal
from cluster.faults.disk import DiskFault, Errors
from cluster.faults.diskchain import DiskChain
from cluster.machines.running import RunningNode
from cluster.model.layout import Layout
from cluster.model.protocol import Begun
from terminal import Failure

SHELL_DEADLINE_S = 25.0
"""For what is done by a node's root shell, with hardware."""
FILLING = "/var/.flotilla-fault"
"""The file that fills a disk; the fault's number is put behind."""
FILL = """\
set -e
: >{file}
# As large as it gets: a file system keeps some room to itself, and does not say how much, so steps become smaller until none fits.
at=0 step=$((1 << 40))
while [ $step -ge 65536 ]; do
    if fallocate -o $at -l $step {file} 2>/dev/null; then at=$((at + step)); else step=$((step / 2)); fi
done
dd if=/dev/zero of={file} bs=4096 oflag=append conv=notrunc status=none 2>/dev/null || :
size=$(stat -c %s {file})
truncate -s $(($size > {leave} ? $size - {leave} : 0)) {file}
sync -f /var
"""
"""Fills the state file system but for ``leave`` bytes; for bash, as root."""


class NodeFaults:
    """What is wrong on purpose with the nodes of one cluster.

    Each method begins a fault of one node, and raises :class:`Failure`. Code that starts a machine calls
    :meth:`started`.
    """

    def __init__(self, book: FaultBook, layout: Layout, factor: float) -> None:
        """Faults are numbered and healed by ``book``; nodes are slower than hardware by ``factor``."""
        self._book = book
        self._layout = layout
        self._deadline_s = SHELL_DEADLINE_S * factor
        self._disks: dict[int, dict[int, DiskFault]] = {}
        self._chains: dict[int, DiskChain] = {}
        self._skews: dict[int, dict[int, float]] = {}
        self._strobes: dict[int, asyncio.Task[None]] = {}

    async def started(self, guest: RunningNode) -> None:
        """Its machine is a new one: its disk has the same faults as before, its clock is right.

        Raises :class:`Failure`.
        """
        for number in self._skews.pop(guest.number, {}):
            if (strobe := self._strobes.pop(number, None)) is not None:
                strobe.cancel()
            self._book.end(number)
        if self._disks.get(guest.number):
            await self._impose(guest)

    def has_no_room(self, number: int) -> bool:
        """Whether node ``number`` finds no room for what it writes, and is to find none until that is healed."""
        faults = self._disks.get(number, {}).values()
        return any(isinstance(fault, Errors) and fault.kind == "enospc" for fault in faults)

    def forget(self, number: int) -> None:
        """Node ``number`` is no more: what was wrong with it alone is over."""
        self._disks.pop(number, None)
        self._chains.pop(number, None)
        for fault in self._skews.pop(number, {}):
            if (strobe := self._strobes.pop(fault, None)) is not None:
                strobe.cancel()
        self._book.forget(number)

    async def filter(self, guest: RunningNode, fault: DiskFault) -> Begun:
        """The state disk suffers ``fault``."""
        number, disk = self._book.number(), self._disks.setdefault(guest.number, {})

        async def heal() -> None:
            del disk[number]
            try:
                await self._impose(guest)
            except Failure:
                disk[number] = fault
                raise

        disk[number] = fault
        try:
            await self._impose(guest)
        except Failure:
            del disk[number]
            raise
        return self._begin(number, guest, f"disk of node-{guest.number}: {fault}", heal)

    async def _impose(self, guest: RunningNode) -> None:
        async with guest.changing_disk:
            if guest.vm is not None:  # else it gets them when it starts
                found = self._chains.get(guest.number)
                if found is None or found.vm is not guest.vm:
                    found = self._chains[guest.number] = DiskChain(guest.vm)
                await found.impose(list(self._disks[guest.number].values()))

    async def corrupt(self, guest: RunningNode, path: str | None, offset: int, count: int) -> Begun:
        """Invert ``count`` bytes from ``offset`` of the file that the node knows as ``path``, or of its whole disk.

        The node is off.
        """
        disk = self._layout.node(guest.number) / "state.img"
        async with guest.starting:
            if guest.vm is not None:
                raise Failure(
                    f"node-{guest.number} runs, and would not notice: it has read its disk",
                    hint=f"cluster fault kill node-{guest.number}, or cluster stop node-{guest.number}, first",
                )
            try:
                if path is None:
                    stretches = [(offset, count)]
                else:
                    stretches = await asyncio.to_thread(corruption.find, disk, path, offset, count)
                left = await asyncio.to_thread(corruption.invert, disk, stretches)
            except OSError as error:
                raise Failure("the state disk cannot be changed", where=str(disk)) from error

        async def heal() -> None:
            try:
                await asyncio.to_thread(corruption.restore, disk, stretches, left)
            except OSError as error:
                raise Failure("the state disk cannot be changed back", where=str(disk)) from error

        size = f"{count} byte{'s' if count > 1 else ''}"
        what = f"disk of node-{guest.number}: {size} of {path or 'it'} corrupted at {offset}"
        return self._begin(self._book.number(), guest, what, heal)

    async def fill(self, guest: RunningNode, leave: int) -> Begun:
        """The state file system is full but for ``leave`` bytes."""
        _require_on(guest)
        number = self._book.number()
        file = f"{FILLING}-{number}"
        try:
            await self._as_root(guest, FILL.format(file=file, leave=max(leave, 0)))
        except Failure:
            with suppress(Failure):
                await self._as_root(guest, f"rm -f {file}")
            raise

        async def heal() -> None:
            if guest.vm is None:
                hint = f"cluster start node-{guest.number}, then heal it again"
                raise Failure(f"node-{guest.number} is off: its disk cannot be emptied", hint=hint)
            await self._as_root(guest, f"rm -f {file} && sync -f /var")

        rest = f"full but for {leave} bytes" if leave else "full"
        return self._begin(number, guest, f"disk of node-{guest.number}: {rest}", heal)

    async def _as_root(self, guest: RunningNode, command: str) -> None:
        result = await guest.shell.run(command, timeout=self._deadline_s)
        if result.rc != 0:
            raise Failure(
                f"the command on the node failed: {result.err.strip() or result.rc}", where=f"node-{guest.number}"
            )

    async def step(self, guest: RunningNode, seconds: float) -> Begun:
        """The clocks are wrong by ``seconds``."""
        _require_on(guest)
        number, skews = self._book.number(), self._skews.setdefault(guest.number, {})

        async def heal() -> None:
            skews.pop(number, None)
            await self._set_clock(guest)

        skews[number] = seconds
        try:
            await self._set_clock(guest)
        except Failure:
            del skews[number]
            raise
        return self._begin(number, guest, f"clock of node-{guest.number}: {seconds:+g} s", heal)

    async def strobe(self, guest: RunningNode, seconds: float, period_s: float, duration_s: float) -> Begun:
        """The clocks are wrong by ``seconds`` and right in turn, ``period_s`` each, for ``duration_s``."""
        _require_on(guest)
        number, skews = self._book.number(), self._skews.setdefault(guest.number, {})
        skews[number] = seconds
        try:
            await self._set_clock(guest)  # if that works, so will the rest
        except Failure:
            del skews[number]
            raise

        async def flicker() -> None:
            end = time.monotonic() + duration_s
            with suppress(Failure):  # the node went away, and with it its clock
                while time.monotonic() < end:
                    await asyncio.sleep(period_s)
                    skews[number] = seconds - skews[number]
                    await self._set_clock(guest)
            with suppress(Failure):  # then it stays in the book
                await self._book.heal(number)

        async def heal() -> None:
            if (task := self._strobes.pop(number, None)) is not None and task is not asyncio.current_task():
                task.cancel()
            skews.pop(number, None)
            await self._set_clock(guest)

        self._strobes[number] = asyncio.create_task(flicker())
        what = f"clock of node-{guest.number}: {seconds:+g} s and back every {period_s:g} s for {duration_s:g} s"
        return self._begin(number, guest, what, heal)

    async def _set_clock(self, guest: RunningNode) -> None:
        """Set its clock as it should be: this computer's time, but for the faults that hold.

        The clock of a node that is off is right when it starts.
        """
        if guest.vm is not None:
            skews = self._skews.get(guest.number, {})
            if skews:
                await self._timesync(guest, "stop")
            await guest.shell.clock_step(time.time() + sum(skews.values()), rtc=True, timeout=self._deadline_s)
            if not skews:
                await self._timesync(guest, "start")

    async def _timesync(self, guest: RunningNode, verb: str) -> None:
        """Stop or start the node's time client.

        The segment's time server would correct a clock that is wrong on purpose. Nothing happens if a node has no such
        unit.
        """
        await guest.shell.run(f"systemctl {verb} systemd-timesyncd.service", timeout=self._deadline_s)

    def _begin(self, number: int, guest: RunningNode, what: str, heal: Heal) -> Begun:
        self._book.begin(number, what, [guest.number], heal)
        return Begun(number, what)


def _require_on(guest: RunningNode) -> None:
    if guest.vm is None:
        hint = f"cluster start node-{guest.number}"
        raise Failure(f"node-{guest.number} is off: its clock cannot be set, and its disk cannot be filled", hint=hint)

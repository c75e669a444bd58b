"""Faults of single nodes, their disks and clocks, as the supervisor carries them out and remembers them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster import corruption
from cluster.disk import DiskFault, Errors, Slow
from cluster.diskchain import DiskChain
from cluster.faults import FaultBook
from cluster.layout import Layout
from terminal import Failure

if TYPE_CHECKING:
    from cluster.supervisor import Guest


class NodeFaults:
    """What is wrong on purpose with the nodes of one cluster. :meth:`do` answers requests; :meth:`started` is for whoever starts machines."""

    def __init__(self, book: FaultBook, layout: Layout) -> None:
        """Faults are numbered and healed by ``book``."""
        self._book = book
        self._layout = layout
        self._disks: dict[int, dict[int, DiskFault]] = {}
        self._chains: dict[int, DiskChain] = {}

    async def do(self, guest: Guest, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out ``{"do": "disk", "verb": VERB, ...}``; returns number and text of the fault. Raises :class:`Failure`."""
        match request:
            case {"do": "disk", "verb": "slow", "iops": int() | None as iops, "bytes_per_second": int() | None as rate}:
                return await self._filter(guest, Slow(iops, rate))
            case {"do": "disk", "verb": "errors", "write": bool(write), "read": bool(read), "kind": str(kind)}:
                return await self._filter(guest, Errors(write, read, kind))
            case {
                "do": "disk",
                "verb": "corrupt",
                "path": str() | None as path,
                "offset": int(offset),
                "bytes": int(count),
            }:
                return await self._corrupt(guest, path, offset, count)
            case _:
                raise Failure(f"a node knows no such fault: {dict(request)}")

    async def started(self, guest: Guest) -> None:
        """Its machine is a new one: have its disk suffer what it suffered before. Raises :class:`Failure`."""
        if self._disks.get(guest.number):
            await self._impose(guest)

    async def _filter(self, guest: Guest, fault: DiskFault) -> dict[str, Any]:
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

    async def _impose(self, guest: Guest) -> None:
        async with guest.changing_disk:
            if guest.vm is not None:  # else it is told when it starts
                found = self._chains.get(guest.number)
                if found is None or found.vm is not guest.vm:
                    found = self._chains[guest.number] = DiskChain(guest.vm)
                await found.impose(list(self._disks[guest.number].values()))

    async def _corrupt(self, guest: Guest, path: str | None, offset: int, count: int) -> dict[str, Any]:
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

    def _begin(self, number: int, guest: Guest, what: str, heal: Any) -> dict[str, Any]:
        self._book.begin(number, what, [guest.number], heal)
        return {"id": number, "what": what}

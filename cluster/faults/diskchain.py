"""Faults of a running node's disk as QEMU suffers them.

They are filters between the device and its image, put there by the monitor.

A fault is a block node of QEMU's that passes requests on (``docs/interop/qmp``: ``blockdev-add``), and the device is
made to use it (``qom-set`` of its ``drive``). Several faults are a chain. An undisturbed node has none, and so no cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cluster.faults.disk import KINDS, DiskFault, Errors, Slow
from cluster.machines.driver import Vm
from terminal import Failure

SERIAL = "state"
"""Of the disk that can have faults, as its device shows it to the node."""
WRITES = {"eio": ("write", "write-zeroes", "discard", "flush"), "enospc": ("write", "write-zeroes")}
"""Which requests can fail so: only those that need room can find none."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One block node: what to give to ``object-add`` before it, if anything, and to ``blockdev-add``."""

    name: str
    throttle: Mapping[str, object] | None
    node: Mapping[str, object]


def chain(faults: Sequence[DiskFault], base: str, prefix: str) -> list[Filter]:
    """The block nodes over the node ``base``, lowest first, that suffer ``faults``.

    Their names begin with ``prefix``.
    """
    filters: list[Filter] = []
    for number, fault in enumerate(faults):
        name, below = f"{prefix}-{number}", filters[-1].name if filters else base
        match fault:
            case Slow(iops, bytes_per_second):
                limits = {"iops-total": iops or 0, "bps-total": bytes_per_second or 0}  # 0 is QEMU's "without limit"
                throttle = {"qom-type": "throttle-group", "id": f"{name}-limits", "limits": limits}
                node: dict[str, object] = {"driver": "throttle", "throttle-group": throttle["id"], "file": below}
                filters.append(Filter(name, throttle, {"node-name": name, **node}))
            case Errors(write, read, kind):
                wanted = (*(WRITES[kind] if write else ()), *(("read",) if read else ()))
                rules = [{"event": "none", "iotype": iotype, "errno": KINDS[kind]} for iotype in wanted]
                node = {"driver": "blkdebug", "image": below, "inject-error": rules}
                filters.append(Filter(name, None, {"node-name": name, **node}))
    return filters


class DiskChain:
    """What is between the device and the image of one machine's state disk, from its start to its end."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self._device: str | None = None
        self._base = ""
        self._filters: list[Filter] = []
        self._changes = 0

    async def impose(self, faults: Sequence[DiskFault]) -> None:
        """Make the disk suffer ``faults`` and no others from now on.

        Raises :class:`Failure`; then the disk is as it was before.
        """
        if self._device is None:
            await self._find()
        self._changes += 1
        wanted, added = chain(faults, self._base, f"fault-{self._changes}"), list[Filter]()
        try:
            for each in wanted:
                if each.throttle is not None:
                    await self.vm.monitor("object-add", **each.throttle)
                await self.vm.monitor("blockdev-add", **each.node)
                added.append(each)
            top = wanted[-1].name if wanted else self._base
            # QEMU waits for requests that are under way, so none is lost between the old chain and the new one.
            await self.vm.monitor("qom-set", path=self._device, property="drive", value=top)
        except Failure:
            for each in reversed(added):
                with suppress(Failure):  # the first error is the one to report
                    await self._remove([each])
            raise
        before, self._filters = self._filters, wanted
        await self._remove(before)
        if await self.vm.is_stalled():
            await self.vm.resume()  # it tries again what had failed; if that still fails, it is stalled again

    async def _find(self) -> None:
        found = await self.vm.monitor("query-block")
        for entry in found if isinstance(found, list) else ():
            match entry:
                case {"qdev": str(device), "inserted": {"node-name": str(base)}} if (
                    await self.vm.monitor("qom-get", path=device, property="serial") == SERIAL
                ):
                    self._device, self._base = device, base
                    return
        raise Failure("the machine has no state disk", hint="it is the one with the serial number 'state'")

    async def _remove(self, filters: Sequence[Filter]) -> None:
        for each in reversed(filters):
            await self.vm.monitor("blockdev-del", **{"node-name": each.name})
            if each.throttle is not None:
                await self.vm.monitor("object-del", id=each.throttle["id"])

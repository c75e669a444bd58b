"""The faults that hold now, by number.

The supervisor keeps one book per cluster, for all that breaks things on purpose.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from cluster.model.protocol import FaultState
from terminal import Failure

Heal = Callable[[], Awaitable[None]]
Record = Callable[[str, str, Iterable[int], int | None], None]
"""Kind, what, nodes, number of the fault: see :meth:`cluster.model.timeline.Timeline.record`."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A fault that holds: its number, one line for people, the nodes it is about, and how it is undone."""

    id: int
    what: str
    nodes: tuple[int, ...]
    heal: Heal

    @property
    def state(self) -> FaultState:
        """Its representation in a reply."""
        return FaultState(self.id, self.what, self.nodes)


class FaultBook:
    """Numbers faults, in the order in which they were applied, and heals them one by one or all."""

    def __init__(self, record: Record) -> None:
        """``record`` is called for each fault that begins or ends."""
        self._record = record
        self._standing: dict[int, Standing] = {}
        self._last_id = 0

    def number(self) -> int:
        """A number that no fault had before."""
        self._last_id += 1
        return self._last_id

    def begin(self, number: int, what: str, nodes: Iterable[int], heal: Heal) -> int:
        """Record a fault that has just been applied; returns its ``number``."""
        fault = Standing(number, what, tuple(nodes), heal)
        self._standing[number] = fault
        self._record("fault", what, fault.nodes, number)
        return number

    async def heal(self, number: int | None = None) -> list[int]:
        """Heal fault ``number``, or all of them, newest first.

        Returns those that were healed, none if it was over before.

        Raises :class:`Failure` if there never was such a fault, or if one cannot be healed. That one stays in the book;
        the others are healed all the same.
        """
        if number is not None and not 1 <= number <= self._last_id:
            known = ", ".join(map(str, self._standing)) or "none"
            raise Failure(f"there is no fault {number} (there are: {known})", hint="cluster fault list")
        healed, trouble = [], None
        for fault in reversed([each for each in self._standing.values() if number in (None, each.id)]):
            try:
                await fault.heal()
            except Failure as failure:
                trouble = failure
            else:
                self.end(fault.id)
                healed.append(fault.id)
        if trouble is not None:
            raise trouble
        return healed

    def end(self, number: int) -> None:
        """Cross out a fault that is over, if it is in the book."""
        if (fault := self._standing.pop(number, None)) is not None:
            self._record("heal", fault.what, fault.nodes, number)

    def forget(self, node: int) -> None:
        """Cross out the faults of a node that is no more, and of no other."""
        for fault in [fault for fault in self._standing.values() if fault.nodes == (node,)]:
            self.end(fault.id)

    def faults(self) -> list[FaultState]:
        """The faults that hold now, oldest first."""
        return [fault.state for fault in self._standing.values()]

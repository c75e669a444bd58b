"""Units with all that is known about each: what the engine ordered, and what machines report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.model.entities import Desired, Placement, Unit, UnitState, current_state
from fleet.model.overview import Overview
from fleet.model.requirements import Requirements, RequirementsError
from unitfile.name import UnitName, UnitNameError


@dataclass(frozen=True, slots=True)
class Seen:
    """One unit with all that is known about it. ``machine`` is "" for one that is nowhere, or everywhere."""

    unit: Unit
    machine: str
    states: Sequence[UnitState]
    reason: str

    @property
    def is_global(self) -> bool:
        """Whether it runs on each machine that suits it."""
        return is_global(self.unit)

    @property
    def current(self) -> Desired:
        """Its progress."""
        return current_state(self.unit, self.machine or None, self.states)


class Source(Protocol):
    """Where to look for single units: a registry, which asks etcd, or a view."""

    def each(self, names: Sequence[str], /) -> dict[str, tuple[Unit, str]]:
        """See :meth:`Registry.each`."""

    def on_machines(self, units: Mapping[str, str], /) -> dict[str, tuple[list[Placement], list[UnitState]]]:
        """See :meth:`Registry.on_machines`."""


def look_at(source: Source, units: Mapping[str, str]) -> list[Seen]:
    """Those of these units that exist, without reading the whole cluster.

    ``units`` has the machine where each was last seen, or ""."""
    known = source.each(list(units))
    found = source.on_machines({name: units[name] for name in known}) if known else {}
    seen = []
    for name, (unit, reason) in known.items():
        orders, states = found[name]
        placed = ""
        for order in orders:
            if not order.everywhere:
                placed, reason = order.machine, order.reason or reason
        seen.append(Seen(unit, placed, states, reason))
    return seen


def all_seen(view: Overview) -> Iterator[Seen]:
    """All units by name, with all that is known about each."""
    orders: dict[str, Placement] = {}
    for (machine, name), order in sorted(view.placements.items()):
        if machine in view.machines and not order.everywhere:
            orders[name] = order
    states: dict[str, list[UnitState]] = {}
    for (machine, name), state in view.states.items():
        if machine in view.machines:
            states.setdefault(name, []).append(state)
    for name in sorted(view.units):
        placed = orders.get(name)
        reason = view.reasons.get(name, "")
        if placed is not None:
            reason = placed.reason or reason
        yield Seen(view.units[name], "" if placed is None else placed.machine, states.get(name, ()), reason)


def is_global(unit: Unit) -> bool:
    """Whether a unit runs on each machine that suits it."""
    if "\nGlobal" not in unit.text:
        return False  # as almost all are: a list has no time to read the other options of each
    try:
        return Requirements.parse(UnitName.parse(unit.name), unit.unitfile).global_
    except (UnitNameError, RequirementsError):
        return False  # stored by other means than this API; the engine says what is wrong with it

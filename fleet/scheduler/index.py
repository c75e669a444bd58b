"""What the scheduler knows of the cluster, indexed for its questions: who is where, and which machine fits which unit.

:class:`Index` holds the whole of the rules about fitting, once: placing, checking what is placed, and explaining all
ask here.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass

from fleet.model.entities import Desired, Machine, Placement, Unit
from fleet.model.requirements import SECTION, Requirements, RequirementsError, short_id_matches
from fleet.scheduler.reasons import Reject, Rejection
from unitfile.name import UnitName

_NO_REQUIREMENTS = Requirements()


@dataclass(frozen=True, slots=True)
class Spec:
    """What the scheduler needs to know of a unit.

    ``problem`` is why its ``[X-Fleet]`` cannot be followed ("" if it can)."""

    name: str
    desired: Desired
    text: str
    hash: str
    requirements: Requirements
    problem: str = ""

    @classmethod
    def of(cls, unit: Unit) -> Spec:
        """Read a unit."""
        name = UnitName.parse(unit.name)
        problem = ""
        requirements = _NO_REQUIREMENTS
        try:
            if f"[{SECTION}]" in unit.text:  # else there is nothing to read: parsing all units takes long
                requirements = Requirements.parse(name, unit.unitfile)
        except RequirementsError as error:
            problem = str(error)
        if not name.is_runnable:
            problem = problem or "a unit of this kind cannot run"
        return cls(unit.name, unit.desired, unit.text, unit.hash, requirements, problem)

    @property
    def wanted(self) -> bool:
        """Whether it should be on a machine at all."""
        return self.desired is not Desired.INACTIVE


class _Host:
    """A machine's units; ``guarded`` are those whose Conflicts or Replaces others must be checked against."""

    __slots__ = ("guarded", "units")

    def __init__(self) -> None:
        self.units: set[str] = set()
        self.guarded: set[str] = set()


class _Ranking:
    """Machines that satisfy one MachineMetadata, by (number of units, id).

    Entries that are out of date are dropped when met."""

    __slots__ = ("_heap", "members")

    def __init__(self, members: Iterable[tuple[int, str]]) -> None:
        self._heap = list(members)
        self.members = {machine for _, machine in self._heap}
        heapq.heapify(self._heap)

    def touch(self, count: int, machine: str) -> None:
        """A machine has another number of units."""
        if machine in self.members:
            heapq.heappush(self._heap, (count, machine))

    def ordered(self, count_of: Mapping[str, int]) -> Generator[str, None, None]:
        """Members in order; the ranking must not be touched before the iterator is closed."""
        popped: dict[str, tuple[int, str]] = {}
        try:
            while self._heap:
                count, machine = entry = heapq.heappop(self._heap)
                if machine not in popped and count_of.get(machine) == count:
                    popped[machine] = entry
                    yield machine
        finally:
            for entry in popped.values():
                heapq.heappush(self._heap, entry)


class Index:
    """Machines, units and placements as they are now. Only live machines are in ``machines`` and ``counts``.

    ``lacking`` has, for each global unit, the live machines without it.
    """

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.counts: dict[str, int] = {}
        self.specs: dict[str, Spec] = {}
        self.unreadable: set[str] = set()
        self.lacking: dict[str, set[str]] = {}
        self.pending: set[str] = set()
        self.placements: dict[tuple[str, str], Placement] = {}
        self.where: dict[str, set[str]] = {}
        self.present: dict[str, set[str]] = {}
        self._replacers: set[str] = set()
        self._hosts: dict[str, _Host] = {}
        self._short: dict[str, set[str]] = {}
        self._rankings: dict[tuple[tuple[str, frozenset[str]], ...], _Ranking] = {}

    # Changes

    def set_machine(self, machine: Machine) -> None:
        """A machine is alive, with this metadata."""
        self.machines[machine.id] = machine
        self._short.setdefault(machine.id[:8], set()).add(machine.id)
        for unit, lacking in self.lacking.items():
            if (machine.id, unit) not in self.placements:
                lacking.add(machine.id)
        self.counts[machine.id] = len(self._host(machine.id).units)
        self._rankings.clear()

    def drop_machine(self, machine: str) -> None:
        """A machine is away; what is placed on it stays placed."""
        del self.machines[machine]
        del self.counts[machine]
        self._short[machine[:8]].discard(machine)
        for lacking in self.lacking.values():
            lacking.discard(machine)
        self._rankings.clear()

    def set_spec(self, name: str, spec: Spec | None) -> None:
        """A unit has this ``spec``, or is gone."""
        if spec is None:
            self.specs.pop(name, None)
        else:
            self.specs[name] = spec
        usable = spec is not None and not spec.problem
        if usable and spec is not None and spec.requirements.global_:
            self.lacking[name] = self.machines.keys() - self.where.get(name, set())
        else:
            self.lacking.pop(name, None)
        _toggle(self._replacers, name, usable and spec is not None and bool(spec.requirements.replaces))
        for machine in self.where.get(name, ()):
            self._guard(machine, name)
        self.refresh_pending(name)

    def put(self, placement: Placement) -> None:
        """An order is in the schedule."""
        machine, unit = placement.machine, placement.unit
        new = (machine, unit) not in self.placements
        self.placements[machine, unit] = placement
        if new:
            self.where.setdefault(unit, set()).add(machine)
            self.lacking.get(unit, set()).discard(machine)
            self._host(machine).units.add(unit)
            self._guard(machine, unit)
            self._count(machine)
            self.refresh_pending(unit)

    def take(self, machine: str, unit: str) -> None:
        """An order is no longer in the schedule."""
        del self.placements[machine, unit]
        self.where[unit].discard(machine)
        if machine in self.machines and unit in self.lacking:
            self.lacking[unit].add(machine)
        host = self._host(machine)
        host.units.discard(unit)
        host.guarded.discard(unit)
        self._count(machine)
        self.refresh_pending(unit)

    def refresh_pending(self, unit: str) -> None:
        """Whether a unit needs a machine may have changed."""
        spec = self.specs.get(unit)
        needs = (
            spec is not None and self.is_placeable(spec) and not spec.requirements.global_ and not self.where.get(unit)
        )
        _toggle(self.pending, unit, needs)

    # Questions

    def units_on(self, machine: str) -> list[str]:
        """The units placed on a machine, by name."""
        return sorted(self._host(machine).units)

    def hosts(self) -> list[str]:
        """Machines that are alive or have units, by id."""
        return sorted(self.machines.keys() | {machine for machine, host in self._hosts.items() if host.units})

    def has_guards(self, machine: str) -> bool:
        """Whether any unit on a machine has Conflicts or Replaces."""
        return bool(self._host(machine).guarded)

    def is_placeable(self, spec: Spec) -> bool:
        """Whether a unit should be on a machine and may be touched."""
        return spec.wanted and not self.is_left_alone(spec.name)

    def is_left_alone(self, unit: str) -> bool:
        """Whether nothing can be decided about a unit, since its value or its ``[X-Fleet]`` cannot be read."""
        spec = self.specs.get(unit)
        return unit in self.unreadable or spec is None or bool(spec.problem)

    def replaces_any(self, spec: Spec | None) -> bool:
        """Whether a unit uses Replaces: then it concerns all machines."""
        return spec is not None and bool(spec.requirements.replaces)

    def candidates(self, wanted: Requirements) -> Generator[str, None, None]:
        """Live machines by (number of units, id), at least all of those that fit."""
        if wanted.machine_id:
            return self._ranked(self._short.get(wanted.machine_id[:8], set()))
        if wanted.machine_of:
            return self._ranked(self.where.get(wanted.machine_of[0], set()))
        key = tuple(wanted.metadata.items())
        ranking = self._rankings.get(key)
        if ranking is None:
            members = [
                (count, machine)
                for machine, count in self.counts.items()
                if _lacking(wanted.metadata, self.machines[machine].metadata) is None
            ]
            ranking = self._rankings[key] = _Ranking(members)
        return ranking.ordered(self.counts)

    def _ranked(self, machines: Iterable[str]) -> Generator[str, None, None]:
        yield from sorted(
            (machine for machine in machines if machine in self.machines), key=lambda each: (self.counts[each], each)
        )

    # Whether a machine fits: decided only here

    def rejection(self, spec: Spec, machine: str) -> Rejection | None:
        """Why a live machine cannot take a unit that it does not have; ``None`` when it can."""
        found = self.misplaced(spec, machine)
        if found is None:
            host = self._host(machine)
            others = host.units if spec.requirements.conflicts else host.guarded
            conflicting = [other for other in others if self.conflict(spec.name, other)]
            if conflicting:
                return Rejection(Reject.CONFLICT, min(conflicting))
            found = self.replaced(spec.name, machine)
        return found

    def misplaced(self, spec: Spec, machine: str) -> Rejection | None:
        """Which of MachineID, MachineMetadata and MachineOf excludes a live machine."""
        wanted = spec.requirements
        if wanted.machine_id and not short_id_matches(wanted.machine_id, machine):
            return Rejection(Reject.OTHER_MACHINE, wanted.machine_id)
        lacking = _lacking(wanted.metadata, self.machines[machine].metadata)
        if lacking is not None:
            return Rejection(Reject.LACKS_METADATA, lacking)
        for peer in wanted.machine_of:
            if peer not in self._host(machine).units:
                return Rejection(Reject.PEER_ELSEWHERE, peer)
        return None

    def conflict(self, unit: str, other: str) -> bool:
        """Whether the Conflicts of either of two units names the other."""
        mine = self.specs.get(unit)
        theirs = self.specs.get(other)
        if unit == other or mine is None or theirs is None:
            return False
        return mine.requirements.conflicts_with(other) or theirs.requirements.conflicts_with(unit)

    def replaced(self, unit: str, machine: str) -> Rejection | None:
        """Whether a unit on the machine replaces this one there."""
        if not self._replacers:
            return None
        found = [other for other in self._host(machine).guarded if self._replaces(other, unit)]
        return Rejection(Reject.REPLACED, min(found)) if found else None

    def _replaces(self, unit: str, other: str) -> bool:
        """Whether ``unit`` replaces ``other``.

        Units that replace each other, also in a ring, do not: they would for ever."""
        if unit == other or unit not in self._replacers or not self.specs[unit].requirements.replaces_unit(other):
            return False
        reached = {other}
        border = [other]
        while border:
            last = border.pop()
            if last in self._replacers:
                wanted = self.specs[last].requirements
                onward = {each for each in self._replacers - reached if wanted.replaces_unit(each)}
                reached |= onward
                border.extend(onward)
        return unit not in reached

    def waits_for(self, unit: str) -> str | None:
        """A live machine that still reports a unit that it should no longer have."""
        present = self.present.get(unit, set())
        left = [each for each in present if each in self.machines and (each, unit) not in self.placements]
        return min(left, default=None)

    def rejections(self, spec: Spec, among: Iterable[str]) -> Counter[Rejection]:
        """How many of these live machines refuse a unit, by reason."""
        found = (self.rejection(spec, machine) for machine in among)
        return Counter(each for each in found if each is not None)

    def _host(self, machine: str) -> _Host:
        return self._hosts.setdefault(machine, _Host())

    def _count(self, machine: str) -> None:
        if machine in self.counts:
            self.counts[machine] = count = len(self._host(machine).units)
            for ranking in self._rankings.values():
                ranking.touch(count, machine)

    def _guard(self, machine: str, unit: str) -> None:
        spec = self.specs.get(unit)
        wanted = None if spec is None else spec.requirements
        _toggle(self._host(machine).guarded, unit, wanted is not None and bool(wanted.conflicts or wanted.replaces))


def _toggle(into: set[str], name: str, belongs: bool) -> None:
    if belongs:
        into.add(name)
    else:
        into.discard(name)


def _lacking(wanted: Mapping[str, frozenset[str]], has: Mapping[str, str]) -> str | None:
    """The first wanted metadata that a machine does not have, as ``key=value`` or ``key=one|other``."""
    for key, values in wanted.items():
        if has.get(key) not in values:
            return f"{key}={'|'.join(sorted(values))}"
    return None

"""The scheduler: which unit runs where. A pure function of its input, without I/O, clock or randomness.

:class:`Scheduler` keeps an index of the cluster and receives changes; :meth:`Scheduler.plan` returns what to do about
them. :func:`decide` plans from scratch, with the same result (a property test checks that).

The rules, in order:

1. A unit stays where it is as long as its machine fits; nothing moves to balance anything.
2. A machine fits when ``MachineID``, ``MachineMetadata``, ``MachineOf``, ``Conflicts`` and ``Replaces`` all allow it.
   Of two units on a machine that come to conflict, the one whose name sorts first stays.
3. A unit without a machine goes to the one that fits with the fewest units; of equals, to the one whose id sorts first.
   A machine in doubt, which may be dead, gets it only if no other fits.
4. A unit that left a live machine is placed again only when that machine no longer reports it, so that two copies do
   not run.
5. A global unit is placed on each machine that fits.

What cannot be read is left alone: a unit whose value is broken keeps its machine, and a machine that is away keeps its
units until it is evicted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from fleet.model.entities import Machine, Placement, Unit
from fleet.scheduler import reasons
from fleet.scheduler.index import Index, Spec
from fleet.scheduler.reasons import Reject, Rejection, Why

_ROUNDS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Decision:
    """One change of the schedule. ``placement`` is the order to write, ``None`` to take the order away."""

    unit: str
    machine: str
    why: Why
    placement: Placement | None = None
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be written: ``decisions`` by unit and machine, and changed ``explanations`` (``None``: none)."""

    decisions: tuple[Decision, ...] = ()
    explanations: tuple[tuple[str, str | None], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.decisions or self.explanations)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The input of a plan.

    ``unreadable`` are units whose value is broken; ``evicted`` are machines whose units must move; ``doubted`` is one
    that may be dead, or ""; ``present`` are the (machine, unit) that machines report; ``explanations`` is what users
    see now."""

    machines: Mapping[str, Machine] = field(default_factory=dict)
    evicted: frozenset[str] = frozenset()
    doubted: str = ""
    units: Mapping[str, Unit] = field(default_factory=dict)
    unreadable: frozenset[str] = frozenset()
    placements: Mapping[tuple[str, str], Placement] = field(default_factory=dict)
    present: frozenset[tuple[str, str]] = frozenset()
    explanations: Mapping[str, str] = field(default_factory=dict)


def decide(cluster: ClusterView) -> Plan:
    """The plan for a cluster, from scratch."""
    return Scheduler.of(cluster).plan()


class Scheduler:
    """An index of the cluster that plans only what a change may affect.

    Pass it every change with the ``set_`` and ``drop_`` methods, in any order; passing the same twice changes nothing.
    :meth:`plan` takes its own decisions for done: when writing them fails, make a new scheduler.
    """

    def __init__(self) -> None:
        self._index = Index()
        self.doubted = ""
        """A machine that may be dead: it gets a unit only if no other machine fits. "" for none."""
        self._evicted: set[str] = set()
        self._explanations: dict[str, str] = {}
        self._stale_machines: set[str] = set()
        self._stale_units: set[str] = set()
        self._aged: tuple[set[str], set[str]] = (set(), set())
        self._changed = False
        self._decisions: dict[tuple[str, str], Decision] = {}
        self._before: dict[tuple[str, str], Placement | None] = {}
        self._taken: dict[str, tuple[str, Why]] = {}

    @classmethod
    def of(cls, cluster: ClusterView) -> Scheduler:
        """A scheduler that knows the whole of a cluster and has planned nothing yet."""
        made = cls()
        made.doubted = cluster.doubted
        for machine in cluster.machines.values():
            made.set_machine(machine)
        for gone in cluster.evicted:
            made.evict_machine(gone)
        for unit in cluster.units.values():
            made.set_unit(unit)
        for name in cluster.unreadable:
            made.set_unreadable(name)
        for placement in cluster.placements.values():
            made.set_placement(placement)
        for where, name in cluster.present:
            made.set_present(where, name)
        for name, text in cluster.explanations.items():
            made.set_explanation(name, text)
        return made

    # What changes

    def set_machine(self, machine: Machine) -> None:
        """A machine is alive, or has other metadata."""
        self._evicted.discard(machine.id)
        if self._index.machines.get(machine.id) != machine:
            self._index.set_machine(machine)
            self._touch(machine.id)

    def drop_machine(self, machine: str) -> None:
        """A machine is away: it gets nothing new and keeps what it has, until it comes back or is evicted."""
        if machine in self._index.machines:
            self._index.drop_machine(machine)
            self._touch(machine)

    def evict_machine(self, machine: str) -> None:
        """A machine that is away must lose its units."""
        if machine not in self._evicted and machine not in self._index.machines:
            self._evicted.add(machine)
            self._touch(machine)

    def set_unit(self, unit: Unit) -> None:
        """A unit is new, or has another text or desired state."""
        self._set_spec(unit.name, Spec.of(unit))

    def drop_unit(self, name: str) -> None:
        """A unit was destroyed."""
        self._set_spec(name, None)

    def set_unreadable(self, name: str) -> None:
        """A unit's value is broken: its known state is kept, and nothing is done until it is readable or gone."""
        if name not in self._index.unreadable:
            self._index.unreadable.add(name)
            self._index.refresh_pending(name)
            self._touch_unit(name)

    def set_placement(self, placement: Placement) -> None:
        """An order is in the schedule."""
        if self._index.placements.get((placement.machine, placement.unit)) != placement:
            self._index.put(placement)
            self._touch(placement.machine)
            self._touch_unit(placement.unit)

    def drop_placement(self, machine: str, unit: str) -> None:
        """An order is no longer in the schedule."""
        if (machine, unit) in self._index.placements:
            self._index.take(machine, unit)
            self._touch(machine)
            self._touch_unit(unit)

    def set_present(self, machine: str, unit: str) -> None:
        """A machine reports a unit."""
        here = self._index.present.setdefault(unit, set())
        if machine not in here:
            here.add(machine)
            self._changed = self._changed or unit in self._index.pending

    def drop_present(self, machine: str, unit: str) -> None:
        """A machine no longer reports a unit."""
        here = self._index.present.get(unit, set())
        if machine in here:
            here.discard(machine)
            self._changed = self._changed or unit in self._index.pending

    def set_explanation(self, unit: str, text: str | None) -> None:
        """The current explanation of a unit for users, beside the reason in its order."""
        if self._explanations.get(unit) != text:
            self._explain(unit, text)
            self._touch_unit(unit)

    def trust(self) -> None:
        """Another scheduler, of a leader, plans as well: what it knew at the last call is planned by now."""
        self._aged = (self._stale_machines, self._stale_units)
        self._stale_machines, self._stale_units = set(), set()

    def examine(self, machines: Iterable[str]) -> None:
        """Examine these machines and their units once more at the next plan."""
        for machine in machines:
            self._touch(machine)
            self._stale_units.update(unit for unit in self._index.units_on(machine) if unit not in self._index.lacking)

    def hosts(self) -> list[str]:
        """Machines that are alive or have units, by id."""
        return self._index.hosts()

    def is_global(self, unit: str) -> bool:
        """Whether a unit is to be on each machine that fits."""
        spec = self._index.specs.get(unit)
        return spec is not None and spec.requirements.global_

    def has_units(self, machine: str) -> bool:
        """Whether a machine has orders."""
        return bool(self._index.units_on(machine))

    # What to do about it

    def plan(self) -> Plan:
        """Decisions for all changes since the last plan. From then on they count as carried out."""
        if not self._changed:
            return Plan()
        self._decisions.clear()
        self._before.clear()
        self._taken.clear()
        self._stale_machines |= self._aged[0]
        self._stale_units |= self._aged[1]
        self._aged = (set(), set())
        examined = set(self._stale_units)
        for name in sorted(self._stale_units):
            self._drop_duplicates(name)
        for machine in sorted(self._stale_machines):
            self._settle(machine)
            examined.update(self._index.units_on(machine))
        for unit in sorted(self._stale_units & self._index.lacking.keys()):
            for machine in sorted(self._index.lacking[unit] - self._stale_machines):
                self._extend(unit, machine)
        examined |= {unit for _, unit in self._decisions} | self._index.pending
        self._place_pending()
        examined |= {unit for _, unit in self._decisions} | self._index.pending | self._index.lacking.keys()
        explanations = self._explain_all(examined)
        decisions = self._net_decisions()
        self._stale_machines.clear()
        self._stale_units.clear()
        self._changed = False
        return Plan(decisions, explanations)

    def _settle(self, machine: str) -> None:
        """Remove from a machine what must leave it, update what stays, and add the global units that fit."""
        if machine in self._evicted:
            for unit in self._index.units_on(machine):
                if unit not in self._index.specs and unit not in self._index.unreadable:
                    self._remove(machine, unit, Why.DESTROYED)
                elif not self._index.is_left_alone(unit):
                    self._remove(machine, unit, Why.MACHINE_GONE)
            return
        while self._remove_unfit(machine) or self._remove_conflicting(machine):
            pass
        for unit in self._index.units_on(machine):
            self._refresh(machine, unit)
        for unit in sorted(unit for unit, lacking in self._index.lacking.items() if machine in lacking):
            self._extend(unit, machine)

    def _extend(self, unit: str, machine: str) -> None:
        """Place a global unit on a machine that lacks it, if it fits."""
        spec = self._index.specs[unit]
        if self._index.is_placeable(spec) and self._index.rejection(spec, machine) is None:
            self._place(spec, machine, Why.EVERYWHERE, reasons.everywhere())

    def _remove_unfit(self, machine: str) -> bool:
        removed = False
        for unit in self._index.units_on(machine):
            spec = self._index.specs.get(unit)
            if unit in self._index.unreadable:
                continue
            if spec is None or not spec.wanted:
                self._remove(machine, unit, Why.DESTROYED if spec is None else Why.UNWANTED)
                removed = True
            elif machine in self._index.machines and not spec.problem:
                rejection = self._index.misplaced(spec, machine) or self._index.replaced(unit, machine)
                if rejection is not None:
                    self._remove(machine, unit, Why.UNFIT, rejection)
                    removed = True
        return removed

    def _remove_conflicting(self, machine: str) -> bool:
        if machine not in self._index.machines or not self._index.has_guards(machine):
            return False
        removed = False
        kept: list[str] = []
        for unit in self._index.units_on(machine):
            other = next((each for each in kept if self._index.conflict(unit, each)), None)
            if other is None or self._index.is_left_alone(unit):
                kept.append(unit)
            else:
                self._remove(machine, unit, Why.UNFIT, Rejection(Reject.CONFLICT, other))
                removed = True
        return removed

    def _refresh(self, machine: str, unit: str) -> None:
        """Write the unit's current text and desired state to a machine's order."""
        if self._index.is_left_alone(unit):
            return
        spec = self._index.specs[unit]
        old = self._index.placements[machine, unit]
        new = replace(old, desired=spec.desired, text=spec.text, hash=spec.hash, everywhere=spec.requirements.global_)
        if new != old:
            self._record(Decision(unit, machine, Why.CHANGED, new))
            self._index.put(new)

    def _drop_duplicates(self, unit: str) -> None:
        """A unit that is not global stays on one machine only: a live one before one that is away."""
        spec = self._index.specs.get(unit)
        where = self._index.where.get(unit, set())
        if spec is None or spec.requirements.global_ or self._index.is_left_alone(unit) or len(where) < 2:
            return
        for machine in sorted(where, key=lambda each: (each not in self._index.machines, each))[1:]:
            self._remove(machine, unit, Why.DUPLICATE)
            self._stale_machines.add(machine)

    def _place_pending(self) -> None:
        """Find machines for units without one, in the order of their names.

        A unit placed now may be the peer that another waits for, and one that it replaces must find another machine; so
        the rounds go on until one changes nothing.
        """
        queue = sorted(self._index.pending)
        for _ in range(_ROUNDS_MAX):
            placed = False
            freed = False
            for unit in queue:
                if unit in self._index.pending:
                    machine, avoided = self._choice(self._index.specs[unit])
                    if machine is not None:
                        reason = reasons.least_loaded(self._index.counts[machine], self._taken.get(unit), avoided)
                        self._place(self._index.specs[unit], machine, Why.LEAST_LOADED, reason)
                        placed = True
                        if self._index.specs[unit].requirements.replaces:
                            before = len(self._index.units_on(machine))
                            self._settle(machine)
                            freed = freed or len(self._index.units_on(machine)) < before
            if not placed:
                return
            queue = sorted(
                unit for unit in self._index.pending if freed or self._index.specs[unit].requirements.machine_of
            )

    def _choice(self, spec: Spec) -> tuple[str | None, str]:
        """The machine for a unit, and the one that would have been better and is in doubt, or ""."""
        if self._index.waits_for(spec.name) is not None:
            return None, ""
        avoided = ""
        candidates = self._index.candidates(spec.requirements)
        try:
            for machine in candidates:
                if self._index.rejection(spec, machine) is None:
                    if machine != self.doubted:
                        return machine, avoided
                    avoided = machine
            return avoided or None, ""
        finally:
            candidates.close()

    # What users see

    def _explain_all(self, examined: Iterable[str]) -> tuple[tuple[str, str | None], ...]:
        changed: list[tuple[str, str | None]] = []
        for unit in sorted(examined):
            if unit in self._index.unreadable:
                continue
            text = self._explanation(unit)
            if text != self._explanations.get(unit):
                self._explain(unit, text)
                changed.append((unit, text))
        return tuple(changed)

    def _explanation(self, unit: str) -> str | None:
        spec = self._index.specs.get(unit)
        if spec is None or not spec.wanted:
            return None
        if spec.problem:
            return spec.problem
        if spec.requirements.global_:
            lacking, alive = self._index.lacking[unit], len(self._index.machines)
            return reasons.global_summary(alive - len(lacking), alive, self._index.rejections(spec, lacking))
        if self._index.where.get(unit):
            return None  # its order says why
        waited = self._index.waits_for(unit)
        return (
            reasons.no_machine(self._index.rejections(spec, self._index.machines))
            if waited is None
            else reasons.waits_for(waited)
        )

    def _explain(self, unit: str, text: str | None) -> None:
        if text is None:
            self._explanations.pop(unit, None)
        else:
            self._explanations[unit] = text

    # Bookkeeping

    def _set_spec(self, name: str, spec: Spec | None) -> None:
        index = self._index
        old = index.specs.get(name)
        if old == spec and name not in index.unreadable:
            return
        index.unreadable.discard(name)
        index.set_spec(name, spec)
        self._touch_unit(name)
        if index.replaces_any(old) or index.replaces_any(spec):
            for machine in index.hosts():
                self._touch(machine)

    def _touch(self, machine: str) -> None:
        self._stale_machines.add(machine)
        self._changed = True

    def _touch_unit(self, unit: str) -> None:
        self._stale_units.add(unit)
        self._stale_machines |= self._index.where.get(unit, set())
        self._changed = True

    def _place(self, spec: Spec, machine: str, why: Why, reason: str) -> None:
        placement = Placement(
            unit=spec.name,
            machine=machine,
            desired=spec.desired,
            text=spec.text,
            hash=spec.hash,
            everywhere=spec.requirements.global_,
            reason=reason,
        )
        self._record(Decision(spec.name, machine, why, placement))
        self._index.put(placement)

    def _remove(self, machine: str, unit: str, why: Why, rejection: Rejection | None = None) -> None:
        self._record(Decision(unit, machine, why, None, rejection))
        self._taken[unit] = (machine, why)
        self._index.take(machine, unit)

    def _record(self, decision: Decision) -> None:
        """Record a decision that is about to be applied to the index.

        Only the last about a unit on a machine counts."""
        key = (decision.machine, decision.unit)
        self._before.setdefault(key, self._index.placements.get(key))
        self._decisions[key] = decision

    def _net_decisions(self) -> tuple[Decision, ...]:
        """Decisions that change the schedule, by unit and machine."""
        placements = self._index.placements
        changed = [key for key, before in self._before.items() if placements.get(key) != before]
        return tuple(self._decisions[key] for key in sorted(changed, key=lambda key: (key[1], key[0])))

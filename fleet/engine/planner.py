"""What plans by a view: a scheduler and the evictions, kept up to date with it."""

from __future__ import annotations

import logging
import math
from collections import deque

from fleet.engine.eviction import Evictions
from fleet.model.events import Event, Kind
from fleet.model.overview import Overview
from fleet.scheduler.schedule import ClusterView, Plan, Scheduler

GRACE_S = 2.0
TRUST_S = 30.0
"""A standby trusts that by then the leader has planned for whatever happened."""
SHOWN = 5
EXAMINED = 20
"""Machines that a new leader examines at a time, to see whether its predecessor left something undone."""

_LOG = logging.getLogger(__name__)


class Planner:
    """Plans by ``view``, which is whole from ``now`` on; pass :meth:`changed` what changes in it.

    ``agent_ttl_s`` is the lease of machines.
    """

    def __init__(self, view: Overview, now: float, *, agent_ttl_s: float) -> None:
        self.scheduler = Scheduler.of(
            ClusterView(
                machines=view.machines,
                units=view.units,
                unreadable=frozenset(view.unreadable),
                placements=view.placements,
                present=frozenset(view.states),
                explanations=view.reasons,
            )
        )
        self.evictions = Evictions(now, ttl_s=agent_ttl_s, grace_s=GRACE_S)
        self._view = view
        self._trust_at = now + TRUST_S
        self._unexamined: deque[str] = deque()
        self.events: list[Event] = []
        """What a leader has to say about machines that are away, and has not said yet."""
        for machine, made in view.alive.items():
            self.evictions.came(machine, made)
        for machine in sorted({machine for machine, _ in view.placements} - view.alive.keys()):
            self._left(machine, now, view.ordered[machine])

    def changed(self, kind: str, rest: str, revision: int, now: float) -> None:
        """The key ``kind/rest`` has changed in the view, at this revision."""
        view = self._view
        machine, _, unit = rest.partition("/")
        match kind:
            case "machines":
                self._machine_changed(rest, revision, now)
            case "metadata" if machine in view.alive:
                self._machine_changed(machine, revision, now)
            case "units":
                if rest in view.unreadable:
                    self.scheduler.set_unreadable(rest)
                elif rest in view.units:
                    self.scheduler.set_unit(view.units[rest])
                else:
                    self.scheduler.drop_unit(rest)
            case "schedule":
                order = view.placements.get((machine, unit))
                if order is None:
                    self.scheduler.drop_placement(machine, unit)
                else:
                    self.scheduler.set_placement(order)
                    if machine not in view.alive:
                        self._left(machine, now, view.ordered[machine])
            case "states":
                if (machine, unit) in view.states:
                    self.scheduler.set_present(machine, unit)
                else:
                    self.scheduler.drop_present(machine, unit)
            case "status":
                self.scheduler.set_explanation(rest, view.reasons.get(rest))

    def _machine_changed(self, machine: str, revision: int, now: float) -> None:
        if machine not in self._view.alive:
            self.scheduler.drop_machine(machine)
            self._left(machine, now, revision)
            if self.evictions.is_mass:
                away = ", ".join(self.evictions.away)
                _LOG.error("many machines are away at once: %s; the leader moves units slowly", away)
            return
        self.evictions.came(machine, self._view.alive[machine])
        known = self._view.machines.get(machine)
        if known is None:
            self.scheduler.drop_machine(machine)
        else:
            self.scheduler.set_machine(known)

    def _left(self, machine: str, now: float, revision: int) -> None:
        was_mass = self.evictions.is_mass
        is_new = machine not in self.evictions.away
        self.evictions.left(machine, now, revision)
        if self.evictions.is_mass and not was_mass:
            self._note_mass()
        until = self.evictions.waits_until(machine)
        if is_new and until is not None and self.scheduler.has_units(machine):
            reason = (
                f"{math.ceil(until - now)} s at the least: the leader's view is young, and no evidence says that the "
                "machine is dead"
            )
            self.events.append(Event(Kind.EVICTION_WAITS, machine=machine, reason=reason))

    def _note_mass(self) -> None:
        away, alive = list(self.evictions.away), len(self._view.alive)
        shown = ", ".join(away[:SHOWN]) + (", ..." if len(away) > SHOWN else "")
        reason = f"{len(away)} machines are away at once ({shown}), {alive} alive: their units move one machine a lease"
        self.events.append(Event(Kind.EVICTIONS_LIMITED, reason=reason))

    def stand_by(self, now: float) -> None:
        """Another engine leads at ``now``, and plans.

        It evicts what we would: machines that it has dealt with must not look like many that are away at once, later.
        """
        self.events.clear()
        for machine in self.evictions.take_due(now):
            self.scheduler.evict_machine(machine)
        if now >= self._trust_at:
            self.scheduler.trust()
            self._trust_at = now + TRUST_S

    def succeed(self) -> None:
        """Its leadership has ended. What it should have planned is examined, after what is urgent."""
        self._unexamined = deque(self.scheduler.hosts())
        if self.evictions.is_mass:
            self._note_mass()

    def evict(self, now: float) -> None:
        """The units of machines that are gone move."""
        for machine in self.evictions.take_due(now):
            _LOG.warning("machine %s is gone; its units move", machine)
            self.scheduler.evict_machine(machine)

    def plan(self) -> Plan | None:
        """The next plan; ``None`` when there may be more to examine, but nothing in what was examined now."""
        plan = self.scheduler.plan()
        if plan or not self._unexamined:
            return plan
        self.scheduler.examine([self._unexamined.popleft() for _ in range(min(EXAMINED, len(self._unexamined)))])
        return None

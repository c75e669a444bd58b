"""What the engines write into the log of events: all but what users do.

*What a plan does* is in the transaction that does it (:func:`of_plan`), so it is written once, whoever leads.

*What the view brings*, machines that come and go and units that fail, has no transaction of the engine's own. The
leader collects it for a moment and writes it with its next transaction, and with it the revision up to which it has
seen all (``seen`` in the log). A standby collects the same and writes nothing. When it succeeds, it reads that
revision, and writes what came after it: nothing is missed, and nothing is there twice.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from fleet.model.eventlog import EventLog
from fleet.model.events import Event, Kind
from fleet.model.overview import Overview
from fleet.scheduler.reasons import Why, sentence
from fleet.scheduler.schedule import Decision, Plan

GATHER_S = 0.5
"""How long what was seen may wait for company: a thousand units that fail at once are ten transactions."""

TOGETHER = 100
"""Events that were seen and are written at once; all of one revision stay together."""

KEPT_S = 60.0
"""A standby trusts that by then the leader has written it."""

NOTES_MAX = 10_000
_FAILED = "failed"


@dataclass(frozen=True, slots=True)
class _Note:
    event: Event
    revision: int
    at: float


class Chronicle:
    """What one engine has seen and not written yet. Times are of the engine's clock."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._notes: deque[_Note] = deque()
        self._taken = 0
        self._seen: int | None = None

    def note(self, event: Event, revision: int, now: float) -> None:
        """An event that was seen at this revision of the view; 0 for one that no other engine sees."""
        if len(self._notes) >= NOTES_MAX:
            if self._taken:
                return
            self._notes.popleft()
        self._notes.append(_Note(event, revision, now))

    def stand_by(self, now: float) -> None:
        """Another engine leads, and writes."""
        self._seen = None
        while self._notes and self._notes[0].at < now - KEPT_S:
            self._notes.popleft()

    def due(self) -> float | None:
        """When to write at the latest; ``None`` when there is nothing."""
        return self._notes[0].at + GATHER_S if self._notes else None

    def prepare(self) -> None:
        """Forget what another leader has written already. Raises :class:`etcd.errors.EtcdError`."""
        if self._notes and self._seen is None:
            seen = self._seen = self._log.seen()
            self._notes = deque(each for each in self._notes if not 0 < each.revision <= seen)

    def take(self, now: float, *, with_others: bool) -> tuple[list[Event], int]:
        """Events to write now, and the revision to write as seen (0: none), until :meth:`written`.

        ``with_others``: there is a transaction in any case. Only after :meth:`prepare`."""
        if not self._notes or self._taken:
            return [], 0
        if not with_others and len(self._notes) < TOGETHER and now < self._notes[0].at + GATHER_S:
            return [], 0
        taken: list[_Note] = []
        for each in self._notes:
            if len(taken) >= TOGETHER and each.revision != taken[-1].revision:
                break
            taken.append(each)
        self._taken = len(taken)
        newest = max((each.revision for each in taken), default=0)
        return [each.event for each in taken], newest if newest > (self._seen or 0) else 0

    def written(self, seen: int) -> None:
        """What was taken last is in the log, and this revision with it (0: none)."""
        for _ in range(self._taken):
            self._notes.popleft()
        self._taken = 0
        if self._seen is not None:
            self._seen = max(self._seen, seen)

    def doubt(self) -> None:
        """Whether what was taken last is in the log, is not known: the log will be asked."""
        self._taken = 0
        self._seen = None

    def clear(self) -> None:
        """This engine no longer leads."""
        self._notes.clear()
        self.doubt()


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What the log may have to say about one key of a view: whether its machine is there, or its unit in trouble."""

    is_there: bool = False
    trouble: str = ""

    @classmethod
    def of(cls, view: Overview, kind: str, rest: str) -> Glimpse:
        """The key ``kind/rest``."""
        if kind == "machines":
            return cls(is_there=rest in view.alive)
        if kind != "states":
            return _NOTHING
        machine, _, unit = rest.partition("/")
        state = view.states.get((machine, unit))
        if state is None or not (state.error or state.active == _FAILED):
            return _NOTHING
        return cls(trouble=state.error or state.note or state.sub or _FAILED)


_NOTHING = Glimpse()


def of_change(view: Overview, kind: str, rest: str, before: Glimpse) -> Event | None:
    """What has happened, now that the key ``kind/rest`` of the view has changed, and was ``before``."""
    after = Glimpse.of(view, kind, rest)
    if kind == "machines" and after.is_there != before.is_there:
        if not after.is_there:
            return Event(Kind.LEFT, machine=rest, reason="its lease has ended, or it shut down")
        known = view.machines.get(rest)
        return Event(Kind.JOINED, machine=rest, reason=f"at {known.ip}" if known is not None and known.ip else "")
    if after.trouble and not before.trouble:
        machine, _, unit = rest.partition("/")
        return Event(Kind.FAILED, unit, machine, reason=after.trouble)
    return None


def of_plan(plan: Plan, waiting: Iterable[tuple[str, str]]) -> dict[str, list[Event]]:
    """What a plan does, by unit; under "" what it does to machines.

    ``waiting`` are units that have no machine from now on, and why. Orders that only change are no event: the user who
    changed the unit has one. A global unit has one event, not one for each of many machines."""
    by_unit: dict[str, list[Decision]] = {}
    for decision in plan.decisions:
        if decision.why is not Why.CHANGED:
            by_unit.setdefault(decision.unit, []).append(decision)
    events = {unit: _of_unit(unit, decisions) for unit, decisions in by_unit.items()}
    for unit, reason in waiting:
        events.setdefault(unit, []).append(Event(Kind.WAITING, unit, reason=reason))
    gone = Counter(each.machine for each in plan.decisions if each.why is Why.MACHINE_GONE)
    if gone:
        events[""] = [
            Event(Kind.EVICTED, machine=each, reason=f"{count} unit{'' if count == 1 else 's'} had orders for it")
            for each, count in sorted(gone.items())
        ]
    return events


def _of_unit(unit: str, decisions: list[Decision]) -> list[Event]:
    left = [each for each in decisions if each.placement is None]
    come = [each for each in decisions if each.placement is not None]
    if len(left) == len(come) == 1 and come[0].placement is not None:
        return [Event(Kind.MOVED, unit, come[0].machine, left[0].machine, come[0].placement.reason)]
    events = []
    if len(left) == 1:
        events.append(
            Event(Kind.REMOVED, unit, former=left[0].machine, reason=sentence(left[0].why, left[0].rejection))
        )
    elif left:
        events.append(Event(Kind.REMOVED, unit, reason=f"from {len(left)} machines: {left[0].why.value}"))
    if len(come) == 1 and come[0].placement is not None:
        events.append(Event(Kind.PLACED, unit, come[0].machine, reason=come[0].placement.reason))
    elif come:
        events.append(Event(Kind.PLACED, unit, reason=f"on {len(come)} machines: {come[0].why.value}"))
    return events

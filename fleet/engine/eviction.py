"""When a machine that has vanished loses its units. Pure: times and revisions are arguments.

A machine's key is deleted when its lease runs out, so the machine has been silent for a whole TTL by then, and is dead
after a short grace to come back. There are two reasons for more patience:

- There was a gap in our view (a new leader, a watch that broke), and keys may be gone because etcd itself was away:
  then machines are about to come back. Revisions tell an outage from a death. The keys of an outage's victims are gone
  or were made again; where most of the other machines' keys were made before the one in question was last known to
  exist, their leases lived through all that ended its lease. Without that evidence no machine is evicted until the view
  has been whole for a full TTL.
- So many vanish at once that a partition is likelier than as many failures. When more than a third of all machines
  vanish within a TTL, they are evicted one at a time, a TTL apart, until none is away. Machines that lost their units
  in that TTL already count, since the leases of machines that are cut off together run out one after the other, as far
  apart as their renewals were.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Away:
    """Since when we know, and the last revision at which its key is known to have existed, or when that ended."""

    since: float
    revision: int


class Evictions:
    """Which machines are away, since when, in a view that is whole from ``since`` on.

    ``ttl_s`` is the machines' lease, ``grace_s`` the time to come back for one that is dead by all evidence.
    """

    def __init__(self, since: float, *, ttl_s: float, grace_s: float) -> None:
        self._since = since
        self._ttl_s = ttl_s
        self._grace_s = grace_s
        self._alive: dict[str, int] = {}
        self._made: list[int] | None = None  # the revisions of ``_alive``, sorted, when they were last needed
        self._away: dict[str, _Away] = {}
        self._evicted: dict[str, float] = {}
        self._paced_from: float | None = None

    @property
    def away(self) -> Iterable[str]:
        """Machines that are away and not evicted yet, by id."""
        return sorted(self._away)

    @property
    def is_mass(self) -> bool:
        """Whether so many are away that evictions are spread over time."""
        return self._paced_from is not None

    def interrupted(self, now: float) -> None:
        """The view had a gap that ended at ``now``: it is whole from here on."""
        self._since = now

    def came(self, machine: str, made: int) -> None:
        """A machine is alive, by a key that revision ``made`` created."""
        self._alive[machine] = made
        self._made = None
        self._away.pop(machine, None)
        self._evicted.pop(machine, None)
        if not self._away:
            self._paced_from = None

    def left(self, machine: str, now: float, revision: int) -> None:
        """A machine is not alive, observed at ``now``.

        ``revision`` is the one that deleted its key; where that was not seen, the last at which it existed.
        """
        self._alive.pop(machine, None)
        self._made = None
        self._away.setdefault(machine, _Away(now, revision))
        self._evicted = {each: at for each, at in self._evicted.items() if now < at + self._ttl_s}
        vanished = len(self._away.keys() | self._evicted.keys())
        if self._paced_from is None and vanished > 1 and 3 * vanished > vanished + len(self._alive):
            self._paced_from = max((at + self._ttl_s for at in self._evicted.values()), default=now)

    def take_due(self, now: float) -> list[str]:
        """Machines to evict now. One that comes back later counts as new."""
        due = sorted((ripe, machine) for machine, away in self._away.items() if (ripe := self._ripe(away)) <= now)
        if self._paced_from is not None and due:
            if now < self._paced_from:
                return []
            due = due[:1]
            self._paced_from = now + self._ttl_s
        for _, machine in due:
            del self._away[machine]
            self._evicted[machine] = now
        if not self._away:
            self._paced_from = None
        return [machine for _, machine in due]

    def waits_until(self, machine: str) -> float | None:
        """Until when caution keeps a machine that is away from being evicted; ``None`` if it does not."""
        away = self._away.get(machine)
        ripe = 0.0 if away is None else self._ripe(away)
        return ripe if away is not None and ripe > away.since + self._grace_s else None

    def next_due(self) -> float | None:
        """When to check again; ``None`` when no machine is away."""
        if not self._away:
            return None
        ripe = min(self._ripe(away) for away in self._away.values())
        return ripe if self._paced_from is None else max(ripe, self._paced_from)

    def _ripe(self, away: _Away) -> float:
        ripe, careful = away.since + self._grace_s, self._since + self._ttl_s
        return ripe if ripe >= careful or self._is_alone(away) else careful

    def _is_alone(self, away: _Away) -> bool:
        """Whether most of the other machines' leases have lived through all that ended this one's."""
        if self._made is None:
            self._made = sorted(self._alive.values())
        others = len(self._alive) + len(self._away) - 1 + len(self._evicted.keys() - self._away.keys())
        return 2 * bisect_left(self._made, away.revision) > others

"""When a machine that has vanished loses its units. Pure: the time is an argument.

A machine's key is deleted when its lease runs out, so the machine has been silent for a whole TTL by then. There are
two exceptions: there was a gap in our view (a new leader, a watch that broke: keys may be gone because etcd itself was
away, and machines are about to come back), or so many vanish at once that a partition is likelier than as many
failures. So

- no machine is evicted until the view has been whole for a full TTL; any gap restarts that clock;
- a machine that vanishes while the view is whole has a short grace period to come back;
- when more than a third of all machines vanish within a TTL, they are evicted one at a time, a TTL apart, until none is
  away. Machines that lost their units in that TTL already count, since the leases of machines that are cut off together
  run out one after the other, as far apart as their renewals were.
"""

from __future__ import annotations

from collections.abc import Iterable


class Evictions:
    """Which machines are away, since when, in a view that is whole from ``since`` on.

    ``ttl_s`` is the machines' lease, ``grace_s`` the time to come back for one that vanished while the view was whole.
    """

    def __init__(self, since: float, *, ttl_s: float, grace_s: float) -> None:
        self._since = since
        self._ttl_s = ttl_s
        self._grace_s = grace_s
        self._alive: set[str] = set()
        self._away: dict[str, float] = {}
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

    def came(self, machine: str) -> None:
        """A machine is alive."""
        self._alive.add(machine)
        self._away.pop(machine, None)
        self._evicted.pop(machine, None)
        if not self._away:
            self._paced_from = None

    def left(self, machine: str, now: float) -> None:
        """A machine is not alive, observed at ``now``."""
        self._alive.discard(machine)
        self._away.setdefault(machine, now)
        self._evicted = {each: at for each, at in self._evicted.items() if now < at + self._ttl_s}
        vanished = len(self._away.keys() | self._evicted.keys())
        if self._paced_from is None and vanished > 1 and 3 * vanished > vanished + len(self._alive):
            self._paced_from = max((at + self._ttl_s for at in self._evicted.values()), default=now)

    def take_due(self, now: float) -> list[str]:
        """Machines to evict now. One that comes back later counts as new."""
        due = sorted((self._ripe(away), machine) for machine, away in self._away.items() if self._ripe(away) <= now)
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

    def next_due(self) -> float | None:
        """When to check again; ``None`` when no machine is away."""
        if not self._away:
            return None
        ripe = min(self._ripe(away) for away in self._away.values())
        return ripe if self._paced_from is None else max(ripe, self._paced_from)

    def _ripe(self, away_since: float) -> float:
        return max(away_since + self._grace_s, self._since + self._ttl_s)

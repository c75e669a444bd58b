"""What happened in the cluster, as values; :mod:`fleet.model.eventlog` keeps them. Nothing here does I/O."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

REASON_MAX = 400
"""Characters of a reason that are kept."""


class Kind(enum.StrEnum):
    """What happened. An older fleetd may read a kind that it does not know: ``Event.kind`` is any text."""

    SUBMITTED = "submitted"  # by a user, and so on to METADATA
    REPLACED = "replaced"
    LOADED = "loaded"
    STARTED = "started"
    STOPPED = "stopped"
    UNLOADED = "unloaded"
    DESTROYED = "destroyed"
    METADATA = "metadata"
    PLACED = "placed"  # by the engine
    MOVED = "moved"
    REMOVED = "removed"
    WAITING = "waiting"  # no machine may have the unit, or not yet
    FAILED = "failed"  # a machine reports it
    JOINED = "machine-joined"
    LEFT = "machine-left"
    EVICTED = "machine-evicted"  # its units move
    EVICTION_WAITS = "eviction-waits"
    EVICTIONS_LIMITED = "evictions-limited"
    LEADER = "leader-changed"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. Texts are "" where they do not apply.

    ``machine`` is the machine that it is about, the new one of a move or of the leader; ``former`` is the one before.
    """

    kind: str
    unit: str = ""
    machine: str = ""
    former: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that were written together at ``at`` (Unix seconds), by whom; where they are in the log, once they are.

    ``by`` is ``fleetd <machine>`` for an engine, else who used the HTTP API: see
    :attr:`webserver.message.Request.by`."""

    at: float
    by: str
    events: tuple[Event, ...]
    revision: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Bound:
    """How much the log keeps: whole batches, the newest, of ``events`` events together, none older than ``age_s``.

    It may have ``slack`` events more at times, so that not each write has to delete something."""

    events: int = 10_000
    age_s: float = 7 * 86400.0
    slack: int = 2_500

    def surplus(self, batches: Sequence[Batch], now: float) -> list[Batch]:
        """What must go of ``batches``, which are by revision, the oldest first."""
        gone = []
        kept = 0
        for each in reversed(batches):
            kept += len(each.events)
            if kept > self.events or each.at < now - self.age_s:
                gone.append(each)
        gone.reverse()
        return gone

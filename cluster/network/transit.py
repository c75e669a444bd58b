"""One direction of an impaired link, and what is under way on all of them: pure, with time and chance as inputs.

A :class:`Wire` decides what becomes of a frame: lost, changed, doubled, and when each copy arrives. A :class:`Schedule`
holds the frames until then. Neither has a clock: the caller, the switch or a test, passes the time (seconds of any
monotonic clock).
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from cluster.model.impairment import Impairment
from cluster.network.impairment import Pair

UNDER_WAY_BYTES_MAX = 4 << 20
"""Of one wire; more is dropped. This is 50 ms at 640 Mbit/s, all that two emulated nodes reach, and 8 s at 4 Mbit/s."""
FRAME_COST_BYTES = 256
"""What a frame counts of that at least: it takes as much here, however short it is."""
TURN_S_MAX = 1.0
"""A frame that would wait longer for its turn on a wire with a rate is dropped.

That is a router's queue: TCP takes the loss as its sign to slow down.
"""
HELD_BACK_S_MIN = 0.02
"""A reordered frame arrives up to this, or up to its delay, later: long enough for those behind it to pass."""


@dataclass(slots=True)
class Fate:
    """How many frames met which fate on one wire.

    ``frames`` is all that came; a frame can be corrupt, double and late at once.
    """

    frames: int = 0
    lost: int = 0
    corrupted: int = 0
    duplicated: int = 0
    reordered: int = 0
    overflowed: int = 0


@dataclass(slots=True)
class Wire:
    """The frames from one port to another, under ``impairment``.

    With the same ``seed`` the same frames at the same times meet the same fate.
    """

    pair: Pair
    impairment: Impairment
    seed: int
    fate: Fate = field(default_factory=Fate)
    under_way_bytes: int = 0
    """Of frames that :meth:`carry` returned and that have not :meth:`arrived` yet."""
    _dice: random.Random = field(init=False, repr=False)
    _free_at: float = 0.0
    _last_due: float = 0.0

    def __post_init__(self) -> None:
        self._roll()

    def become(self, impairment: Impairment, seed: int) -> None:
        """Go on under another impairment, with the same random stream if the seed is the same."""
        self.impairment = impairment
        if seed != self.seed:
            self.seed = seed
            self._roll()

    def _roll(self) -> None:
        # Each pair has a stream of its own: what one wire carries changes nothing on another.
        self._dice = random.Random(f"{self.seed} {self.pair[0]} {self.pair[1]}")  # noqa: S311 - a die, not a key

    def carry(self, now: float, frame: bytes) -> list[tuple[float, bytes]]:
        """What becomes of ``frame`` at ``now``: (due, frame) of each copy that arrives.

        None arrives if it is lost or too much is under way.
        """
        how, fate, chance = self.impairment, self.fate, self._dice.random
        fate.frames += 1
        if how.loss and chance() < how.loss:
            fate.lost += 1
            return []
        if how.corrupt and chance() < how.corrupt:
            fate.corrupted += 1
            frame = self._with_an_error(frame)
        copies = 1
        if how.duplicate and chance() < how.duplicate:
            fate.duplicated += 1
            copies = 2
        arrivals = [(due, frame) for _ in range(copies) if (due := self._due(now, len(frame))) is not None]
        self.under_way_bytes += len(arrivals) * _cost(frame)
        return arrivals

    def arrived(self, frame: bytes) -> None:
        """Note that a frame of :meth:`carry` is under way no more."""
        self.under_way_bytes -= _cost(frame)

    def _due(self, now: float, length: int) -> float | None:
        how = self.impairment
        begin = max(now, self._free_at)
        if self.under_way_bytes + max(length, FRAME_COST_BYTES) > UNDER_WAY_BYTES_MAX or begin - now > TURN_S_MAX:
            self.fate.overflowed += 1
            return None
        sent = begin
        if how.rate_bps is not None:
            sent = self._free_at = begin + length * 8 / how.rate_bps
        due = sent + how.delay_s
        if how.jitter_s:
            due += self._dice.uniform(-1, 1) * how.jitter_s
        if how.reorder and self._dice.random() < how.reorder:
            self.fate.reordered += 1
            return due + (1 - self._dice.random()) * max(HELD_BACK_S_MIN, how.delay_s)
        self._last_due = max(due, self._last_due)
        return self._last_due

    def _with_an_error(self, frame: bytes) -> bytes:
        changed = bytearray(frame)
        changed[self._dice.randrange(len(changed))] ^= self._dice.randrange(1, 256)
        return bytes(changed)


def _cost(frame: bytes) -> int:
    return max(len(frame), FRAME_COST_BYTES)


class Schedule:
    """Frames under way, by the time they are due.

    Of those due at one time, the one that was put in first comes first.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Wire, bytes]] = []
        self._count = 0

    @property
    def next_due(self) -> float | None:
        """When the next frame is due; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def put(self, due: float, wire: Wire, frame: bytes) -> None:
        """Hold ``frame`` until ``due``."""
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, wire, frame))

    def take_due(self, now: float) -> list[tuple[Wire, bytes]]:
        """Take out what is due at ``now``, in order."""
        taken = []
        while self._heap and self._heap[0][0] <= now:
            _, _, wire, frame = heapq.heappop(self._heap)
            wire.arrived(frame)
            taken.append((wire, frame))
        return taken

    def take_all_of(self, wire: Wire) -> list[bytes]:
        """Take out all of one wire, in order: it is healed, or its port is gone."""
        taken = sorted(entry for entry in self._heap if entry[2] is wire)
        self._heap = [entry for entry in self._heap if entry[2] is not wire]
        heapq.heapify(self._heap)
        for entry in taken:
            wire.arrived(entry[3])
        return [entry[3] for entry in taken]

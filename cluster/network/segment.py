"""The cluster's network as its supervisor runs it: the switch, the faults by number, and who records what.

Several faults hold at once and each is healed by itself; what a pair suffers is all of its faults together.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.faults.book import FaultBook
from cluster.model.impairment import Impairment
from cluster.model.protocol import Captured, FaultState, NetworkDetail, PairFrames, Recorded
from cluster.network.impairment import HOST, Faults, Pair
from cluster.network.pcap import BYTES_MAX, Recording
from cluster.network.switch import Switch
from terminal import Failure

SEED_BITS = 32


@dataclass(frozen=True, slots=True)
class NetworkFault:
    """One fault: ``pairs`` all suffer ``impairment``, with random choices from ``seed``."""

    id: int
    what: str
    pairs: frozenset[Pair]
    impairment: Impairment
    seed: int

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes that it concerns."""
        return tuple(sorted({port for pair in self.pairs for port in pair} - {HOST}))

    def state(self, fates: Mapping[Pair, dict[str, int]]) -> FaultState:
        """Its representation in a reply; ``fates`` is what became of the frames of each pair."""
        pairs = sorted(self.pairs)
        frames = tuple(PairFrames(pair, fates[pair]) for pair in pairs if pair in fates)
        return FaultState(
            self.id, self.what, self.nodes, NetworkDetail(tuple(pairs), self.impairment, self.seed, frames)
        )


class Segment:
    """The network of one cluster. :attr:`switch` is started and stopped by the owner."""

    def __init__(self, sockets: Mapping[int, Path], book: FaultBook) -> None:
        """``sockets`` is as for :class:`Switch`. ``book`` numbers and records faults, and may heal them, too."""
        self.switch = Switch(sockets)
        self._book = book
        self._faults: dict[int, NetworkFault] = {}
        self._captures: dict[int, _Capture] = {}
        self._last_capture = 0

    def impair(self, what: str, pairs: Collection[Pair], impairment: Impairment, seed: int | None = None) -> int:
        """Make ``pairs`` suffer ``impairment`` from now on, on top of what they suffer already.

        Returns the fault's number.

        Without a ``seed`` one is drawn; the fault reports it. Raises :class:`Failure`.
        """
        known, found = {*self.switch.counters, HOST}, frozenset(pairs)
        if not found or not all(len(set(pair)) == 2 and known.issuperset(pair) for pair in found):
            raise Failure(
                f"no network fault can be between these ports: {sorted(found)}", hint=f"there are {sorted(known)}"
            )
        chosen = seed if seed is not None else random.SystemRandom().getrandbits(SEED_BITS)
        text = what if impairment.cut else f"{what} (seed {chosen})"
        fault = NetworkFault(self._book.number(), text, found, impairment, chosen)
        self._faults[fault.id] = fault
        self._impose()
        return self._book.begin(fault.id, text, fault.nodes, partial(self._heal, fault))

    def heal(self, number: int | None) -> tuple[int, ...]:
        """Heal the network's fault ``number``, or all of them.

        Returns those that were healed, none if it was healed before.
        """
        healed = [fault for fault in self._faults.values() if number in (None, fault.id)]
        for fault in healed:
            del self._faults[fault.id]
        self._impose()
        for fault in healed:
            self._book.end(fault.id)
        return tuple(fault.id for fault in healed)

    async def _heal(self, fault: NetworkFault) -> None:
        self._faults.pop(fault.id, None)
        self._impose()

    def faults(self) -> tuple[FaultState, ...]:
        """The faults that hold now, and what became of the frames of their pairs so far."""
        fates = {wire.pair: dataclasses.asdict(wire.fate) for wire in self.switch.wires()}
        return tuple(fault.state(fates) for fault in self._faults.values())

    def capture(self, port: int, path: Path, missed: str | None = None, bytes_max: int = BYTES_MAX) -> int:
        """Record frames that the card at ``port`` sends and receives in ``path``.

        Frames dropped on the way to it go to ``missed``.

        Returns the capture's number. Raises :class:`Failure`.
        """
        if port not in self.switch.counters:
            raise Failure(f"the network has no port {port}", hint=f"the ports are {sorted(self.switch.counters)}")
        recordings = [Recording(path, bytes_max)]
        if missed is not None:
            recordings.append(Recording(Path(missed), bytes_max))
        self._last_capture += 1
        self._captures[self._last_capture] = capture = _Capture(port, *recordings)
        self.switch.tap(port, capture)
        return self._last_capture

    def release(self, number: int) -> Captured:
        """End a capture; returns how much it holds. Raises :class:`Failure` if there is none of that number."""
        capture = self._captures.pop(number, None)
        if capture is None:
            raise Failure(f"there is no capture {number}")
        self.switch.untap(capture.port, capture)
        return capture.close()

    def close(self) -> None:
        """End all captures."""
        for number in list(self._captures):
            self.release(number)

    def _impose(self) -> None:
        faults, seeds = Faults(), dict[Pair, int]()
        for fault in self._faults.values():
            faults = faults.worsening(fault.pairs, fault.impairment)
            seeds.update(dict.fromkeys(fault.pairs, fault.seed))  # of several, the newest fault's seed
        self.switch.impose(faults, seeds)


class _Capture:
    """A :class:`~cluster.network.switch.Tap` that records."""

    def __init__(self, port: int, recording: Recording, missed: Recording | None = None) -> None:
        self.port = port
        self._recording, self._missed = recording, missed

    def seen(self, frame: bytes) -> None:
        self._recording.add(frame)

    def missed(self, frame: bytes) -> None:
        if self._missed is not None:
            self._missed.add(frame)

    def close(self) -> Captured:
        """End the files; how much they hold."""
        return Captured(_closed(self._recording), None if self._missed is None else _closed(self._missed))


def _closed(recording: Recording) -> Recorded:
    recording.close()
    return Recorded(str(recording.path), recording.frames, recording.left_out, recording.trouble)

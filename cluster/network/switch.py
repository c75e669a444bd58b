"""The cluster's Ethernet: a userspace learning switch, one unix socket per node.

Every node has a listening socket of its own, so the switch knows which node a frame came from, and what one node sends
to another can be lost, late or changed in the one place that all frames pass. What becomes of a frame is decided by the
pure :class:`~cluster.network.forwarding.ForwardingTable`, :class:`~cluster.network.impairment.Faults` and
:class:`~cluster.network.transit.Wire`; :class:`Switch` moves bytes.

A port whose reader is slow (an emulated node, say) holds its senders back, so nothing is lost; a port that takes
nothing at all for :data:`~cluster.network.patience.PATIENCE_S` (a paused node) loses its frames from then on instead of
stalling the whole cluster with it. Frames of an impaired pair hold no sender back: they wait on a wire of their own,
which is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from cluster.model.framing import (
    ADDRESSES_BYTES,
    FRAME_BYTES_MAX,
    FRAME_BYTES_MIN,
    HEADER_BYTES,
    FrameTooLongError,
    frames_of,
    with_header,
)
from cluster.model.impairment import WHOLE
from cluster.network.forwarding import ForwardingTable
from cluster.network.impairment import Faults, Pair
from cluster.network.patience import Patience
from cluster.network.transit import Schedule, Wire

READ_BYTES = 1 << 18
"""Read at once from a node, at most: more than a socket's buffer holds, and more than the longest frame."""
QUEUE_BYTES_MAX = 1 << 20
"""Above this, a port's senders are held back: 12 ms at the 640 Mbit/s that two emulated nodes reach."""
LATE_QUEUE_BYTES_MAX = 4 * QUEUE_BYTES_MAX
"""Above this, frames are dropped whose sender cannot be held back: those off a wire, and this computer's."""


@dataclass(slots=True)
class Counters:
    """What passed one port since the start: ``in`` from the node, ``out`` to it; drops count at the target."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    dropped_cut: int = 0
    dropped_lost: int = 0
    """By the share of frames that an impairment loses."""
    dropped_overflow: int = 0
    """By a wire that had too much under way: a rate that is too low for what is sent."""
    dropped_full: int = 0
    dropped_down: int = 0
    dropped_short: int = 0
    connections: int = 0


class Endpoint(Protocol):
    """What is attached to a port in this process. A frame is a whole Ethernet frame without checksum."""

    def deliver(self, ingress: int, frame: bytes) -> None:
        """Take a frame that came out of the port and had entered at ``ingress``, whatever its source address is.

        Called by the event loop; answers go to :meth:`Switch.inject`.
        """


class Tap(Protocol):
    """What watches a port."""

    def seen(self, frame: bytes) -> None:
        """A frame at the port's own card: one that it sends, before any fault, or receives, after all of them."""

    def missed(self, frame: bytes) -> None:
        """A frame for this port that a fault, or a full queue, took."""


class Switch:
    """The switch of one cluster, from :meth:`start` to :meth:`stop`; all of it belongs to one asyncio event loop."""

    def __init__(self, sockets: Mapping[int, Path], faults: Faults | None = None) -> None:
        """``sockets`` maps a port's number to the path of its socket (107 bytes at most, the kernel's limit)."""
        self.table = ForwardingTable(sockets)
        self.counters = {port: Counters() for port in sockets}
        self._paths = dict(sockets)
        self._links: dict[int, _Link] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._taps: dict[int, list[Tap]] = {}
        self._servers: dict[int, asyncio.Server] = {}
        self._faults = Faults()
        self._wires: dict[Pair, Wire] = {}
        self._ways: dict[int, dict[int, Wire | None]] = {}
        """By ingress and egress: the wire of an impaired pair, None for a cut one. Other pairs pass untouched."""
        self._schedule = Schedule()
        self._alarm: asyncio.TimerHandle | None = None
        self.impose(faults if faults is not None else Faults())

    # Ports

    async def start(self) -> None:
        """Listen on every port's socket; a path left by a dead switch is replaced. Raises OSError."""
        for port in self._paths:
            await self._listen(port)

    async def stop(self) -> None:
        """Hang up on every node and remove the sockets."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for port in list(self.counters):
            self.remove(port)

    async def add(self, port: int, path: Path) -> None:
        """Open a port, which only an endpoint may have had so far, with a socket at ``path``. Raises OSError."""
        self._open(port)
        self._paths[port] = path
        await self._listen(port)

    def remove(self, port: int) -> None:
        """Close a port: hang up, remove its socket, drop its frames. Faults that name it stay, for when it is back."""
        if (server := self._servers.pop(port, None)) is not None:
            server.close()
        if (link := self._links.pop(port, None)) is not None:
            link.abort()
        if (path := self._paths.pop(port, None)) is not None:
            path.unlink(missing_ok=True)
        for pair, wire in self._wires.items():
            if port in pair:
                self._schedule.take_all_of(wire)
        self._endpoints.pop(port, None)
        self._taps.pop(port, None)
        self.counters.pop(port, None)
        self.table.remove(port)

    def attach(self, port: int, endpoint: Endpoint) -> None:
        """Deliver frames for ``port`` to ``endpoint``, beside its socket's user; the port is opened if needed."""
        self._open(port)
        self._endpoints[port] = endpoint

    def detach(self, port: int) -> None:
        """Deliver to the endpoint of ``port`` no more."""
        self._endpoints.pop(port, None)

    def inject(self, port: int, frame: bytes) -> None:
        """Send ``frame`` as if the node at ``port`` had. Raises :class:`FrameTooLongError`."""
        _, batches = self._sorted(port, with_header(frame))
        for egress, batch in batches.items():
            self._deliver(egress, batch, late=True)

    def connected(self) -> frozenset[int]:
        """The ports that a node is attached to."""
        return frozenset(self._links)

    def tap(self, port: int, tap: Tap) -> None:
        """Have ``tap`` watch ``port``."""
        self._taps.setdefault(port, []).append(tap)

    def untap(self, port: int, tap: Tap) -> None:
        """Let ``tap`` watch no more."""
        left = [each for each in self._taps.get(port, []) if each is not tap]
        self._taps.pop(port, None)
        if left:
            self._taps[port] = left

    def _open(self, port: int) -> None:
        self.table.add(port)
        self.counters.setdefault(port, Counters())

    async def _listen(self, port: int) -> None:
        path = self._paths[port]
        path.unlink(missing_ok=True)
        self._servers[port] = await asyncio.get_running_loop().create_unix_server(lambda: _Link(self, port), str(path))

    def _plugged(self, link: _Link) -> None:
        """Make ``link`` the one connection of its port; a former one is a node that was restarted, and is dropped."""
        if link.port not in self.counters:
            link.abort()  # the port was removed between its connecting and our hearing of it
            return
        former = self._links.get(link.port)
        self._links[link.port] = link
        self.counters[link.port].connections += 1
        if former is not None:
            former.abort()

    def _unplugged(self, link: _Link) -> None:
        """Forget ``link``, unless its port belongs to a newer connection already."""
        if self._links.get(link.port) is link:
            del self._links[link.port]
            self.table.forget(link.port)

    # Faults

    @property
    def faults(self) -> Faults:
        """What is wrong on purpose now."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self.impose(faults)

    def impose(self, faults: Faults, seeds: Mapping[Pair, int] | None = None) -> None:
        """Have exactly ``faults``, with the seed of each pair from ``seeds`` (0 if not named).

        A wire that goes on keeps its frames. From a healed one they arrive at once, in order; from a cut one, never.
        """
        former, self._faults = self._wires, faults
        self._wires, self._ways = {}, {}
        for pair, impairment in faults.impairments.items():
            source, target = pair
            wire = None
            if not impairment.cut:
                seed = (seeds or {}).get(pair, 0)
                wire = former.get(pair) or Wire(pair, impairment, seed)
                wire.become(impairment, seed)
                self._wires[pair] = wire
            self._ways.setdefault(source, {})[target] = wire
        for pair, wire in former.items():
            if pair in self._wires:
                continue
            late = self._schedule.take_all_of(wire)
            if faults.of(*pair) == WHOLE:
                self._deliver_late([(pair, frame) for frame in late])
            elif pair[1] in self.counters:
                self.counters[pair[1]].dropped_cut += len(late)
        if self._alarm is not None:
            self._set_alarm()

    def wires(self) -> list[Wire]:
        """The wires of impaired pairs, with what became of their frames so far."""
        return [self._wires[pair] for pair in sorted(self._wires)]

    # Frames

    def forward(self, ingress: int, chunk: bytes) -> tuple[int, list[_Link]]:
        """Deliver the whole frames of ``chunk``; returns the bytes used up and the links that are full now.

        Frames for one port are handed over in one write: at full speed there are some forty in a chunk, nearly all from
        one address to one other, and such a run is handled and counted as one. Raises :class:`FrameTooLongError`.
        """
        position, batches = self._sorted(ingress, chunk)
        full = [link for port, batch in batches.items() if (link := self._deliver(port, batch)) is not None]
        return position, full

    def _sorted(self, ingress: int, chunk: bytes) -> tuple[int, dict[int, _Batch]]:
        view = memoryview(chunk)
        batches: dict[int, _Batch] = {}
        addresses, begin, frames = b"", 0, 0
        position, end = 0, len(chunk)
        while position + HEADER_BYTES <= end:
            start = position + HEADER_BYTES
            length = int.from_bytes(chunk[position:start], "big")
            if length > FRAME_BYTES_MAX:
                raise FrameTooLongError(length)
            following = start + length
            if following > end:
                break
            if chunk[start : start + ADDRESSES_BYTES] != addresses or length < FRAME_BYTES_MIN:
                if frames:
                    self._pass(ingress, addresses, view[begin:position], frames, batches)
                begin, frames = position, 0
                addresses = chunk[start : start + ADDRESSES_BYTES]
            if length < FRAME_BYTES_MIN:
                self._count_short(ingress, length)
                begin, addresses = following, b""
            else:
                frames += 1
            position = following
        if frames:
            self._pass(ingress, addresses, view[begin:position], frames, batches)
        return position, batches

    def _count_short(self, ingress: int, length: int) -> None:
        counters = self.counters[ingress]
        counters.frames_in += 1
        counters.bytes_in += length
        counters.dropped_short += 1

    def _pass(self, ingress: int, addresses: bytes, run: memoryview, frames: int, batches: dict[int, _Batch]) -> None:
        """Find the way of a run of frames with the same two addresses, and add them to the batches they leave in."""
        counters = self.counters[ingress]
        counters.frames_in += frames
        counters.bytes_in += len(run) - HEADER_BYTES * frames
        for tap in self._taps.get(ingress, ()):
            for frame in frames_of(run):
                tap.seen(frame)
        ways = self._ways.get(ingress, {})
        for port in self.table.route(ingress, addresses[:6], addresses[6:]):
            if port not in ways:
                batches.setdefault(port, _Batch()).add(ingress, run, frames)
            elif (wire := ways[port]) is None:
                self.counters[port].dropped_cut += frames
                self._missed(port, run)
            else:
                self._carry(wire, port, run)

    def _carry(self, wire: Wire, port: int, run: memoryview) -> None:
        """Put frames on a wire."""
        now, counters, fate = asyncio.get_running_loop().time(), self.counters[port], wire.fate
        for frame in frames_of(run):
            lost, overflowed = fate.lost, fate.overflowed
            arrivals = wire.carry(now, frame)
            counters.dropped_lost += fate.lost - lost
            counters.dropped_overflow += fate.overflowed - overflowed
            if not arrivals:
                self._missed(port, with_header(frame))
            for due, copy in arrivals:
                self._schedule.put(due, wire, copy)
        self._arrive()

    def _arrive(self) -> None:
        """Deliver what is due, and wake up for the next."""
        due = self._schedule.take_due(asyncio.get_running_loop().time())
        self._deliver_late([(wire.pair, frame) for wire, frame in due])
        self._set_alarm()

    def _set_alarm(self) -> None:
        due, alarm = self._schedule.next_due, self._alarm
        if alarm is not None and (due is None or alarm.cancelled() or alarm.when() != due):
            alarm.cancel()
            self._alarm = alarm = None
        if alarm is None and due is not None:
            self._alarm = asyncio.get_running_loop().call_at(due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._arrive()

    def _deliver_late(self, arrivals: list[tuple[Pair, bytes]]) -> None:
        batches: dict[int, _Batch] = {}
        for (ingress, port), frame in arrivals:
            batches.setdefault(port, _Batch()).add(ingress, with_header(frame), 1)
        for port, batch in batches.items():
            self._deliver(port, batch, late=True)

    def _deliver(self, port: int, batch: _Batch, *, late: bool = False) -> _Link | None:
        """Deliver a batch; returns the port's link if it is full now. If too much waits, a ``late`` one is dropped."""
        if (counters := self.counters.get(port)) is None:
            return None  # the port was removed while this was on its way
        link, endpoint = self._links.get(port), self._endpoints.get(port)
        if endpoint is None and link is None:
            counters.dropped_down += batch.frames
        elif link is not None and (link.stalled or (late and link.waiting_bytes > LATE_QUEUE_BYTES_MAX)):
            counters.dropped_full += batch.frames
        else:
            counters.frames_out += batch.frames
            counters.bytes_out += batch.size - HEADER_BYTES * batch.frames
            if endpoint is not None:
                for ingress, run in zip(batch.ingresses, batch.runs, strict=True):
                    for frame in frames_of(run):
                        # Not from here: what it does about the frame is not the sender's business, nor are its errors.
                        asyncio.get_running_loop().call_soon(endpoint.deliver, ingress, frame)
            for tap in self._taps.get(port, ()):
                for run in batch.runs:
                    for frame in frames_of(run):
                        tap.seen(frame)
            if link is None:
                return None
            link.send(batch.runs)
            return link if link.full else None
        for run in batch.runs:
            self._missed(port, run)
        return None

    def _missed(self, port: int, run: bytes | memoryview) -> None:
        for tap in self._taps.get(port, ()):
            for frame in frames_of(run):
                tap.missed(frame)


class _Batch:
    """Frames to one port in one write, in runs: each frame with its length in front, each run with its ingress."""

    __slots__ = ("frames", "ingresses", "runs", "size")

    def __init__(self) -> None:
        self.ingresses: list[int] = []
        self.runs: list[bytes | memoryview] = []
        self.frames = 0
        self.size = 0

    def add(self, ingress: int, run: bytes | memoryview, frames: int) -> None:
        self.ingresses.append(ingress)
        self.runs.append(run)
        self.frames += frames
        self.size += len(run)


class _Link(asyncio.BufferedProtocol):
    """One node's connection. Full: over :data:`QUEUE_BYTES_MAX` wait for it. Stalled: full too long, frames are lost.

    It reads into a buffer of its own: with asyncio's the kernel maps, moves and unmaps 256 KiB for every lone frame.
    """

    def __init__(self, switch: Switch, port: int) -> None:
        self.port = port
        self.full = False
        self.stalled = False
        self._switch = switch
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._filled = 0
        self._given_bytes = 0
        self._waits_for: set[_Link] = set()
        self._held: set[_Link] = set()
        self._patience = Patience(self._taken_bytes, lambda: self._release(stalled=True))
        self._transport: asyncio.Transport | None = None

    @property
    def waiting_bytes(self) -> int:
        """What the node has not taken yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=QUEUE_BYTES_MAX)
        self._switch._plugged(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self._transport = None
        self._release()
        for target in self._waits_for:
            target._held.discard(self)
        self._switch._unplugged(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio names it
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        chunk = bytes(self._buffer[: self._filled + nbytes])  # a copy: the buffer is used again while this waits
        try:
            used, full = self._switch.forward(self.port, chunk)
        except FrameTooLongError:
            self.abort()
            return
        self._filled = len(chunk) - used
        if self._filled:
            self._buffer[: self._filled] = chunk[used:]
        for target in full:
            self._wait_for(target)

    def pause_writing(self) -> None:
        self.full = True
        self._patience.begin()

    def resume_writing(self) -> None:
        self._release()

    def send(self, runs: list[bytes | memoryview]) -> None:
        if self._transport is not None:
            self._given_bytes += sum(map(len, runs))
            if self.waiting_bytes:
                # A copy: a run that waits would keep the whole piece that it came in, were it a few bytes of it.
                self._transport.write(b"".join(runs))
            elif len(runs) == 1:
                self._transport.write(runs[0])
            else:
                self._transport.writelines(runs)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _wait_for(self, target: _Link) -> None:
        target._held.add(self)
        self._waits_for.add(target)
        if self._transport is not None:
            self._transport.pause_reading()

    def _taken_bytes(self) -> int:
        return self._given_bytes - self.waiting_bytes

    def _release(self, *, stalled: bool = False) -> None:
        """Let the senders that were held back for this link go on, since it drains again, is given up or is gone."""
        self.full, self.stalled = stalled, stalled
        self._patience.end()
        for sender in self._held:
            sender._waits_for.discard(self)
            if not sender._waits_for and sender._transport is not None:
                sender._transport.resume_reading()
        self._held.clear()

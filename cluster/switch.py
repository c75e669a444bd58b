"""The cluster's Ethernet: a userspace learning switch, one unix socket per node.

QEMU's ``-netdev stream`` sends each Ethernet frame with its length in front (four bytes, big-endian; QEMU ``net/stream.c``).
Every node has a listening socket of its own, so the switch knows which node a frame came from and a link between two nodes
can be cut in the one place that all frames pass. :class:`ForwardingTable` and :class:`Faults` are pure; :class:`Switch` moves bytes.

A port whose reader is slow (an emulated node, say) holds its senders back, so nothing is lost; a port that takes nothing at
all for :data:`PATIENCE_S` (a paused node) loses its frames from then on instead of stalling the whole cluster with it.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

HEADER_BYTES = 4
FRAME_BYTES_MIN = 14
"""Two addresses and a type: less is no Ethernet frame."""
FRAME_BYTES_MAX = 4096 + 65536
"""QEMU's own cap (``NET_BUFSIZE``); whoever announces more does not speak our protocol and is hung up on."""
QUEUE_BYTES_MAX = 1 << 20
"""Waiting bytes per port above which its senders are held back: 12 ms at the 640 Mbit/s that two emulated nodes reach."""
PATIENCE_S = 0.25
"""Well above a scheduling hiccup of a busy host, well below etcd's shortest election timeout (1 s)."""
ADDRESSES_MAX = 4096
"""Learned addresses kept; a node has a handful (its NIC, containers on bridges), so more is an attack or a bug in a guest."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with the network on purpose: the ordered pairs (from, to) of node numbers whose frames are dropped."""

    cut: frozenset[tuple[int, int]] = frozenset()

    def cutting(self, source: int, target: int, *, one_way: bool = False) -> Faults:
        """These faults and the link from ``source`` to ``target`` cut, in both directions unless ``one_way``."""
        pairs = {(source, target)} if one_way else {(source, target), (target, source)}
        return dataclasses.replace(self, cut=self.cut | pairs)

    def healing(self, source: int, target: int) -> Faults:
        """These faults with both directions between the two nodes whole again."""
        return dataclasses.replace(self, cut=self.cut - {(source, target), (target, source)})

    def drops(self, source: int, target: int) -> bool:
        """Whether a frame from node ``source`` to node ``target`` is lost."""
        return (source, target) in self.cut


class ForwardingTable:
    """Which port an address was last seen on. Addresses are six bytes, ports are node numbers; nothing here does I/O."""

    def __init__(self, ports: Iterable[int]) -> None:
        ordered = sorted(ports)
        self._others = {port: tuple(other for other in ordered if other != port) for port in ordered}
        self._port_of: dict[bytes, int] = {}

    def route(self, ingress: int, target: bytes, source: bytes) -> tuple[int, ...]:
        """Learn that ``source`` is at ``ingress`` and return the ports that a frame for ``target`` leaves by.

        An unknown or group address (lowest bit of the first byte set) floods to every port but ``ingress``; an address known
        to be at ``ingress`` itself goes nowhere. A group address as source is never learned.
        """
        if self._port_of.get(source) != ingress and not source[0] & 1:
            if source not in self._port_of and len(self._port_of) >= ADDRESSES_MAX:
                del self._port_of[next(iter(self._port_of))]  # the oldest: dicts keep insertion order
            self._port_of[source] = ingress
        egress = None if target[0] & 1 else self._port_of.get(target)
        if egress is None:
            return self._others[ingress]
        return () if egress == ingress else (egress,)

    def forget(self, port: int) -> None:
        """Drop what was learned on ``port``: its node is gone, and may come back elsewhere."""
        self._port_of = {address: at for address, at in self._port_of.items() if at != port}

    def addresses(self) -> Mapping[bytes, int]:
        """A copy of what is known: address to port."""
        return dict(self._port_of)


@dataclass(slots=True)
class Counters:
    """What passed one port since the switch started. ``in`` is from the node, ``out`` to it; drops count at the target."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0
    dropped_cut: int = 0
    dropped_full: int = 0
    dropped_down: int = 0
    dropped_short: int = 0
    connections: int = 0


class Switch:
    """The switch of one cluster. :meth:`start` listens, :meth:`stop` hangs up; both belong to one asyncio event loop."""

    def __init__(self, sockets: Mapping[int, Path], faults: Faults | None = None) -> None:
        """``sockets`` maps a node's number to the path its socket is made at (108 bytes at most, as the kernel has it)."""
        self.faults = faults if faults is not None else Faults()
        self.table = ForwardingTable(sockets)
        self.counters = {port: Counters() for port in sockets}
        self._sockets = dict(sockets)
        self._links: dict[int, _Link] = {}
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen on every port's socket; a path left by a dead switch is replaced. Raises OSError."""
        loop = asyncio.get_running_loop()
        for port, path in self._sockets.items():
            path.unlink(missing_ok=True)
            self._servers.append(await loop.create_unix_server(lambda port=port: _Link(self, port), str(path)))  # type: ignore[misc]

    async def stop(self) -> None:
        """Hang up on every node and remove the sockets."""
        for server in self._servers:
            server.close()
        for link in list(self._links.values()):
            link.abort()
        for path in self._sockets.values():
            path.unlink(missing_ok=True)
        self._servers.clear()

    def connected(self) -> frozenset[int]:
        """The ports that a node is attached to."""
        return frozenset(self._links)

    def attach(self, link: _Link) -> None:
        """Make ``link`` the one connection of its port; a former one is a node that was restarted, and is dropped."""
        former = self._links.get(link.port)
        self._links[link.port] = link
        self.counters[link.port].connections += 1
        if former is not None:
            former.abort()

    def detach(self, link: _Link) -> None:
        """Forget ``link``, unless its port belongs to a newer connection already."""
        if self._links.get(link.port) is link:
            del self._links[link.port]
            self.table.forget(link.port)

    def forward(self, ingress: int, chunk: bytes) -> tuple[int, list[_Link]]:
        """Deliver the whole frames of ``chunk``; returns the bytes used up and the links that are full now.

        Frames for one port are handed over in one write: at full speed there are some forty in a chunk.
        Raises :class:`FrameTooLongError`.
        """
        incoming = self.counters[ingress]
        view = memoryview(chunk)
        batches: dict[int, list[memoryview]] = {}
        position, end = 0, len(chunk)
        while position + HEADER_BYTES <= end:
            length = int.from_bytes(chunk[position : position + HEADER_BYTES], "big")
            if length > FRAME_BYTES_MAX:
                raise FrameTooLongError(length)
            start, position_next = position + HEADER_BYTES, position + HEADER_BYTES + length
            if position_next > end:
                break
            incoming.frames_in += 1
            incoming.bytes_in += length
            if length < FRAME_BYTES_MIN:
                incoming.dropped_short += 1
            else:
                for port in self.table.route(ingress, chunk[start : start + 6], chunk[start + 6 : start + 12]):
                    if self.faults.drops(ingress, port):
                        self.counters[port].dropped_cut += 1
                    else:
                        batches.setdefault(port, []).append(view[position:position_next])
            position = position_next
        full = [link for port, frames in batches.items() if (link := self._deliver(port, frames)) is not None]
        return position, full

    def _deliver(self, port: int, frames: list[memoryview]) -> _Link | None:
        counters, link = self.counters[port], self._links.get(port)
        if link is None:
            counters.dropped_down += len(frames)
            return None
        if link.stalled:
            counters.dropped_full += len(frames)
            return None
        batch = b"".join(frames)
        counters.frames_out += len(frames)
        counters.bytes_out += len(batch) - HEADER_BYTES * len(frames)
        link.send(batch)
        return link if link.full else None


class FrameTooLongError(ValueError):
    """A length prefix above :data:`FRAME_BYTES_MAX`."""


class _Link(asyncio.Protocol):
    """One node's connection. Full: more than :data:`QUEUE_BYTES_MAX` wait for it. Stalled: full for too long, frames are lost."""

    def __init__(self, switch: Switch, port: int) -> None:
        self.port = port
        self.full = False
        self.stalled = False
        self._switch = switch
        self._rest = b""
        self._waits_for: set[_Link] = set()
        self._held: set[_Link] = set()
        self._patience: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=QUEUE_BYTES_MAX)
        self._switch.attach(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self._transport = None
        self._release()
        for target in self._waits_for:
            target._held.discard(self)
        self._switch.detach(self)

    def data_received(self, data: bytes) -> None:
        chunk = self._rest + data if self._rest else data
        try:
            used, full = self._switch.forward(self.port, chunk)
        except FrameTooLongError:
            self.abort()
            return
        self._rest = chunk[used:]
        for target in full:
            self._wait_for(target)

    def pause_writing(self) -> None:
        self.full = True
        self._patience = asyncio.get_running_loop().call_later(PATIENCE_S, self._stall)

    def resume_writing(self) -> None:
        self._release()

    def send(self, batch: bytes) -> None:
        if self._transport is not None:
            self._transport.write(batch)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _wait_for(self, target: _Link) -> None:
        target._held.add(self)
        self._waits_for.add(target)
        if self._transport is not None:
            self._transport.pause_reading()

    def _stall(self) -> None:
        self._release(stalled=True)

    def _release(self, *, stalled: bool = False) -> None:
        """Let the senders that were held back for this link go on, since it drains again, is given up or is gone."""
        self.full, self.stalled = stalled, stalled
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        for sender in self._held:
            sender._waits_for.discard(self)
            if not sender._waits_for and sender._transport is not None:
                sender._transport.resume_reading()
        self._held.clear()

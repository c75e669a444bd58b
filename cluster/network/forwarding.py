"""Which way a frame goes: what a learning switch remembers. Pure; ports are node numbers, addresses are six bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ADDRESSES_MAX = 4096
"""Learned addresses kept.

A node has a handful (its NIC, containers on bridges), so more is an attack or a bug in a guest.
"""


class ForwardingTable:
    """Which port an address was last seen on.

    Addresses are six bytes, ports are node numbers; nothing here does I/O.
    """

    def __init__(self, ports: Iterable[int]) -> None:
        self._others: dict[int, tuple[int, ...]] = {}
        self._port_of: dict[bytes, int] = {}
        self._have(ports)

    def route(self, ingress: int, target: bytes, source: bytes) -> tuple[int, ...]:
        """Learn that ``source`` is at ``ingress`` and return the ports that a frame for ``target`` leaves by.

        An unknown or group address (lowest bit of the first byte set) floods to every port but ``ingress``; an address
        known to be at ``ingress`` itself goes nowhere. A group address as source is never learned.
        """
        if self._port_of.get(source) != ingress and not source[0] & 1:
            if source not in self._port_of and len(self._port_of) >= ADDRESSES_MAX:
                del self._port_of[next(iter(self._port_of))]  # the oldest: dicts keep insertion order
            self._port_of[source] = ingress
        egress = None if target[0] & 1 else self._port_of.get(target)
        if egress is None:
            return self._others[ingress]
        return () if egress == ingress else (egress,)

    def add(self, port: int) -> None:
        """Flood to ``port`` as well."""
        self._have({*self._others, port})

    def remove(self, port: int) -> None:
        """Flood to ``port`` no more, and forget what was learned on it."""
        self._have(set(self._others) - {port})
        self.forget(port)

    def forget(self, port: int) -> None:
        """Drop what was learned on ``port``: its node is gone, and may come back elsewhere."""
        self._port_of = {address: at for address, at in self._port_of.items() if at != port}

    def addresses(self) -> Mapping[bytes, int]:
        """A copy of what is known: address to port."""
        return dict(self._port_of)

    def _have(self, ports: Iterable[int]) -> None:
        ordered = sorted(ports)
        self._others = {port: tuple(other for other in ordered if other != port) for port in ordered}

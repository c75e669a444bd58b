"""The stateless part of this computer on the segment: ARP for its addresses, pings, and datagrams to its services."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from cluster.services import packet
from cluster.services.packet import Arp, Datagram, Frame, Ipv4


class Caller(NamedTuple):
    """Who sent a datagram. ``address`` is 0.0.0.0 for one that has none yet."""

    mac: bytes
    address: bytes


Responder = Callable[[Caller, bytes], "bytes | None"]
"""A service over UDP: its answer to a datagram, None to stay silent."""


class Host:
    """``mac`` has all of ``addresses``, the first of which answers broadcasts."""

    def __init__(self, mac: bytes, addresses: Collection[bytes], services: Mapping[int, Responder]) -> None:
        """``services`` by UDP port."""
        self.mac = mac
        self._addresses = tuple(addresses)
        self._services = dict(services)

    def answer(self, frame: Frame) -> bytes | None:
        """The frame to send for one that came, if any. TCP is not for us: see :meth:`wants`."""
        if frame.kind == packet.ARP:
            return self._arp(frame)
        if frame.kind != packet.IPV4 or frame.target not in (self.mac, packet.BROADCAST_MAC):
            return None
        came = packet.read_ipv4(frame.payload)
        if came is None or came.target not in (*self._addresses, packet.BROADCAST_IP):
            return None
        if came.protocol == packet.ICMP and frame.target == self.mac and came.target != packet.BROADCAST_IP:
            reply = packet.echo_reply(came)
        else:
            reply = self._datagram(frame.source, came)
        return None if reply is None else Frame(frame.source, self.mac, packet.IPV4, reply.bytes()).bytes()

    def wants(self, frame: Frame) -> Ipv4 | None:
        """The packet in a frame that TCP of ours should get."""
        if frame.kind != packet.IPV4 or frame.target != self.mac:
            return None
        came = packet.read_ipv4(frame.payload)
        return came if came is not None and came.protocol == packet.TCP and came.target in self._addresses else None

    def _arp(self, frame: Frame) -> bytes | None:
        question = packet.read_arp(frame.payload)
        if question is None or question.operation != packet.ARP_REQUEST or question.target_ip not in self._addresses:
            return None
        reply = Arp(packet.ARP_REPLY, self.mac, question.target_ip, question.sender_mac, question.sender_ip)
        return Frame(question.sender_mac, self.mac, packet.ARP, reply.bytes()).bytes()

    def _datagram(self, mac: bytes, came: Ipv4) -> Ipv4 | None:
        datagram = packet.read_datagram(came)
        if datagram is None or datagram.target_port not in self._services:
            return None
        said = self._services[datagram.target_port](Caller(mac, came.source), datagram.payload)
        if said is None:
            return None
        source = self._addresses[0] if came.target == packet.BROADCAST_IP else came.target
        # A client without an address receives broadcasts; the frame is addressed to it alone (RFC 2131, section 4.1).
        target = packet.BROADCAST_IP if came.source == packet.ANY_IP else came.source
        reply = Datagram(datagram.target_port, datagram.source_port, said)
        return Ipv4(source, target, packet.UDP, reply.bytes(source, target))

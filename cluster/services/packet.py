"""Ethernet, ARP, IPv4, UDP and ICMP echo as values, as far as a host needs them that only answers.

Sources: RFC 826 (ARP), 791 (IPv4), 768 (UDP), 792 (ICMP), 1071 and 1624 (checksums). Reading returns None for data of
another kind, or cut short, for a wrong checksum, and for a fragment: a host drops these. Addresses are bytes, as on the
wire.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

ARP = 0x0806
IPV4 = 0x0800
ICMP, TCP, UDP = 1, 6, 17
BROADCAST_MAC = b"\xff" * 6
BROADCAST_IP = b"\xff" * 4
ANY_IP = bytes(4)
FRAME_BYTES_MIN = 60
"""Without the check sequence; shorter ones are padded."""
ARP_REQUEST, ARP_REPLY = 1, 2
ECHO_REPLY, ECHO_REQUEST = 0, 8
TTL = 64
_ARP_HEAD = struct.pack(">HHBB", 1, IPV4, 6, 4)
_MORE_FRAGMENTS_OR_OFFSET = 0x3FFF


class Frame(NamedTuple):
    """An Ethernet frame."""

    target: bytes
    source: bytes
    kind: int
    payload: bytes

    def bytes(self) -> bytes:
        """As on the wire."""
        return (self.target + self.source + self.kind.to_bytes(2, "big") + self.payload).ljust(FRAME_BYTES_MIN, b"\0")


class Arp(NamedTuple):
    """A question or an answer about who has an IPv4 address."""

    operation: int
    sender_mac: bytes
    sender_ip: bytes
    target_mac: bytes
    target_ip: bytes

    def bytes(self) -> bytes:
        """As on the wire."""
        return _ARP_HEAD + self.operation.to_bytes(2, "big") + b"".join(self[1:])


class Ipv4(NamedTuple):
    """A packet that is whole; options are dropped in reading."""

    source: bytes
    target: bytes
    protocol: int
    payload: bytes

    def bytes(self, ttl: int = TTL) -> bytes:
        """As on the wire; ``ttl`` is how many hosts may pass it on, itself counted."""
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(self.payload), 0, 0x4000, ttl, self.protocol, 0)
        head += self.source + self.target
        return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + self.payload


class Datagram(NamedTuple):
    """A UDP datagram without its addresses."""

    source_port: int
    target_port: int
    payload: bytes

    def bytes(self, source: bytes, target: bytes) -> bytes:
        """As on the wire between these two addresses."""
        length = 8 + len(self.payload)
        head = struct.pack(">HHHH", self.source_port, self.target_port, length, 0)
        total = checksum(source + target + struct.pack(">BBH", 0, UDP, length) + head + self.payload)
        return head[:6] + (total or 0xFFFF).to_bytes(2, "big") + self.payload  # 0 would mean "none"


def checksum(data: bytes) -> int:
    """The Internet checksum of ``data``; that of data which holds its own checksum is 0."""
    # The sum of 16-bit words in ones' complement is the number that they spell, modulo 2^16 - 1.
    total = int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return ~(total % 0xFFFF or (0xFFFF if total else 0)) & 0xFFFF


def read_frame(frame: bytes) -> Frame | None:
    """The frame in these bytes."""
    return None if len(frame) < 14 else Frame(frame[:6], frame[6:12], int.from_bytes(frame[12:14], "big"), frame[14:])


def read_arp(payload: bytes) -> Arp | None:
    """The ARP message about IPv4 over Ethernet in a frame's payload."""
    if len(payload) < 28 or payload[:6] != _ARP_HEAD:
        return None
    operation = int.from_bytes(payload[6:8], "big")
    return Arp(operation, payload[8:14], payload[14:18], payload[18:24], payload[24:28])


def read_ipv4(payload: bytes) -> Ipv4 | None:
    """The packet in a frame's payload."""
    if len(payload) < 20 or payload[0] >> 4 != 4:
        return None
    head, length = (payload[0] & 15) * 4, int.from_bytes(payload[2:4], "big")
    fragment = int.from_bytes(payload[6:8], "big") & _MORE_FRAGMENTS_OR_OFFSET
    if not 20 <= head <= length <= len(payload) or fragment or checksum(payload[:head]):
        return None
    return Ipv4(payload[12:16], payload[16:20], payload[9], payload[head:length])


def read_datagram(packet: Ipv4) -> Datagram | None:
    """The UDP datagram in a packet."""
    data = packet.payload
    if packet.protocol != UDP or len(data) < 8:
        return None
    source, target, length, total = struct.unpack(">HHHH", data[:8])
    if not 8 <= length <= len(data):
        return None
    pseudo = packet.source + packet.target + struct.pack(">BBH", 0, UDP, length)
    if total and checksum(pseudo + data[:length]):
        return None
    return Datagram(source, target, data[8:length])


def echo_reply(packet: Ipv4) -> Ipv4 | None:
    """The answer to a ping."""
    data = packet.payload
    if packet.protocol != ICMP or len(data) < 8 or data[0] != ECHO_REQUEST or checksum(data):
        return None
    body = bytes([ECHO_REPLY, 0, 0, 0]) + data[4:]
    return Ipv4(packet.target, packet.source, ICMP, body[:2] + checksum(body).to_bytes(2, "big") + body[4:])


def readdressed(packet: Ipv4, *, source: bytes | None = None, target: bytes | None = None) -> Ipv4:
    """A TCP packet with another source or target, and the TCP checksum that goes with it (RFC 1624, equation 3)."""
    new = packet._replace(source=source or packet.source, target=target or packet.target)
    if packet.protocol != TCP or len(packet.payload) < 20:
        return new
    data = packet.payload
    total = 0xFFFF - int.from_bytes(data[16:18], "big")
    for before, after in ((packet.source, new.source), (packet.target, new.target)):
        for word in (0, 2):
            total += 0xFFFF - int.from_bytes(before[word : word + 2], "big")
            total += int.from_bytes(after[word : word + 2], "big")
    total = total % 0xFFFF or 0xFFFF
    return new._replace(payload=data[:16] + (0xFFFF - total).to_bytes(2, "big") + data[18:])

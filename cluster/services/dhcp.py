"""A DHCP server without memory (RFC 2131, options of RFC 2132), for nodes whose user-data sets no address.

A node's address follows from its card, so there is nothing to lease: every offer stays the same for ever. The route to
the metadata service is option 121 (RFC 3442); there is no default route, since the segment leads nowhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network
from typing import NamedTuple

from cluster.model.machine import NETWORK, PREFIX_BITS
from cluster.services.addresses import DOMAIN, METADATA, SERVICES, Neighbour, packed
from cluster.services.host import Caller

PORT = 67
LEASE_S = 86400
BOOT_REQUEST, BOOT_REPLY = 1, 2
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
SUBNET_MASK, DNS_SERVERS, HOST_NAME, DOMAIN_NAME, TIME_SERVERS = 1, 6, 12, 15, 42
REQUESTED_ADDRESS, LEASE_TIME, MESSAGE_TYPE, SERVER, CLASSLESS_ROUTES = 50, 51, 53, 54, 121
PAD, END = 0, 255
_FIXED = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
MESSAGE_BYTES_MIN = 300
"""Of BOOTP (RFC 951), below which old clients drop an answer."""


class Message(NamedTuple):
    """A DHCP message over Ethernet: the fields that either side here uses.

    ``options`` by number, joined as RFC 3396 says.
    """

    operation: int
    transaction: int
    flags: int
    client: bytes
    """``ciaddr``: the address that the client has already, or zeros."""
    yours: bytes
    relay: bytes
    mac: bytes
    options: Mapping[int, bytes]

    def bytes(self) -> bytes:
        """As on the wire."""
        none, mac = bytes(4), self.mac.ljust(16, b"\0")
        head = _FIXED.pack(
            *(self.operation, 1, 6, 0, self.transaction, 0, self.flags),
            *(self.client, self.yours, none, self.relay, mac, b"", b"", _COOKIE),
        )
        options = b"".join(bytes([number, len(value)]) + value for number, value in self.options.items())
        return (head + options + bytes([END])).ljust(MESSAGE_BYTES_MIN, b"\0")


def read(data: bytes) -> Message | None:
    """The message in a datagram, None if it has none."""
    if len(data) < _FIXED.size:
        return None
    operation, kind, length, _, transaction, _, flags, client, yours, _, relay, mac, _, _, cookie = _FIXED.unpack_from(
        data
    )
    if (kind, length, cookie) != (1, 6, _COOKIE):
        return None
    parts: dict[int, bytearray] = {}
    position = _FIXED.size
    while position < len(data) and (number := data[position]) != END:
        position += 1
        if number == PAD:
            continue
        if position == len(data) or (end := position + 1 + data[position]) > len(data):
            return None
        parts.setdefault(number, bytearray()).extend(data[position + 1 : end])
        position = end
    options = {number: bytes(value) for number, value in parts.items()}
    return Message(operation, transaction, flags, client, yours, relay, mac[:6], options)


class AddressServer:
    """Gives ``nodes`` their addresses; other cards get no answer."""

    def __init__(self, nodes: Iterable[Neighbour]) -> None:
        self._nodes = {node.mac: node for node in nodes}

    def __call__(self, caller: Caller, question: bytes) -> bytes | None:
        """The answer to a client's message, if it gets one."""
        request = read(question)
        if request is None or request.operation != BOOT_REQUEST or request.mac != caller.mac:
            return None
        node = self._nodes.get(request.mac)
        if node is None or request.options.get(SERVER, packed(SERVICES)) != packed(SERVICES):
            return None
        address = packed(node.address)
        match request.options.get(MESSAGE_TYPE):
            case b"\x01":
                return self._reply(request, OFFER, address, _lease(node))
            case b"\x03":
                wanted = request.options.get(REQUESTED_ADDRESS, request.client)
                if wanted != address:
                    return self._reply(request, NAK, bytes(4), {})
                return self._reply(request, ACK, address, _lease(node))
            case b"\x08":  # has an address, wants to know the rest
                return self._reply(request, ACK, bytes(4), _settings(node))
            case _:
                return None

    def _reply(self, request: Message, kind: int, yours: bytes, options: Mapping[int, bytes]) -> bytes:
        head = {MESSAGE_TYPE: bytes([kind]), SERVER: packed(SERVICES)}
        client = request.client if kind == ACK else bytes(4)
        reply = request._replace(operation=BOOT_REPLY, client=client, yours=yours, options=head | dict(options))
        return reply.bytes()


def _lease(node: Neighbour) -> dict[int, bytes]:
    return {LEASE_TIME: LEASE_S.to_bytes(4, "big")} | _settings(node)


def _settings(node: Neighbour) -> dict[int, bytes]:
    here = packed(SERVICES)
    return {
        SUBNET_MASK: IPv4Network(f"{NETWORK}.0/{PREFIX_BITS}").netmask.packed,
        CLASSLESS_ROUTES: bytes([32]) + packed(METADATA) + here,
        DNS_SERVERS: here,
        TIME_SERVERS: here,
        HOST_NAME: node.name.encode(),
        DOMAIN_NAME: DOMAIN.encode(),
    }

"""Which networks are a node's own, by the kernel's links, addresses and routes. Pure.

The input is dumps of rtnetlink, the output elements of the table's sets.

A bridge is a card of the node's own if one of its ports is: a network card, a bond, a VLAN. One that has containers
(veth) and virtual machines (tun) only is theirs. A veth is a card where the node is itself a container, by its name;
the end that a container's has on its node is called otherwise.

Source of the format: rtnetlink(7), netlink(7), the kernel's include/uapi/linux/{if_link,if_addr,rtnetlink}.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NEWLINK, NEWADDR, NEWROUTE = 16, 20, 24
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_LINK, _ADDRESS, _ROUTE = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI")
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_INFO_KIND = 3, 10, 18, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA, _RTA_NH_ID = 1, 4, 5, 9, 15, 18, 30
_TYPE = 0x3FFF  # of an attribute, without the flags for nested ones and byte order
_MAIN, _UNICAST, _LOOPBACK, _ETHERNET = 254, 1, 0x8, 1
_OF_CONTAINERS = ("bridge", "veth")
_CARDS = ("en", "eth", "host")
"""How a card is called in a container: docker's and LXC's ``eth0``, systemd-nspawn's ``host0``."""
_CARRIERS = ("", "bond", "vlan")
"""Kinds of link that a cloud gives an address; those of tunnels have single addresses, too."""
_PREFIX_MIN = {socket.AF_INET: 8, socket.AF_INET6: 16}
"""A wider route does not lead to neighbours.

It is a default route without a gateway, or one of the halves of it that VPNs make."""
_PRIVATE = ((0x0A000000, 8), (0x64400000, 10), (0xAC100000, 12), (0xC0A80000, 16))
"""RFC 1918, and RFC 6598 for providers."""


class Neighbours(NamedTuple):
    """Elements of the sets ``near4``, ``near6`` and ``cards``, each sorted."""

    near4: tuple[str, ...] = ()
    near6: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()


class _Card(NamedTuple):
    name: str
    kind: str
    master: int
    is_loopback: bool
    is_ethernet: bool


def neighbours(dump: bytes) -> Neighbours:
    """What follows from all links, addresses and routes of the kernel; what is no message of these is passed over."""
    links: dict[int, _Card] = {}
    addresses: list[tuple[int, bytes]] = []
    routes: list[tuple[int, bytes, int]] = []
    for kind, body in _messages(dump):
        if kind == NEWLINK and len(body) >= _LINK.size:
            _, arp, index, flags, _ = _LINK.unpack_from(body)
            links[index] = _card(_attributes(body[_LINK.size :]), arp == _ETHERNET, bool(flags & _LOOPBACK))
        elif kind == NEWADDR and len(body) >= _ADDRESS.size:
            family, length, _, _, index = _ADDRESS.unpack_from(body)
            found = _attributes(body[_ADDRESS.size :])
            address = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS, b""))
            if family == socket.AF_INET and length == 32 and len(address) == 4:
                addresses.append((index, address))
        elif kind == NEWROUTE and len(body) >= _ROUTE.size:
            routes += _on_link(body)
    own = _own(links)
    near: dict[int, set[str]] = {4: set(), 16: set()}
    for index, network, length in routes:
        if index in own:
            near[len(network)].add(_shown(network, length))
    for index, address in addresses:
        # Clouds route even neighbours (GCE, Hetzner): only the address shows their network.
        if index in own and links[index].is_ethernet and links[index].kind in _CARRIERS:
            near[4].update(_block(address))
    cards = {links[index].name for index in own if links[index].kind in _OF_CONTAINERS}
    return Neighbours(tuple(sorted(near[4])), tuple(sorted(near[16])), tuple(sorted(cards)))


def commands(found: Neighbours) -> str:
    """What ``nft -f`` makes of the table's sets, in one transaction."""
    lines = []
    for name, elements in found._asdict().items():
        lines.append(f"flush set inet flotilla {name}")
        if elements:
            listed = ", ".join(f'"{each}"' for each in elements) if name == "cards" else ", ".join(elements)
            lines.append(f"add element inet flotilla {name} {{ {listed} }}")
    return "\n".join(lines) + "\n"


def _messages(dump: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(dump):
        length, kind, _, _, _ = _HEADER.unpack_from(dump, offset)
        if length < _HEADER.size or offset + length > len(dump):
            return
        yield kind, dump[offset + _HEADER.size : offset + length]
        offset += _aligned(length)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            break
        found[kind & _TYPE] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode("ascii", "replace")


def _number(value: bytes | None) -> int:
    return 0 if value is None or len(value) != 4 else int(struct.unpack("=I", value)[0])


def _card(found: dict[int, bytes], is_ethernet: bool, is_loopback: bool) -> _Card:
    kind = _text(_attributes(found.get(_IFLA_LINKINFO, b"")).get(_IFLA_INFO_KIND, b""))
    return _Card(_text(found.get(_IFLA_IFNAME, b"")), kind, _number(found.get(_IFLA_MASTER)), is_loopback, is_ethernet)


def _own(links: dict[int, _Card]) -> set[int]:
    """The links that are cards of the node's own."""
    bridged = {link.master for link in links.values() if link.kind not in (*_OF_CONTAINERS, "tun") and link.master}
    own = set()
    for index, link in links.items():
        if link.is_loopback:
            continue
        if link.kind == "bridge":
            is_card = index in bridged
        elif link.kind == "veth":
            is_card = not link.master and link.name.startswith(_CARDS)
        else:
            is_card = True
        # Only root can name a link; still, a name goes into the text for nft.
        if is_card and link.name and all(char.isascii() and (char.isalnum() or char in "-_.@") for char in link.name):
            own.add(index)
    return own


def _on_link(body: bytes) -> list[tuple[int, bytes, int]]:
    """(link, network, length of its prefix) of a route to neighbours; nothing of another one."""
    family, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    found = _attributes(body[_ROUTE.size :])
    if kind != _UNICAST or (_number(found.get(_RTA_TABLE)) or table) != _MAIN or family not in _PREFIX_MIN:
        return []
    if found.keys() & {_RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA, _RTA_NH_ID}:
        return []
    size = 4 if family == socket.AF_INET else 16
    network, index = found.get(_RTA_DST, b""), _number(found.get(_RTA_OIF))
    if len(network) != size or not _PREFIX_MIN[family] <= length <= size * 8:
        return []
    if size == 16 and (network[0], network[1] & 0xC0) == (0xFE, 0x80):
        return []  # link-local: the table has it for all cards
    return [(index, network, length)]


def _shown(network: bytes, length: int) -> str:
    family = socket.AF_INET if len(network) == 4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, network)}/{length}"


def _block(address: bytes) -> list[str]:
    """The private block of an address; nothing for a public one."""
    number = int.from_bytes(address, "big")
    for first, length in _PRIVATE:
        if number >> (32 - length) == first >> (32 - length):
            return [_shown(first.to_bytes(4, "big"), length)]
    return []

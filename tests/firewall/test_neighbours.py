"""What the kernel reports of links, addresses and routes, and which networks are a node's own by that."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.keeper import dump
from firewall.neighbours import NEWADDR, NEWLINK, NEWROUTE, Neighbours, commands, neighbours


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 7) + body


def link(index: int, name: str, kind: str = "", *, master: int = 0, arp: int = 1, flags: int = 0x1043) -> bytes:
    body = struct.pack("=BxHiII", 0, arp, index, flags, 0) + attribute(3, name.encode() + b"\0")
    body += attribute(10, struct.pack("=I", master)) if master else b""
    # The kernel's flag for attributes that hold others.
    body += attribute(18 | 0x8000, attribute(1, kind.encode() + b"\0")) if kind else b""
    return message(NEWLINK, body)


def address(index: int, text: str) -> bytes:
    found = ipaddress.ip_interface(text)
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6
    head = struct.pack("=BBBBI", family, found.network.prefixlen, 0, 0, index)
    return message(NEWADDR, head + attribute(1, found.ip.packed) + attribute(2, found.ip.packed))


def route(index: int, text: str, *, via: str = "", table: int = 254, kind: int = 1, more: bytes = b"") -> bytes:
    network = ipaddress.ip_network(text)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    head = struct.pack("=BBBBBBBBI", family, network.prefixlen, 0, 0, min(table, 252), 2, 253, kind, 0)
    body = attribute(15, struct.pack("=I", table)) + attribute(4, struct.pack("=I", index)) + more
    body += attribute(1, network.network_address.packed) if network.prefixlen else b""
    body += attribute(5, ipaddress.ip_address(via).packed) if via else b""
    return message(NEWROUTE, head + body)


LO = link(1, "lo", arp=772, flags=0x9)
ETH = LO + link(2, "eth0")


@pytest.mark.parametrize(
    ("dumped", "near4", "near6"),
    [
        (ETH + route(2, "10.77.0.0/24"), "10.77.0.0/24", ""),
        (ETH + route(2, "2001:db8::/64") + route(2, "fe80::/64"), "", "2001:db8::/64"),
        (ETH + route(2, "10.77.0.0/24") + route(2, "192.168.0.0/16"), "10.77.0.0/24 192.168.0.0/16", ""),
        # To others: by a gateway, by several, by a gateway of another family, by one that has a number.
        (ETH + route(2, "10.9.0.0/16", via="10.77.0.1"), "", ""),
        (ETH + route(2, "10.9.0.0/16", more=attribute(9, bytes(8))), "", ""),
        (ETH + route(2, "10.9.0.0/16", more=attribute(18, bytes(18))), "", ""),
        (ETH + route(2, "10.9.0.0/16", more=attribute(30, bytes(4))), "", ""),
        # To the world, though without a gateway; to no destination; of another table.
        (ETH + route(2, "0.0.0.0/0") + route(2, "128.0.0.0/1") + route(2, "2000::/3"), "", ""),
        (ETH + route(2, "10.9.0.0/16", kind=6), "", ""),
        (ETH + route(2, "10.9.0.0/16", table=1000), "", ""),
        # The loopback, a link that is gone.
        (ETH + route(1, "10.9.0.0/16") + route(3, "10.9.0.0/16"), "", ""),
        # docker's bridge, with and without a container; a container's own end; a bridge of virtual machines.
        (ETH + link(3, "docker0", "bridge") + route(3, "172.17.0.0/16"), "", ""),
        (
            ETH + link(3, "docker0", "bridge") + link(4, "veth1", "veth", master=3) + route(3, "172.17.0.0/16"),
            "",
            "",
        ),
        (ETH + link(3, "ve-web", "veth") + route(3, "192.168.9.0/28"), "", ""),
        (ETH + link(3, "virbr0", "bridge") + link(4, "vnet0", "tun", master=3) + route(3, "192.168.122.0/24"), "", ""),
        # A bond, a VLAN, a tunnel of the node's own.
        (LO + link(2, "bond0", "bond") + route(2, "10.77.0.0/24"), "10.77.0.0/24", ""),
        (ETH + link(3, "wg0", "wireguard", arp=65534) + route(3, "10.9.0.0/16"), "10.9.0.0/16", ""),
        # A cloud that routes neighbours, too: the private block of the address; nothing of a public one, of a tunnel's.
        (ETH + address(2, "10.128.0.5/32"), "10.0.0.0/8", ""),
        (ETH + address(2, "172.31.9.9/32"), "172.16.0.0/12", ""),
        (ETH + address(2, "100.64.0.1/32"), "100.64.0.0/10", ""),
        (ETH + address(2, "192.168.1.1/32"), "192.168.0.0/16", ""),
        (ETH + address(2, "203.0.113.9/32") + address(2, "10.1.1.1/24") + address(2, "fd00::1/128"), "", ""),
        (ETH + address(1, "10.0.2.100/32"), "", ""),
        (ETH + link(3, "flannel.1", "vxlan") + address(3, "10.244.0.0/32"), "", ""),
        (ETH + link(3, "tailscale0", "tun", arp=65534) + address(3, "100.64.0.1/32"), "", ""),
    ],
)
def test_which_networks_are_the_nodes_own(dumped: bytes, near4: str, near6: str) -> None:
    found = neighbours(dumped)
    assert (" ".join(found.near4), " ".join(found.near6)) == (near4, near6)


def test_a_bridge_with_a_card_in_it_is_a_card() -> None:
    dumped = ETH + link(3, "br0", "bridge") + link(4, "enp1s0", master=3) + route(3, "10.77.0.0/24")
    assert neighbours(dumped) == Neighbours(("10.77.0.0/24",), (), ("br0",))
    with_container = dumped + link(5, "veth1", "veth", master=3)
    assert neighbours(with_container).cards == ("br0",)


def test_the_card_of_a_node_that_is_a_container_is_one() -> None:
    for name in ("eth0", "host0"):
        dumped = LO + link(2, name, "veth") + route(2, "172.17.0.0/16")
        assert neighbours(dumped) == Neighbours(("172.17.0.0/16",), (), (name,))
    assert neighbours(LO + link(3, "br0", "bridge") + link(2, "eth9", "veth", master=3)).cards == ()


@pytest.mark.parametrize("name", ['a"', "a}b", "a;b", "\N{EM DASH}", "a$b", "a\\"])
def test_a_name_that_means_something_to_nft_is_no_card(name: str) -> None:
    dumped = LO + link(3, name, "bridge") + link(4, "enp1s0", master=3)
    assert neighbours(dumped).cards == ()


def test_commands() -> None:
    text = commands(Neighbours(("10.77.0.0/24", "10.9.0.0/16"), (), ("br0",)))
    assert text.splitlines() == [
        "flush set inet flotilla near4",
        "add element inet flotilla near4 { 10.77.0.0/24, 10.9.0.0/16 }",
        "flush set inet flotilla near6",
        "flush set inet flotilla cards",
        'add element inet flotilla cards { "br0" }',
    ]


@given(st.binary(max_size=400))
def test_any_bytes_are_read(dumped: bytes) -> None:
    found = neighbours(dumped)
    assert found == neighbours(dumped)


@given(
    st.sampled_from([NEWLINK, NEWADDR, NEWROUTE]).flatmap(
        lambda kind: st.binary(max_size=80).map(lambda body: message(kind, body))
    )
)
def test_a_message_that_says_anything_gives_networks_or_nothing(dumped: bytes) -> None:
    found = neighbours(ETH + dumped)
    for network in (*found.near4, *found.near6):
        assert ipaddress.ip_network(network, strict=False).prefixlen >= 8


def test_what_this_computer_reports() -> None:
    """The kernel itself: its loopback is read, and is no neighbour; networks are well-formed."""
    dumped = dump()
    assert b"lo\0" in dumped
    found = neighbours(dumped)
    assert not [network for network in found.near4 if network.startswith("127.")]
    assert all(ipaddress.ip_network(network) for network in (*found.near4, *found.near6))

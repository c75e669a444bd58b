"""The table ``inet flotilla`` as text for ``nft -f``. Pure.

Loading it replaces the whole table in one transaction (nft(8)) and touches no other one: a packet that one table
refuses is dropped, one that it accepts is also checked by the others. Connections are refused at their first packet
(SYN), without connection tracking: existing connections continue, a node without containers tracks nothing, and a door
may be among the ports that clients use. Only ``strict`` tracks.

A refused client gets ICMP's "administratively prohibited": it learns at once that it was a firewall ("No route to
host", not "Connection refused").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import NamedTuple

ETCD_CLIENTS, ETCD_PEERS, FLEET_API, SSH = 2379, 2380, 2378, 22
# A cloud's metadata service, which gives away user-data and keys: all of IPv4's link-local addresses, EC2's in IPv6,
# and Azure's.
METADATA = ("169.254.0.0/16", "168.63.129.16/32", "fd00:ec2::254/128")

_CONTAINER = 'meta iifkind { "bridge", "veth" } iifname != @cards'
_TO_CONTAINER = 'meta oifkind { "bridge", "veth" } oifname != @cards'
_SYN = "tcp flags & (fin | syn | rst | ack) == syn"
_REFUSE = "counter reject with icmpx admin-prohibited"
_FAMILIES = ((4, "ip", "ipv4_addr"), (6, "ip6", "ipv6_addr"))


class Range(NamedTuple):
    """Ports ``first`` to ``last`` of ``protocol`` (``tcp``, ``udp``)."""

    protocol: str
    first: int
    last: int


class Endpoint(NamedTuple):
    """A service on TCP at a literal ``address``."""

    address: str
    port: int


class Rules(NamedTuple):
    """All that a node's table depends on.

    ``doors`` are TCP ports; ``machines`` networks of the cluster (``10.0.0.0/16``), and ``neighbours`` is whether the
    node's own networks are also included; ``nodes_only`` networks and ``endpoints`` services that containers do not
    reach. With ``strict``, whatever else units publish or bind is closed but for ``allowed``.
    """

    doors: tuple[int, ...] = (FLEET_API, ETCD_CLIENTS, ETCD_PEERS)
    machines: tuple[str, ...] = ()
    neighbours: bool = True
    nodes_only: tuple[str, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    strict: bool = False
    allowed: tuple[Range, ...] = ()


def text(rules: Rules) -> str:
    """The file. The same rules, in whatever order, are the same text. Raises ValueError for an address that is none."""
    lines = [
        "# Who may come in at which door of this node. Loaded by firewall.service; see docs/firewall.md.",
        "table inet flotilla",
        "delete table inet flotilla",
        "table inet flotilla {",
    ]
    for name, comment, body in _parts(rules):
        lines += [
            *(f"    # {line}" for line in comment),
            f"    {name} {{",
            *(f"        {line}" for line in body),
            "    }",
        ]
    return "\n".join((*lines, "}")) + "\n"


def _parts(rules: Rules) -> Iterator[tuple[str, tuple[str, ...], Iterable[str]]]:
    """(head, comment, body) of every set and chain."""
    # Names of the sets with the machines of the cluster.
    whose = ("machines", "near") if rules.neighbours else ("machines",)
    members = [(family, f"@{name}{version}") for name in whose for version, family, _ in _FAMILIES]

    yield "set doors", ("Ports of the node's own services.",), _set("inet_service", map(str, sorted(set(rules.doors))))
    for version, _, kind in _FAMILIES:
        comment = (f"Machines of the cluster that user-data names, IPv{version}.",)
        yield f"set machines{version}", comment, _intervals(kind, _networks(rules.machines, version))
    for version, _, kind in _FAMILIES:
        comment = (f"Networks of the node's own cards, IPv{version}; firewall-neighbours.service keeps it.",)
        yield f"set near{version}", comment, _intervals(kind, ())
    comment = ("Bridges and veths that are cards of the node's own, likewise: behind all others are containers.",)
    yield "set cards", comment, _set("ifname", ())
    if rules.strict:
        for protocol in ("tcp", "udp"):
            yield f"set allowed_{protocol}", (), _intervals("inet_service", _ports(rules.allowed, protocol))

    yield (
        "chain input",
        (),
        (
            "type filter hook input priority filter - 10; policy accept;",
            'iifname "lo" accept',
            f"{_CONTAINER} jump from_container",
            f"{_SYN} jump node",
            *(_STRICT_INPUT if rules.strict else ()),
        ),
    )
    yield (
        "chain forward",
        ("What leaves the node has the node's address then, whoever sent it: containers are stopped here or nowhere.",),
        (
            "type filter hook forward priority filter - 10; policy accept;",
            f"{_TO_CONTAINER} {'jump published' if rules.strict else 'accept'}",
            f"{_CONTAINER} jump from_container",
            *(f"{_SYN} {family} daddr {name} jump node" for family, name in members),
        ),
    )
    yield (
        "chain node",
        ("A connection to a node: this one, or another of the cluster.",),
        ("tcp dport @doors jump door", f"tcp dport {SSH} {_CONTAINER} {_REFUSE}"),
    )
    yield (
        "chain door",
        (),
        (
            f"{_CONTAINER} {_REFUSE}",
            *(f"{family} saddr {name} return" for family, name in members),
            *(("ip6 saddr fe80::/10 return",) if rules.neighbours else ()),
            _REFUSE,
        ),
    )
    yield (
        "chain from_container",
        ("Of hosts that serve the nodes, containers get names.",),
        (
            f"{_SYN} ip daddr 127.0.0.0/8 {_REFUSE}",
            "tcp dport 53 return",
            *_nodes_only(rules),
        ),
    )
    if rules.strict:
        comment = ("What units publish. Between containers of this node, docker's own rules judge.",)
        yield "chain published", comment, _STRICT_PUBLISHED


_STRICT_INPUT = (
    "ct state established,related accept",
    "tcp dport @doors accept",
    f"tcp dport {SSH} accept",
    "meta l4proto { icmp, icmpv6 } accept",
    "udp dport { 68, 546 } accept",
    "tcp dport @allowed_tcp accept",
    "udp dport @allowed_udp accept",
    _REFUSE,
)
_STRICT_PUBLISHED = (
    "ct state established,related accept",
    f"{_CONTAINER} accept",
    # The port of the request: by now it is the container's own.
    "meta l4proto tcp ct original proto-dst @allowed_tcp accept",
    "meta l4proto udp ct original proto-dst @allowed_udp accept",
    _REFUSE,
)


def _nodes_only(rules: Rules) -> Iterator[str]:
    for version, family, _ in _FAMILIES:
        networks = _networks((*METADATA, *rules.nodes_only), version)
        yield f"{_SYN} {family} daddr {{ {', '.join(networks)} }} {_REFUSE}"
    for address, port in sorted(set(rules.endpoints)):
        family = "ip6" if ":" in address else "ip"
        yield f"{_SYN} {family} daddr {ip_network(address).network_address} tcp dport {port} {_REFUSE}"


def _networks(found: Iterable[str], version: int) -> list[str]:
    """Those of a family, sorted, none within another. Raises ValueError."""
    networks = [ip_network(text) for text in found]
    if version == 4:
        return [str(each) for each in collapse_addresses(each for each in networks if isinstance(each, IPv4Network))]
    return [str(each) for each in collapse_addresses(each for each in networks if isinstance(each, IPv6Network))]


def _ports(ranges: Iterable[Range], protocol: str) -> list[str]:
    chosen = sorted({(each.first, each.last) for each in ranges if each.protocol == protocol})
    return [str(first) if first == last else f"{first}-{last}" for first, last in chosen]


def _set(kind: str, elements: Iterable[str]) -> list[str]:
    listed = ", ".join(elements)
    return [f"type {kind};", *([f"elements = {{ {listed} }}"] if listed else [])]


def _intervals(kind: str, elements: Iterable[str]) -> list[str]:
    # Merged by nft: parts of one set may overlap.
    return [*_set(kind, ())[:1], "flags interval; auto-merge;", *_set(kind, elements)[1:]]

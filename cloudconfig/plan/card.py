"""A network card as network-config describes it, and its files for systemd-networkd and udev. Pure.

Formats: systemd.network(5), .netdev(5), .link(5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

FOLDER = "/run/systemd/network"
ETHERNET = "ethernet"
BOND = "bond"
BRIDGE = "bridge"
VLAN = "vlan"
# Options of [Bond] and [Bridge] by netplan's and ifupdown's names; a number of milliseconds needs its unit.
_BOND = {
    "mode": ("Mode", ""),
    "lacp_rate": ("LACPTransmitRate", ""),
    "mii_monitor_interval": ("MIIMonitorSec", "ms"),
    "miimon": ("MIIMonitorSec", "ms"),
    "transmit_hash_policy": ("TransmitHashPolicy", ""),
    "xmit_hash_policy": ("TransmitHashPolicy", ""),
    "min_links": ("MinLinks", ""),
    "up_delay": ("UpDelaySec", "ms"),
    "updelay": ("UpDelaySec", "ms"),
    "down_delay": ("DownDelaySec", "ms"),
    "downdelay": ("DownDelaySec", "ms"),
}
_BRIDGE = {
    "stp": ("STP", ""),
    "forward_delay": ("ForwardDelaySec", ""),
    "fd": ("ForwardDelaySec", ""),
    "hello_time": ("HelloTimeSec", ""),
    "hello": ("HelloTimeSec", ""),
    "max_age": ("MaxAgeSec", ""),
    "maxage": ("MaxAgeSec", ""),
    "priority": ("Priority", ""),
    "bridgeprio": ("Priority", ""),
}
_MODES = ("balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb")


class Route(NamedTuple):
    """A way ``to`` a network, ``via`` an address (empty: on the link itself)."""

    to: str
    via: str
    metric: str = ""
    on_link: bool = False


class Card(NamedTuple):
    """One card or virtual one. ``name`` is its name in network-config, and its own unless something else is matched;
    ``members`` and ``link`` are such names; numbers are text, empty: not set; ``at`` is the key path."""

    name: str
    kind: str
    at: str
    match_name: str = ""
    match_mac: str = ""
    match_driver: str = ""
    set_name: str = ""
    mac: str = ""
    dhcp4: bool = False
    dhcp6: bool = False
    accept_ra: bool | None = None
    addresses: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    mtu: str = ""
    members: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    vlan: str = ""
    link: str = ""
    overrides: tuple[tuple[str, str], ...] = ()


def files_of(cards: Sequence[Card]) -> list[tuple[str, str]]:
    """(path, content) of all files for ``cards``. They go before files of the image, whose names end the alphabet."""
    files: list[tuple[str, str]] = []
    for card in cards:
        stem = f"{FOLDER}/10-netcfg-{card.name}"
        if card.kind != ETHERNET:
            files.append((f"{stem}.netdev", _netdev(card)))
        elif card.set_name:
            files.append(
                (f"{stem}.link", _sections(_match(card), [("[Link]", [("NamePolicy", ""), ("Name", card.set_name)])]))
            )
        above = next((other for other in cards if card.name in other.members), None)
        vlans = [other.name for other in cards if other.kind == VLAN and other.link == card.name]
        files.append((f"{stem}.network", _network(card, above, vlans)))
    return files


def _match(card: Card) -> list[tuple[str, list[tuple[str, str]]]]:
    if card.kind != ETHERNET:
        return [("[Match]", [("Name", card.name)])]
    # The address that a card was made with: bonds and bridges take one of a member's.
    found = [
        ("PermanentMACAddress", card.match_mac),
        ("Driver", card.match_driver),
        ("Name", "" if card.match_mac else card.match_name),
    ]
    if not any(value for _, value in found):
        found = [("Name", card.name)]
    return [("[Match]", found)]


def _network(card: Card, above: Card | None, vlans: list[str]) -> str:
    dhcp = {(True, True): "yes", (True, False): "ipv4", (False, True): "ipv6", (False, False): "no"}[
        card.dhcp4, card.dhcp6
    ]
    accept = {None: "", True: "yes", False: "no"}[card.accept_ra]
    network = [("DHCP", dhcp), ("IPv6AcceptRA", accept)]
    if above is not None:
        network = [({BOND: "Bond", BRIDGE: "Bridge"}.get(above.kind, "Bridge"), above.name)]
        if not card.addresses:
            network.append(("LinkLocalAddressing", "no"))
    network += [("Address", address) for address in card.addresses]
    network += [("DNS", server) for server in card.dns]
    network += [("Domains", " ".join(card.search)), *(("VLAN", name) for name in vlans)]
    sections = [("[Network]", network)]
    sections += [("[Route]", _route(route)) for route in card.routes]
    if card.dhcp4:
        # The name is user-data's, and a lease is the card's, whatever installation runs.
        sections.append(("[DHCPv4]", [("ClientIdentifier", "mac"), ("UseHostname", "no"), *card.overrides]))
    if card.dhcp6:
        sections.append(
            (
                "[DHCPv6]",
                [
                    ("UseHostname", "no"),
                    *(pair for pair in card.overrides if pair[0] not in ("UseRoutes", "RouteMetric", "UseMTU")),
                ],
            )
        )
    sections.append(
        (
            "[Link]",
            [
                ("MTUBytes", card.mtu),
                ("MACAddress", card.mac if card.kind == ETHERNET else ""),
                ("RequiredForOnline", "no"),
            ],
        )
    )
    return _sections(_match(card), sections)


def _route(route: Route) -> list[tuple[str, str]]:
    on_link = "yes" if route.on_link else ""
    return [("Destination", route.to), ("Gateway", route.via), ("Metric", route.metric), ("GatewayOnLink", on_link)]


def _netdev(card: Card) -> str:
    sections = [
        ("[NetDev]", [("Name", card.name), ("Kind", card.kind), ("MTUBytes", card.mtu), ("MACAddress", card.mac)])
    ]
    if card.kind == VLAN:
        sections.append(("[VLAN]", [("Id", card.vlan)]))
    else:
        table = _BOND if card.kind == BOND else _BRIDGE
        options = []
        for name, value in card.parameters:
            if name in table and value:
                option, unit = table[name]
                options.append((option, _value(option, value, unit)))
        sections.append((f"[{card.kind.capitalize()}]", options))
    return _sections(sections)


def _value(option: str, value: str, unit: str) -> str:
    if option == "Mode" and value.isdigit() and int(value) < len(_MODES):
        return _MODES[int(value)]
    if option == "LACPTransmitRate":
        return {"0": "slow", "1": "fast"}.get(value, value)
    if option == "STP":
        return {"on": "yes", "off": "no"}.get(value, value)
    return f"{value}{unit}" if value.isdigit() else value


def _sections(*parts: Iterable[tuple[str, list[tuple[str, str]]]]) -> str:
    """Sections with their options; empty ones are left out, but for a name policy, which an empty value turns off."""
    lines = ["# Made by cloudconfig of network-config."]
    for part in parts:
        for head, options in part:
            kept = [f"{key}={value}" for key, value in options if value or key == "NamePolicy"]
            if kept:
                lines += [head, *kept, ""]
    return "\n".join(lines)

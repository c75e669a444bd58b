"""The key ``firewall``, and the node's table of nftables that follows from it and from the options of etcd and fleet.

Such a table cannot contain host names: what a text gives by name (``discovery: https://discovery.example.org/...``) is
left to the cards' own networks and to ``firewall.cluster``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit

from cloudconfig.text import addresses
from cloudconfig.text.reader import Fields, Reader
from cloudconfig.text.schema import CloudConfig, Firewall
from cloudconfig.text.yamltree import Node, Scalar
from firewall import ruleset
from firewall.ruleset import Endpoint, Range, Rules
from unitfile.name import canonical
from unitfile.text import UnitFile, UnitFileError

MODES = ("open", "strict")
KEYS = ("mode", "cluster", "allow", "nodes_only")
ENTRIES_MAX = 256
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp))?")
_LISTENING = ("listen_client_urls", "listen_peer_urls", "listen_metrics_urls")
_REACHED = ("advertise_client_urls", "initial_advertise_peer_urls")
_FLEET_SOCKET = "fleet.socket"
_Problem: TypeAlias = Callable[[str], tuple[str, str]]


def read(reader: Reader, top: Fields) -> tuple[Firewall, ...]:
    """The key, which exists."""
    path, node = top["firewall"]
    if isinstance(node, Scalar):
        return (Firewall(reader.choice(top, "firewall", MODES) == "strict"),)
    fields = reader.struct(node, path, KEYS)
    strict = reader.choice(fields, "mode", MODES) == "strict"
    allowed = _entries(reader, fields, "allow", _port_problem)
    if allowed and not strict:
        reader.warn(fields["allow"][1], "firewall.allow", "all is open that units publish", "add mode: strict")
    cluster = _entries(reader, fields, "cluster", _network_problem)
    if "cluster" in fields and not cluster:
        reader.error(
            fields["cluster"][1],
            "firewall.cluster",
            "names no machine",
            "leave it out to admit the networks of the node's cards",
        )
    return (Firewall(strict, cluster, allowed, _entries(reader, fields, "nodes_only", _network_problem)),)


def rules(config: CloudConfig) -> Rules:
    """The table's rules; ``config`` has passed validation and has one :class:`Firewall` at most."""
    etcd, fleet = dict(config.etcd), dict(config.fleet)
    wanted = config.firewall[0] if config.firewall else Firewall()
    members = list(_urls(etcd.get("initial_cluster", "")))
    doors = {ruleset.FLEET_API, ruleset.ETCD_CLIENTS, ruleset.ETCD_PEERS}
    for key in (*_LISTENING, *_REACHED):
        doors.update(port for host, port in _urls(etcd.get(key, "")) if not _is_loopback(host))
    doors.update(port for _, port in members)
    doors.update(_api_ports(config))
    doors.update(port for host, port in _urls(fleet.get("api_listen", "")) if not _is_loopback(host))
    served = [*_urls(etcd.get("discovery", "")), *_urls(etcd.get("discovery_proxy", ""))]
    served += _urls(fleet.get("etcd_servers", ""))
    return Rules(
        doors=tuple(sorted(doors)),
        machines=(*map(_network, wanted.cluster), *(host for host, _ in members if _is_address(host))),
        neighbours=not wanted.cluster,
        nodes_only=tuple(map(_network, wanted.nodes_only)),
        endpoints=tuple(Endpoint(host, port) for host, port in served if _is_address(host) and not _is_loopback(host)),
        strict=wanted.strict,
        allowed=tuple(map(_range, wanted.allow)),
    )


def file(config: CloudConfig) -> str:
    """The node's table; empty if it is that of the image."""
    if not (config.firewall or config.etcd or config.fleet or any(_is_api(unit.name) for unit in config.units)):
        return ""
    found = rules(config)
    return "" if found == Rules() else ruleset.text(found)


def _entries(reader: Reader, fields: Fields, key: str, problem: _Problem) -> tuple[str, ...]:
    """The entries of a list that are what they should be; one alone needs no list."""
    found: list[str] = []
    entries: list[tuple[str, Node]] = []
    if key in fields:
        is_alone = isinstance(fields[key][1], Scalar)
        entries = [fields[key]] if is_alone else reader.items(fields, key)
    if len(entries) > ENTRIES_MAX:
        reader.error(fields[key][1], fields[key][0], f"more than {ENTRIES_MAX} entries")
        return ()
    for path, node in entries:
        if not isinstance(node, Scalar) or node.binary:
            reader.error(node, path, "must be text")
            continue
        reader.mark(path, node)
        message, hint = problem(node.text)
        if message:
            reader.error(node, path, message, hint)
        else:
            found.append(node.text)
    return tuple(found)


def _network_problem(text: str) -> tuple[str, str]:
    try:
        is_all = _network(text).endswith("/0")
    except ValueError:
        return "not an address or a network", "for example: 10.77.0.0/24, 10.77.0.11, fd00::/64"
    return ("includes every address", "a network of your own, or an address") if is_all else ("", "")


def _network(text: str) -> str:
    """``10.77.0.11/24`` is ``10.77.0.0/24``, so that ``$private_ipv4/24`` is the node's own network.

    Raises ValueError."""
    return str(ip_network(addresses.sample(text), strict=False))


def _port_problem(text: str) -> tuple[str, str]:
    match = _PORTS.fullmatch(text)
    if not match or not 0 < int(match[1]) <= int(match[2] or match[1]) < 1 << 16:
        return "not a port", "for example: 80, 443/tcp, 53/udp, 8000-8100"
    return "", ""


def _range(text: str) -> Range:
    match = _PORTS.fullmatch(text)
    assert match is not None, text
    return Range(match[3] or "tcp", int(match[1]), int(match[2] or match[1]))


def _urls(text: str) -> Iterator[tuple[str, int]]:
    """(host, port) of each of ``[NAME=]URL,...``; other values are skipped: etcd and fleet report them."""
    for piece in text.split(","):
        url = piece.strip()
        name, equals, rest = url.partition("=")
        try:
            parts = urlsplit(rest if equals and "/" not in name else url)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        except ValueError:
            continue
        if port:
            yield parts.hostname or "", port


def _api_ports(config: CloudConfig) -> Iterator[int]:
    """Where fleet's API listens besides its socket in /run."""
    for unit in config.units:
        if not _is_api(unit.name):
            continue
        for text in (unit.content or "", *(drop_in.content for drop_in in unit.drop_ins)):
            yield from map(int, filter(_is_port, (value.rpartition(":")[2] for value in _streams(text))))


def _streams(text: str) -> tuple[str, ...]:
    try:
        return UnitFile.parse(text).get("Socket", "ListenStream")
    except UnitFileError:
        return ()


def _is_api(name: str) -> bool:
    return canonical(name) == _FLEET_SOCKET


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 1 << 16


def _is_address(text: str) -> bool:
    try:
        return "%" not in text and bool(ip_address(text))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)

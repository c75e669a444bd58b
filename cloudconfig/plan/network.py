"""network-config of NoCloud, versions 1 and 2 (netplan's), as files of systemd-networkd below /run/systemd/network.

Formats: cloud-init's "Networking config Version 1" and "Version 2". Both become :class:`Card` values
(:mod:`cloudconfig.plan.card` writes those out). Settings without an equivalent in networkd are skipped with a warning;
a broken one is an error, and then nothing of it is used: cards use DHCP, as without it.
"""

from __future__ import annotations

import re

from cloudconfig.plan.card import BOND, BRIDGE, ETHERNET, VLAN, Card, Route, files_of
from cloudconfig.text import yamltree
from cloudconfig.text.finding import ERROR, Finding
from cloudconfig.text.reader import Fields, Reader, kind
from cloudconfig.text.schema import WriteFile
from cloudconfig.text.yamltree import Mapping, Node, Scalar

AT = "network-config"
CARDS_MAX = 256
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_PATTERN = re.compile(r"[A-Za-z0-9_.*?\[\]-]{1,64}")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")
_DOMAIN = re.compile(r"~?[A-Za-z0-9_.-]{1,253}|~\.")
_COMMON = [
    "accept_ra",
    "addresses",
    "critical",
    "dhcp4",
    "dhcp4_overrides",
    "dhcp6",
    "dhcp6_overrides",
    "dhcp_identifier",
    "gateway4",
    "gateway6",
    "interfaces",
    "link_local",
    "macaddress",
    "match",
    "mtu",
    "nameservers",
    "optional",
    "parameters",
    "renderer",
    "routes",
    "set_name",
    "id",
    "link",
    "wakeonlan",
]
_OVERRIDES = {
    "route_metric": "RouteMetric",
    "use_dns": "UseDNS",
    "use_domains": "UseDomains",
    "use_mtu": "UseMTU",
    "use_ntp": "UseNTP",
    "use_routes": "UseRoutes",
}
_KINDS = {"ethernets": ETHERNET, "bonds": BOND, "bridges": BRIDGE, "vlans": VLAN}
_V1_KINDS = {"physical": ETHERNET, "bond": BOND, "bridge": BRIDGE, "vlan": VLAN}
_DHCP = {"dhcp": (True, False), "dhcp4": (True, False), "dhcp6": (False, True), "ipv6_dhcpv6-stateful": (False, True)}
_SLAAC = ("ipv6_slaac", "ipv6_dhcpv6-stateless")


def read(data: bytes) -> tuple[tuple[WriteFile, ...], tuple[Finding, ...]]:
    """The files that a network-config becomes (none if there is an error), and the findings about it."""
    tree = yamltree.read(data.decode("utf-8", "replace"))
    reader = _Reader()
    cards = reader.cards(tree.root) if tree.root is not None else []
    findings = (*tree.findings, *reader.findings)
    if any(finding.severity == ERROR for finding in findings):
        return (), findings
    return tuple(WriteFile(path, text.encode(), 0o644, "root:root", AT) for path, text in files_of(cards)), findings


class _Reader(Reader):
    """Reads both versions. An error names the key path within network-config."""

    def cards(self, root: Node) -> list[Card]:
        fields = self.struct(root, "", ("network", "version", "config", "renderer", *_KINDS))
        if "network" in fields:
            path, node = fields["network"]
            fields = self.struct(node, path, ("version", "config", "renderer", *_KINDS))
        config = fields.get("config")
        if config is not None and isinstance(config[1], Scalar) and config[1].text == "disabled":
            return []
        version = self.choice(fields, "version", ("1", "2"))
        if "version" not in fields:
            self.error(root, "version", "is missing", "version: 2")
        cards = self._version_1(fields) if version == "1" else self._version_2(fields)
        if len(cards) > CARDS_MAX:
            self.error(root, "", f"more than {CARDS_MAX} cards")
            return []
        names = {card.name for card in cards}
        for card in cards:
            for member in (*card.members, *((card.link,) if card.link else ())):
                if member not in names:
                    self.error(
                        root,
                        card.at,
                        "names a card that is not described",
                        "each of interfaces, link has an entry of its own",
                    )
        return cards

    # --- version 2

    def _version_2(self, fields: Fields) -> list[Card]:
        cards: list[Card] = []
        for section, kind_ in _KINDS.items():
            if section not in fields:
                continue
            path, node = fields[section]
            if not isinstance(node, Mapping):
                self.error(node, path, f"must be a mapping of names, is {kind(node)}")
                continue
            for key, value in node.pairs:
                card = self._card(key, value, f"{path}.{key.text[:64]}", kind_)
                if card is not None:
                    cards.append(card)
        return cards

    def _card(self, key: Scalar, node: Node, path: str, kind_: str) -> Card | None:
        fields = self.struct(node, path, _COMMON)
        self.mark(path, key)
        if not _NAME.fullmatch(key.text):
            self.error(key, path, "not the name of a card", "15 letters and digits at most")
            return None
        match = self.section(fields, "match", ("name", "macaddress", "driver"))
        overrides: list[tuple[str, str]] = []
        for section in ("dhcp4_overrides", "dhcp6_overrides"):
            values = self.section(fields, section, (*_OVERRIDES, "use_hostname", "send_hostname", "hostname"))
            for name, option in _OVERRIDES.items():
                if name in values:
                    number = self.number(values, name, "integer") if name == "route_metric" else None
                    overrides.append(
                        (option, number or ("yes" if self.bool(values, name) else "no"))
                        if number or name != "route_metric"
                        else (option, "1024")
                    )
        servers = self.section(fields, "nameservers", ("addresses", "search"))
        routes = [route for inner, item in self.items(fields, "routes") if (route := self._route(item, inner))]
        for name, everywhere in (("gateway4", "0.0.0.0/0"), ("gateway6", "::/0")):
            if name in fields:
                routes.append(Route(everywhere, self._address(fields, name)))
        return Card(
            name=key.text,
            kind=kind_,
            at=path,
            match_name=self._shaped(match, "name", _PATTERN, "not a name or pattern"),
            match_mac=self._shaped(match, "macaddress", _MAC, "not a MAC address").lower(),
            match_driver=self._shaped(match, "driver", _PATTERN, "not the name of a driver"),
            set_name=self._shaped(fields, "set_name", _NAME, "not the name of a card"),
            mac=self._shaped(fields, "macaddress", _MAC, "not a MAC address"),
            dhcp4=self.bool(fields, "dhcp4") or False,
            dhcp6=self.bool(fields, "dhcp6") or False,
            accept_ra=self.bool(fields, "accept_ra"),
            addresses=tuple(self._networks(fields, "addresses")),
            routes=tuple(routes),
            dns=tuple(self._addresses(servers, "addresses")),
            search=tuple(self._domains(servers, "search")),
            mtu=self.number(fields, "mtu", "integer") or "",
            members=self.words(fields, "interfaces"),
            parameters=self._parameters(fields, "parameters"),
            vlan=self.number(fields, "id", "integer") or "",
            link=self.text(fields, "link"),
            overrides=tuple(dict(overrides).items()),
        )

    def _route(self, node: Node, path: str) -> Route | None:
        fields = self.struct(node, path, ("to", "via", "metric", "on_link", "table", "type", "scope", "from"))
        to = self.text(fields, "to")
        via = self._address(fields, "via") if "via" in fields else ""
        if to in ("default", "0.0.0.0/0", "::/0", ""):
            to = "::/0" if ":" in via or to == "::/0" else "0.0.0.0/0"
        elif not _network(to):
            self.error(node, f"{path}.to", "not a network", "for example: 10.1.0.0/16")
            return None
        return Route(to, via, self.number(fields, "metric", "integer") or "", self.bool(fields, "on_link") or False)

    # --- version 1

    def _version_1(self, fields: Fields) -> list[Card]:
        cards: list[Card] = []
        everywhere: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
        loose: list[Route] = []
        for path, node in self.items(fields, "config"):
            known = [
                "accept_ra",
                "address",
                "bond_interfaces",
                "bridge_interfaces",
                "destination",
                "gateway",
                "interface",
                "mac_address",
                "metric",
                "mtu",
                "name",
                "netmask",
                "network",
                "params",
                "search",
                "subnets",
                "type",
                "vlan_id",
                "vlan_link",
            ]
            entry = self.struct(node, path, known)
            type_ = self.required(entry, "type", path, node)
            if type_ == "nameserver":
                everywhere.append((tuple(self._addresses(entry, "address")), tuple(self._domains(entry, "search"))))
            elif type_ == "route":
                loose += self._route_1(entry, node, path)
            elif type_ in _V1_KINDS:
                card = self._card_1(entry, node, path, _V1_KINDS[type_])
                if card is not None:
                    cards.append(card)
            elif type_ and type_ != "loopback":
                self.error(
                    node, path, "is of no known type", f"one of: {', '.join((*_V1_KINDS, 'nameserver', 'route'))}"
                )
        # Servers and routes of no card belong to all cards that have an address.
        dns = tuple(server for servers, _ in everywhere for server in servers)
        search = tuple(domain for _, domains in everywhere for domain in domains)
        for index, card in enumerate(cards):
            if card.addresses or card.dhcp4 or card.dhcp6:
                cards[index] = card._replace(
                    dns=(*card.dns, *dns), search=(*card.search, *search), routes=(*card.routes, *loose)
                )
                loose = []
        return cards

    def _card_1(self, entry: Fields, node: Node, path: str, kind_: str) -> Card | None:
        name = self._shaped(entry, "name", _NAME, "not the name of a card")
        if not name:
            self.required(entry, "name", path, node)
            return None
        mac = self._shaped(entry, "mac_address", _MAC, "not a MAC address").lower()
        card = Card(
            name=name,
            kind=kind_,
            at=path,
            match_mac=mac if kind_ == ETHERNET else "",
            match_name="" if mac and kind_ == ETHERNET else name,
            set_name=name if mac and kind_ == ETHERNET else "",
            mac=mac if kind_ != ETHERNET else "",
            mtu=self.number(entry, "mtu", "integer") or "",
            accept_ra=self.bool(entry, "accept_ra"),
            members=(*self.words(entry, "bond_interfaces"), *self.words(entry, "bridge_interfaces")),
            parameters=self._parameters(entry, "params"),
            vlan=self.number(entry, "vlan_id", "integer") or "",
            link=self.text(entry, "vlan_link"),
        )
        for inner, item in self.items(entry, "subnets"):
            card = self._subnet(card, item, inner)
        return card

    def _subnet(self, card: Card, node: Node, path: str) -> Card:
        known = (
            "type",
            "address",
            "netmask",
            "gateway",
            "dns_nameservers",
            "dns_search",
            "routes",
            "control",
            "broadcast",
            "scope",
            "pointopoint",
        )
        fields = self.struct(node, path, (*known, "ipv4", "ipv6", "metric"))
        type_ = self.required(fields, "type", path, node)
        routes = list(card.routes)
        addresses = list(card.addresses)
        if type_ in _DHCP:
            card = card._replace(dhcp4=card.dhcp4 or _DHCP[type_][0], dhcp6=card.dhcp6 or _DHCP[type_][1])
        elif type_ in _SLAAC:
            card = card._replace(accept_ra=True)
        elif type_ in ("static", "static6"):
            address = self.required(fields, "address", path, node)
            mask = self.text(fields, "netmask")
            whole = _network(address if "/" in address or not mask else f"{address}/{mask}", host=True)
            if address and not whole:
                self.error(node, f"{path}.address", "not an address with its network", "for example: 10.0.0.5/24")
            addresses.append(whole)
        elif type_ not in ("manual", ""):
            self.error(
                node,
                f"{path}.type",
                "is of no known type",
                f"one of: {', '.join((*_DHCP, *_SLAAC, 'static', 'static6', 'manual'))}",
            )
        if "gateway" in fields:
            via = self._address(fields, "gateway")
            routes.append(Route("::/0" if ":" in via else "0.0.0.0/0", via))
        for inner, item in self.items(fields, "routes"):
            route = self.struct(item, inner, ("network", "destination", "netmask", "prefix", "gateway", "metric"))
            routes += self._route_1(route, item, inner)
        return card._replace(
            routes=tuple(routes),
            addresses=tuple(address for address in addresses if address),
            dns=(*card.dns, *self._addresses(fields, "dns_nameservers")),
            search=(*card.search, *self._domains(fields, "dns_search")),
        )

    def _route_1(self, fields: Fields, node: Node, path: str) -> list[Route]:
        to = self.text(fields, "destination") or self.text(fields, "network")
        mask = self.text(fields, "netmask") or self.text(fields, "prefix")
        whole = _network(to if "/" in to or not mask else f"{to}/{mask}")
        if not whole:
            self.error(node, path, "not a route to a network", "destination: 10.1.0.0/16")
            return []
        return [Route(whole, self._address(fields, "gateway"), self.number(fields, "metric", "integer") or "")]

    # --- values

    def _shaped(self, fields: Fields, key: str, shape: re.Pattern[str], message: str) -> str:
        text = self.text(fields, key)
        if text and not shape.fullmatch(text):
            self.error(fields[key][1], fields[key][0], message)
            return ""
        return text

    def _list(self, fields: Fields, key: str) -> list[tuple[str, Node, str]]:
        """A list of words, or one word with blanks.

        An entry may be a mapping with the word as its key (netplan's addresses)."""
        if key in fields and isinstance(fields[key][1], Scalar):
            path, node = fields[key]
            return [(path, node, word) for word in self.text(fields, key).replace(",", " ").split()]
        found: list[tuple[str, Node, str]] = []
        for path, node in self.items(fields, key):
            inner = node.pairs[0][0] if isinstance(node, Mapping) and node.pairs else node
            if isinstance(inner, Scalar):
                found.append((path, inner, inner.text))
            else:
                self.error(node, path, f"must be text, is {kind(node)}")
        return found

    def _networks(self, fields: Fields, key: str) -> list[str]:
        found = []
        for path, node, text in self._list(fields, key):
            if "/" not in text or not _network(text, host=True):
                self.error(node, path, "not an address with its network", "for example: 10.0.0.5/24")
            found.append(text)
        return found

    def _addresses(self, fields: Fields, key: str) -> list[str]:
        found = []
        for path, node, text in self._list(fields, key):
            if not _is_address(text):
                self.error(node, path, "not an IP address")
            found.append(text)
        return found

    def _domains(self, fields: Fields, key: str) -> list[str]:
        found = []
        for path, node, text in self._list(fields, key):
            if not _DOMAIN.fullmatch(text):
                self.error(node, path, "not a domain")
            found.append(text)
        return found

    def _address(self, fields: Fields, key: str) -> str:
        text = self.text(fields, key)
        if key in fields and not _is_address(text):
            self.error(fields[key][1], fields[key][0], "not an IP address")
            return ""
        return text

    def _parameters(self, fields: Fields, key: str) -> tuple[tuple[str, str], ...]:
        """Parameters of bonds and bridges, by their names without ``bond_`` and ``bridge_``."""
        path, node = fields.get(key, ("", None))
        if not isinstance(node, Mapping):
            return ()
        found = []
        for name, value in node.pairs:
            if isinstance(value, Scalar) and re.fullmatch(r"[A-Za-z0-9_.+:-]{0,64}", value.text):
                found.append((re.sub(r"^(bond|bridge)_", "", name.text.replace("-", "_")), value.text))
            else:
                self.error(value, f"{path}.{name.text[:64]}", "must be a word or a number")
        return tuple(found)


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _network(text: str, *, host: bool = False) -> str:
    """``text`` as address and prefix length (masks are understood), of a network or of a ``host`` in it.

    Empty if it is neither."""
    import ipaddress

    try:
        if host:
            return str(ipaddress.ip_interface(text))
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        return ""

"""The addresses of a machine, and CoreOS's four variables for them.

They are ``$private_ipv4``, ``$public_ipv4``, ``$private_ipv6``, ``$public_ipv6``, also with braces.

``\\$private_ipv4`` is the text itself, without the backslash. In a node's text they are replaced before it is parsed.
Their values come from, in this order: the metadata of a cloud; an address that the text itself gives a card
(``Address=`` in a .network file, a static one in network-config); the addresses that networkd has obtained for the
cards, first that of the default route. Without a public address the private one counts for both, as in CoreOS's own
examples.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from terminal import Failure

NAMES = ("private_ipv4", "public_ipv4", "private_ipv6", "public_ipv6")
ENVIRONMENT = "/etc/environment"
WAIT_S = 120.0
PAUSE_S = 0.5
VARIABLE = re.compile(rf"(\\)?\$(?:\{{({'|'.join(NAMES)})\}}|({'|'.join(NAMES)})(?![A-Za-z0-9_]))")
_MENTIONED = re.compile(r"COREOS_(?:PRIVATE|PUBLIC)_IPV[46]|/etc/environment")
_STATIC = re.compile(r"^[ \t]*Address[ \t]*=[ \t]*([0-9A-Fa-f.:]{2,45})(?:/[0-9]{1,3})?[ \t]*$", re.MULTILINE)
_SECTION = re.compile(r"^coreos[ \t]*:", re.MULTILINE)
# docker's and its like: addresses of bridges are no machine's.
_VIRTUAL = ("lo", "docker", "br-", "veth", "virbr", "flannel", "cni", "tun", "tap", "wg")


def used(text: str) -> frozenset[str]:
    """The variables whose values ``text`` takes.

    Comments from the first column on do not count, escaped ones neither."""
    plain = "\n".join(line for line in text.split("\n") if not line.startswith("#"))
    return frozenset(match[2] or match[3] for match in VARIABLE.finditer(plain) if not match[1])


def wants_environment(text: str) -> bool:
    """Whether ``text`` is one of CoreOS's kind, whose units look into /etc/environment."""
    return bool(_SECTION.search(text))


def mentions_environment(text: str) -> bool:
    """Whether ``text`` itself looks there."""
    return bool(_MENTIONED.search(text))


def substitute(text: str, values: Mapping[str, str]) -> str:
    """``text`` with its variables replaced, in one pass.

    A name without a value is not replaced: callers check :func:`used` first."""

    def value(match: re.Match[str]) -> str:
        return match[0][1:] if match[1] else values.get(match[2] or match[3]) or match[0]

    return VARIABLE.sub(value, text)


def sample(text: str) -> str:
    """``text`` with an address of each kind in the place of variables, for checks of a value's shape."""
    return VARIABLE.sub(lambda match: "2001:db8::1" if (match[2] or match[3]).endswith("6") else "192.0.2.1", text)


def may_be_static(text: str) -> bool:
    """Whether it is worth while to look for static addresses in ``text``."""
    return bool(_STATIC.search(text))


def given(texts: Iterable[str]) -> dict[str, str]:
    """The values that follow from static addresses in ``texts``, networkd's files."""
    return sort(address for text in texts for address in _STATIC.findall(text))


def sort(found: Iterable[str]) -> dict[str, str]:
    """The first private and the first public address of each family."""
    import ipaddress  # not for texts without variables

    values: dict[str, str] = {}
    for text in found:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            continue
        if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
            continue
        kind = "public" if address.is_global else "private"
        values.setdefault(f"{kind}_ipv{address.version}", str(address))
    return values


def complete(values: Mapping[str, str]) -> dict[str, str]:
    """``values``, where one of private and public is used for both if the other is missing."""
    whole = dict(values)
    for version in "46":
        pair = (f"private_ipv{version}", f"public_ipv{version}")
        for one, other in (pair, pair[::-1]):
            if not whole.get(one) and values.get(other):
                whole[one] = values[other]
    return whole


def environment(values: Mapping[str, str]) -> str:
    """Lines of /etc/environment, in CoreOS's names."""
    return "".join(f"COREOS_{name.upper()}={values[name]}\n" for name in NAMES if values.get(name))


def wait(
    names: Iterable[str],
    known: Mapping[str, str],
    look: Callable[[], Mapping[str, str]],
    *,
    wait_s: float = WAIT_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, str]:
    """``known`` and the result of :func:`cards` (``look``), as soon as all ``names`` have a value.

    Raises Failure, naming the first that has none."""
    end = clock() + wait_s
    while True:
        values = complete({**look(), **{name: value for name, value in known.items() if value}})
        missing = [name for name in NAMES if name in set(names) and not values.get(name)]
        if not missing:
            return values
        if clock() >= end:
            raise Failure(
                f"${missing[0]}: no card has such an address after {wait_s:g} s",
                hint="networkctl status; write the address out, or \\$ before a name that means a variable of your own",
            )
        sleep(PAUSE_S)


def cards(system: Path = Path("/")) -> dict[str, str]:
    """The addresses of the machine's network cards, those of the default route's card first."""
    first = _default(system)
    names = sorted(_names(system), key=lambda name: (name != first, name))
    found = [address for name in names for address in _ipv4(name)]
    found += [address for name in names for address in _ipv6(name, system)]
    return sort(found)


def _names(system: Path) -> list[str]:
    try:
        return [path.name for path in (system / "sys/class/net").iterdir() if not path.name.startswith(_VIRTUAL)]
    except OSError:
        return []


def _default(system: Path) -> str:
    """The card of the IPv4 default route (proc(5), net/route); empty without one."""
    try:
        lines = (system / "proc/net/route").read_text("ascii", "replace").splitlines()[1:]
    except OSError:
        return ""
    routes = [fields for line in lines if len(fields := line.split()) > 7 and fields[1] == "00000000"]
    return min(routes, key=lambda fields: int(fields[6]) if fields[6].isdigit() else 1 << 32)[0] if routes else ""


def _ipv4(name: str) -> list[str]:
    """The card's own address, by the ioctl that every Linux has."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
        except OSError:
            return []
    return [socket.inet_ntoa(answer[20:24])]


def _ipv6(name: str, system: Path) -> list[str]:
    """The card's global addresses (proc(5), net/if_inet6).

    These have scope 00 and are not tentative (0x40), temporary (0x01) or deprecated (0x20)."""
    import ipaddress

    try:
        lines = (system / "proc/net/if_inet6").read_text("ascii", "replace").splitlines()
    except OSError:
        return []
    return [
        str(ipaddress.IPv6Address(int(fields[0], 16)))
        for line in lines
        if len(fields := line.split()) == 6
        and fields[5] == name
        and fields[3] == "00"
        and not int(fields[4], 16) & 0x61
    ]

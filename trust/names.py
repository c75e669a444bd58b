"""Names and addresses that a certificate may be issued for: read from what a person or a template wrote."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from terminal import UsageFailure

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

NAME_MAX: Final = 64
"""Characters of a common name (ub-common-name of RFC 5280, appendix A.1), and of a Linux host name."""
ADDRESSES_MAX: Final = 100
_HOST_MAX = 253
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\Z", re.IGNORECASE | re.ASCII)
_USER = re.compile(r"[a-z0-9_](?:[a-z0-9_.@+-]*[a-z0-9_])?\Z", re.IGNORECASE | re.ASCII)


def node_name(text: str) -> str:
    """The name of a node, in lower case: a host name of :data:`NAME_MAX` characters at most. Raises UsageFailure."""
    _check_length(text)
    if not _is_host(text):
        raise UsageFailure(
            "no name of a node",
            where=repr(text),
            hint="letters, digits, hyphens and dots, as in node-1 or n1.example.net",
        )
    return text.lower()


def user_name(text: str) -> str:
    """The name of a user, as it was written. Raises UsageFailure."""
    _check_length(text)
    if not _USER.match(text):
        raise UsageFailure(
            "no name of a user", where=repr(text), hint="letters, digits and _.@+- as in kim or kim@example.net"
        )
    return text


def address(text: str) -> Address | str:
    """An IP address that one machine may have, or a host name in lower case. Raises UsageFailure."""
    where = repr(text[: _HOST_MAX + 1])
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return _host(text, where)
    if isinstance(found, ipaddress.IPv6Address):
        if found.scope_id is not None:
            raise UsageFailure("an address with a zone", where=where, hint="a certificate has none: leave %... away")
        if found.ipv4_mapped is not None:
            raise UsageFailure("an IPv4 address in IPv6 dress", where=where, hint=f"write {found.ipv4_mapped}")
    if found.is_unspecified or found.is_multicast or found == ipaddress.IPv4Address("255.255.255.255"):
        raise UsageFailure(
            "not the address of one machine", where=where, hint="name the address that others reach it at"
        )
    return found


def addresses(texts: Iterable[str]) -> tuple[Address | str, ...]:
    """All of them, each once, in their order. Raises UsageFailure, also for more than :data:`ADDRESSES_MAX`."""
    found = tuple(dict.fromkeys(map(address, texts)))
    if len(found) > ADDRESSES_MAX:
        raise UsageFailure(f"{len(found)} addresses", hint=f"a certificate has {ADDRESSES_MAX} at most")
    return found


def _check_length(text: str) -> None:
    if len(text) > NAME_MAX:
        raise UsageFailure(
            f"a name of more than {NAME_MAX} characters", where=f"{text[:NAME_MAX]}...", hint="shorten it"
        )


def _host(text: str, where: str) -> str:
    if _is_host(text):
        return text.lower()
    hint = "write an IP address, or a host name"
    if "*" in text:
        hint = "a node has its own names only: write each of them"
    elif "/" in text:
        hint = "one address, without a prefix length and without a URL"
    elif re.search(r"\]?:\d+\Z", text):
        hint = "a certificate is for all ports: leave :PORT away, and brackets"
    elif not text.isascii():
        hint = "write the name as DNS has it (xn--...)"
    raise UsageFailure("neither an IP address nor a host name", where=where, hint=hint)


def _is_host(text: str) -> bool:
    """A host name whose last label is no number: 10.0.0.300 is a mistyped address (RFC 1123 2.1)."""
    return len(text) <= _HOST_MAX and bool(_HOST.match(text)) and not text.rpartition(".")[2].isdigit()

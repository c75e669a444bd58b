"""Requests and responses as values: no sockets here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client's, as its authority has signed it: common name and organization ("" without exactly one of them), serial
    number in hexadecimal, and its end in seconds of the Unix epoch."""

    name: str
    role: str
    serial: str
    ends: float


@dataclass(frozen=True, slots=True)
class Request:
    """``target`` is the raw path with its query, still percent-encoded; ``headers`` have names in lower case, and are
    joined by commas if there are several of one name.

    ``peer`` is the client's address: of the TCP connection, or as a PROXY line names it, else "". ``certificate`` is
    what it showed, over mutual TLS; ``uid`` whose process it is, on a unix socket.
    """

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    peer: str = ""
    certificate: Certificate | None = None
    uid: int | None = None

    @property
    def by(self) -> str:
        """Who requests it: the certificate's common name, the user on this machine, or just an address."""
        if self.certificate is not None:
            return self.certificate.name
        return self.peer if self.uid is None else _user(self.uid)


@dataclass(frozen=True, slots=True)
class Response:
    """``headers`` besides the usual ones; ``content_type`` "" sends none. ``close`` ends the connection after it.

    ``file`` is an open file in place of ``body``: the server reads it to its end, closes it, and ends the connection.
    Its Content-Length, if it is known, is in ``headers``.
    """

    status: int
    body: bytes = b""
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)
    close: bool = False
    file: BinaryIO | None = None


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not an error of ours
    """Raised by a handler in place of a response: the site's own shape for ``status`` (see ``Site.refuse``).

    Ends the connection."""

    def __init__(self, status: int, message: str | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message = status, message


def client_of(address: str) -> str:
    """The client of an address: itself, for IPv6 its /64, which has one owner.

    "" for this machine, behind which may be many."""
    import ipaddress  # not every server counts its clients

    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return client_of(str(found.ipv4_mapped))
        return "" if found.is_loopback else str(ipaddress.ip_network((int(found), 64), strict=False))
    return "" if found.is_loopback else str(found)


def _user(uid: int) -> str:
    import pwd  # reads a file: only who asks for the name pays

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"

"""All tokens of a discovery service, as an immutable value: every change is a method that returns the next value.

Counting follows etcd's v2 store: one index for everything, increased by each change. It begins so that no member ever
has an index below 2 (a client that waits for the creation at index 1 would request "from now on", and wait for ever). A
member is registered once and never changed or removed: clients count events, so one member is exactly one event, and
the members *are* the history.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from terminal import Failure, record

TOKENS_MAX = 1000
SIZE_MAX = 64  # etcd works with far fewer; surplus machines only read
MEMBERS_MAX = 128  # per token: more than the size may race for the last slot, a flood may not fill the disk
VALUE_BYTES_MAX = 1024

TOKEN = re.compile(r"[0-9a-f]{32}")
_MEMBER_ID = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z.-]{0,63}")
_PORT_MAX = 65535

# What this and earlier versions wrote down; a value is judged when it comes.
_URL = re.compile(r"https?://(?P<host>[0-9A-Za-z._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_STORED = re.compile(r"[^\s,=]+=[^\s,=]+(,[^\s,=]+=[^\s,=]+)*")
INDEX_MAX = (1 << 63) - 1
"""etcd counts with 64 bits, and so do its clients."""

_VERSION = 1


class Refused(Exception):  # noqa: N818 - a refusal is an answer of the protocol, not an error of ours
    """A request that the registry does not grant."""


class UnknownToken(Refused):
    """There is no such token, or no more."""


class AlreadyRegistered(Refused):
    """The id has a slot, or another machine has this name or one of these URLs."""

    def __init__(self, message: str, *, same_id: bool) -> None:
        super().__init__(message)
        self.same_id = same_id


class Invalid(Refused):
    """The size, id or value is not what etcd could use."""


class Full(Refused):
    """A cap of the registry is reached."""


@dataclass(frozen=True, slots=True)
class Registration:
    """One machine: its id, its ``name=URL[,name=URL]``, and the index of the change that brought it."""

    id: str
    value: str
    index: int

    @property
    def parts(self) -> list[tuple[str, str]]:
        """The pairs of name and URL."""
        return [(name, url) for name, _, url in (pair.partition("=") for pair in self.value.split(","))]


@dataclass(frozen=True, slots=True)
class Token:
    """A cluster to be: ``size`` members, in the order in which they came.

    ``touched_s`` is the Unix time of its last change."""

    size: int
    index: int
    touched_s: float
    members: tuple[Registration, ...] = ()

    def member(self, member_id: str) -> Registration | None:
        """The machine with this id."""
        return next((member for member in self.members if member.id == member_id), None)

    def since(self, index: int, member_id: str | None = None) -> Registration | None:
        """The first registration at ``index`` or later: of anyone, or of one machine."""
        return next(
            (member for member in self.members if member.index >= index and member_id in (None, member.id)), None
        )


@dataclass(frozen=True, slots=True)
class Registry:
    """``index`` of the last change and all tokens."""

    index: int = 1
    tokens: Mapping[str, Token] = field(default_factory=dict)

    def token(self, name: str) -> Token:
        """Raises UnknownToken."""
        try:
            return self.tokens[name]
        except KeyError:
            raise UnknownToken(name) from None

    def new(self, name: str, size: int, now_s: float) -> Registry:
        """Add the token ``name`` for a cluster of ``size``. Raises Invalid, Full."""
        if not TOKEN.fullmatch(name) or name in self.tokens:
            raise Invalid(f"not a new token: {name}")
        if not 1 <= size <= SIZE_MAX:
            raise Invalid(f"the size of a cluster is 1 to {SIZE_MAX}, not {size}")
        if len(self.tokens) >= TOKENS_MAX:
            raise Full(f"{TOKENS_MAX} tokens are in use")
        index = self.index + 1
        return Registry(index, {**self.tokens, name: Token(size, index, now_s)})

    def register(self, name: str, member_id: str, value: str, now_s: float) -> Registry:
        """Add a machine. Raises UnknownToken, AlreadyRegistered, Invalid, Full.

        More machines than the size are let in, as etcd's own store did: they see for themselves that they are too late.
        """
        token = self.token(name)
        if token.member(member_id) is not None:
            raise AlreadyRegistered(f"{member_id} is registered", same_id=True)
        if not _MEMBER_ID.fullmatch(member_id):
            raise Invalid("the id of a member is letters, digits, dots and dashes")
        if len(value.encode()) > VALUE_BYTES_MAX or not _is_usable(value):
            raise Invalid("the value of a member is NAME=URL[,NAME=URL...], each URL http(s)://HOST:PORT")
        if len(token.members) >= MEMBERS_MAX:
            raise Full(f"{MEMBERS_MAX} machines are registered under this token")
        index = self.index + 1
        member = Registration(member_id, value, index)
        for other in token.members:
            # Two machines of one name or address would stop every member, not only the one that is wrong.
            if clash := _clash(member, other):
                raise AlreadyRegistered(f"{clash} is taken by {other.id}", same_id=False)
        grown = replace(token, touched_s=now_s, members=(*token.members, member))
        return Registry(index, {**self.tokens, name: grown})

    def expire(self, before_s: float, empty_before_s: float = -math.inf) -> Registry:
        """Without the tokens that were last touched before this time, or that have no member and were made before
        ``empty_before_s``; itself if there are none."""
        kept = {
            name: token
            for name, token in self.tokens.items()
            if token.touched_s >= (before_s if token.members else max(before_s, empty_before_s))
        }
        return self if len(kept) == len(self.tokens) else Registry(self.index + 1, kept)

    def dump(self) -> str:
        """JSON, for :meth:`load`."""
        return json.dumps(
            {
                "v": _VERSION,
                "index": self.index,
                "tokens": {
                    name: {
                        "size": token.size,
                        "index": token.index,
                        "touched": token.touched_s,
                        "members": [[member.id, member.value, member.index] for member in token.members],
                    }
                    for name, token in self.tokens.items()
                },
            },
            indent=1,
        )

    @classmethod
    def load(cls, text: str, *, where: str) -> Registry:
        """What :meth:`dump` wrote.

        Raises Failure: a registry that cannot be read must not be replaced by an empty one."""
        try:
            data = record.parse(text)
            if data["v"] != _VERSION:
                raise Failure(
                    f"version {data['v']} of the state is unknown", where=where, hint="use the flotilla that wrote it"
                )
            tokens = {str(name): _token(fields) for name, fields in data["tokens"].items()}
            return cls(_whole(data["index"], INDEX_MAX), tokens)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise Failure(
                "cannot understand the state of the discovery service",
                where=where,
                hint="restore the file, or remove it: clusters that already run do not need it",
            ) from error


def _token(fields: Mapping[str, Any]) -> Token:
    members = tuple(
        Registration(_text(one, _MEMBER_ID), _text(value, _STORED), _whole(index, INDEX_MAX))
        for one, value, index in fields["members"]
    )
    touched_s = fields["touched"]
    if not isinstance(touched_s, int | float):
        raise TypeError("no time")
    return Token(_whole(fields["size"], SIZE_MAX), _whole(fields["index"], INDEX_MAX), float(touched_s), members)


def _whole(value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"not 1 to {most}: {value!r:.40}")
    return value


def _text(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"not {pattern.pattern}: {value!r:.40}")
    return value


def _is_usable(value: str) -> bool:
    """Whether etcd could use ``value`` as its ``--initial-cluster``: if not, it and all other members would fail.

    Its rule for a URL (``types.NewURLs``): http or https, a host and a port, no path, not even a slash; a host that is
    a name is looked up later. Ours are narrower where they must be: nothing that does not print, since the value goes
    into journals and environments.
    """
    if not value.isprintable():
        return False
    for pair in value.split(","):
        name, is_pair, url = pair.partition("=")
        found = _URL.fullmatch(url)
        if not (name and is_pair and found) or any(each.isspace() or each == "=" for each in name + url):
            return False
        if not 1 <= int(found["port"]) <= _PORT_MAX or not _is_host(found["host"]):
            return False
    return True


def _is_host(text: str) -> bool:
    if not text.startswith("["):
        return True
    try:
        return ipaddress.IPv6Address(text[1:-1]).version == 6
    except ValueError:
        return False


def _clash(member: Registration, other: Registration) -> str | None:
    mine: Iterator[str] = (word for part in member.parts for word in part)
    taken = {word for part in other.parts for word in part}
    return next((word for word in mine if word in taken), None)

"""Join secrets: with one a machine that is new gets its certificates. Pure, but for making one.

What a person copies is ``ID.WORD``. The ledger has the word's SHA-256 only, and counts uses by who enrolled with it.
"""

from __future__ import annotations

import datetime
import fnmatch
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from terminal import UsageFailure
from trust.names import Address

State = Literal["open", "used up", "ended", "revoked"]

USES_MAX: Final = 100_000
TTL_MAX: Final = datetime.timedelta(365)
_ID = re.compile(r"[0-9a-f]{8}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_PATTERN = re.compile(r"[a-z0-9.*?-]{1,64}\Z")
_TTL = re.compile(r"([0-9]{1,6})([smhd])\Z")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret: for ``uses`` machines, until ``ends``. Times are ISO 8601 with their zone.

    ``names`` are patterns (``node-*``), of which the node's name must match one, if there are any; ``networks`` must
    have all its addresses. Without networks a node gets the address alone that its request comes from.
    """

    id: str
    sha256: str
    uses: int
    made: str
    ends: str
    names: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    revoked: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not (_ID.match(self.id) and _SHA256.match(self.sha256) and 1 <= self.uses <= USES_MAX):
            raise ValueError("a secret's id, hash or number of uses is none")
        if not all(map(_PATTERN.match, self.names)):
            raise ValueError("a secret's pattern of names is none")
        for network in self.networks:
            ipaddress.ip_network(network)
        for text in (self.made, self.ends, self.revoked):
            if text is not None and datetime.datetime.fromisoformat(text).tzinfo is None:
                raise ValueError("a time is without its zone")

    def matches(self, word: str) -> bool:
        """Whether it is that of ``ID.WORD``, in a time that does not depend on where they differ."""
        return hmac.compare_digest(self.sha256, _hash(word))

    def state(self, used: int, now: datetime.datetime) -> State:
        """What it is worth after so many uses."""
        if self.revoked is not None:
            return "revoked"
        if datetime.datetime.fromisoformat(self.ends) <= now:
            return "ended"
        return "used up" if used >= self.uses else "open"

    def permits_name(self, name: str) -> bool:
        """Whether a node of this name may enrol with it."""
        return not self.names or any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)

    def permits_address(self, address: Address, peer: Address) -> bool:
        """Whether a node whose request comes from ``peer`` may have ``address``."""
        if not self.networks:
            return address == peer
        networks = map(ipaddress.ip_network, self.networks)
        return any(address.version == network.version and address in network for network in networks)


def new(
    *, uses: int, ttl: datetime.timedelta, names: Sequence[str], networks: Sequence[str], now: datetime.datetime
) -> tuple[Secret, str]:
    """A new secret, and what is to be copied. Raises UsageFailure."""
    if not 1 <= uses <= USES_MAX:
        raise UsageFailure("not a number of uses", where=f"{uses}", hint=f"1 to {USES_MAX}")
    if not datetime.timedelta() < ttl <= TTL_MAX:
        raise UsageFailure("a secret has an end", where=f"{ttl}", hint=f"{TTL_MAX.days}d at most; 24h is usual")
    for name in names:
        if not _PATTERN.match(name):
            raise UsageFailure("not a pattern of names", where=repr(name), hint="as in node-*, in lower case")
    found = []
    for text in networks:
        try:
            found.append(str(ipaddress.ip_network(text)))
        except ValueError as error:
            raise UsageFailure(
                f"not a network: {error}", where=repr(text), hint="as in 10.0.0.0/24, or fd00::/64"
            ) from None
    word = secrets.token_hex(16)
    end = (now + ttl).isoformat(timespec="seconds")
    made = Secret(
        id=secrets.token_hex(4),
        sha256=_hash(word),
        uses=uses,
        made=now.isoformat(timespec="seconds"),
        ends=end,
        names=tuple(names),
        networks=tuple(found),
    )
    return made, f"{made.id}.{word}"


def duration(text: str) -> datetime.timedelta:
    """A time as 90m, 24h or 7d. Raises UsageFailure."""
    if not (found := _TTL.match(text)):
        raise UsageFailure("not a time", where=repr(text), hint="as in 90m, 24h or 7d")
    return datetime.timedelta(**{_UNITS[found[2]]: int(found[1])})


def _hash(word: str) -> str:
    return hashlib.sha256(word.encode("utf-8", "surrogatepass")).hexdigest()

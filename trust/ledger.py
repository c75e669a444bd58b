"""What a trust folder has issued and revoked: its file ``trust.json``, as values.

    {"v": 2, "id": "3f9a2c51", "issued": [{"serial": "7d...", "profile": "etcd-peer", "authority": "etcd-peers",
     "name": "node-1", "role": "node", "addresses": ["10.0.0.1"], "issued": "2026-11-29T02:00:00+00:00",
     "not_after": "2028-11-28T02:00:00+00:00", "fingerprint": "9c...", "revoked": null, "machine": "", "secret": ""}],
     "secrets": [], "foreign": []}

Nothing in it is ever taken out: a number that was revoked stays so, on a node whose clock is years behind, too. Which
machine is known, and how often a join secret was used, follows from what was issued: one write decides all of it.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, get_args

from terminal import Failure, record
from trust.profile import AUTHORITIES, Role
from trust.secret import Secret

VERSION: Final = 2
_VERSIONS: Final = (1, VERSION)
"""Those that can be read: 1 had no machines and no secrets."""
State = Literal["valid", "due", "expired", "revoked"]
"""``due``: less than a third of its time is left, and it is to be renewed."""

_HEX = re.compile(r"[0-9a-f]{1,64}\Z")
_SERIAL_BITS: Final = 159
"""Of a positive serial number whose DER has 20 octets at most (RFC 5280 4.1.2.2)."""
_YEARS: Final = range(1950, 9999)
"""Those of a time in a certificate or a list, whatever its zone (UTCTime and GeneralizedTime, RFC 5280 4.1.2.5)."""


@dataclass(frozen=True, slots=True)
class Record:
    """One issued certificate. ``serial`` and ``fingerprint`` (SHA-256 of the DER) are hexadecimal; times are ISO 8601
    with their zone; ``revoked`` is when that was done. Of what a node asked for itself, ``machine`` is the SHA-256 of
    its machine key (hexadecimal; of the DER of its public half), and ``secret`` the id of that with which it enrolled.
    """

    serial: str
    profile: str
    authority: str
    name: str
    role: str
    addresses: tuple[str, ...]
    issued: str
    not_after: str
    fingerprint: str
    revoked: str | None = None
    machine: str = ""
    secret: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not (_HEX.match(self.serial) and _HEX.match(self.fingerprint)):
            raise ValueError("a serial or fingerprint is not hexadecimal")
        if not 0 < int(self.serial, 16) < 1 << _SERIAL_BITS:
            raise ValueError("a serial is none of a certificate")
        if self.machine and not (_HEX.match(self.machine) and len(self.machine) == 64):
            raise ValueError("a machine is no SHA-256")
        if self.authority not in AUTHORITIES:
            raise ValueError(f"there is no authority {self.authority!r}")
        if self.role not in get_args(Role):
            raise ValueError(f"there is no role {self.role!r}")
        for text in (self.issued, self.not_after, self.revoked):
            if text is None:
                continue
            moment = datetime.datetime.fromisoformat(text)
            if moment.tzinfo is None or moment.year not in _YEARS:
                raise ValueError("a time is without its zone, or none of a certificate")

    @property
    def ends(self) -> datetime.datetime:
        """When it expires."""
        return datetime.datetime.fromisoformat(self.not_after)

    @property
    def lifetime(self) -> datetime.timedelta:
        """From its issue to its end."""
        return self.ends - datetime.datetime.fromisoformat(self.issued)

    def state(self, now: datetime.datetime) -> State:
        """What it is worth at that moment."""
        if self.revoked is not None:
            return "revoked"
        left = self.ends - now
        if left <= datetime.timedelta():
            return "expired"
        return "due" if left < self.lifetime / 3 else "valid"

    def is_of(self, name: str, *, node: bool) -> bool:
        """Whether it belongs to the node, else to the user, of that name: they may have the same."""
        return self.name == name and self.role != "issuer" and (self.role == "node") == node


@dataclass(frozen=True, slots=True)
class Foreign:
    """A serial that a list says is revoked, and that a restored ledger does not know. ``revoked`` is when."""

    authority: str
    serial: str
    revoked: str

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if self.authority not in AUTHORITIES or not _HEX.match(self.serial):
            raise ValueError("a serial or an authority is none")
        if datetime.datetime.fromisoformat(self.revoked).tzinfo is None:
            raise ValueError("a time is without its zone")


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that was issued, in its order. ``id`` is in the names of the authorities, and tells two folders apart."""

    v: int
    id: str
    issued: tuple[Record, ...] = ()
    secrets: tuple[Secret, ...] = ()
    foreign: tuple[Foreign, ...] = ()

    def revoked(self, authority: str) -> dict[int, datetime.datetime]:
        """The serials that this authority has revoked, with the time of it."""
        entries: list[Record | Foreign] = [*self.issued, *self.foreign]
        return {
            int(each.serial, 16): datetime.datetime.fromisoformat(each.revoked)
            for each in entries
            if each.authority == authority and each.revoked is not None
        }

    def of(self, name: str, *, node: bool) -> list[Record]:
        """All records of the node, else of the user, of that name; the newest are last."""
        return [each for each in self.issued if each.is_of(name, node=node)]

    def of_machine(self, machine: str) -> list[Record]:
        """What the machine with this key has, the newest last; none if it is not known."""
        return [each for each in self.issued if each.machine == machine]

    def uses(self, secret: str) -> int:
        """How many machines have enrolled with the secret of this id."""
        return len({each.machine for each in self.issued if each.secret == secret})

    def newest(self) -> dict[str, Record]:
        """Of each node, and of the issuer, one of its newest certificates, by name."""
        return {each.name: each for each in self.issued if each.role in ("node", "issuer")}

    def with_issued(self, records: Iterable[Record]) -> Ledger:
        """The ledger after this issue."""
        return replace(self, issued=(*self.issued, *records))

    def with_revoked(self, serials: Iterable[str], now: datetime.datetime) -> Ledger:
        """The ledger after the revocation of these; what was revoked before keeps its time."""
        chosen, when = set(serials), stamp(now)
        return replace(
            self,
            issued=tuple(
                replace(each, revoked=when) if each.serial in chosen and each.revoked is None else each
                for each in self.issued
            ),
        )

    def with_ended(self, secrets: Iterable[str], now: datetime.datetime) -> Ledger:
        """The ledger after the revocation of the secrets with these ids."""
        chosen, when = set(secrets), stamp(now)
        return replace(
            self,
            secrets=tuple(
                replace(each, revoked=when) if each.id in chosen and each.revoked is None else each
                for each in self.secrets
            ),
        )

    def dump(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self), indent=1) + "\n"


def parse(text: str | bytes) -> Ledger:
    """The ledger in the text of the file. Raises Failure."""
    try:
        data = record.parse(text)
        if isinstance(data, dict) and isinstance(version := data.get("v"), int) and version > VERSION:
            raise Failure(
                f"written by a later version of this program (v is {version})", hint="use the version that wrote it"
            )
        ledger = record.build(Ledger, data)
        if ledger.v not in _VERSIONS:
            raise ValueError("v is no version")
        serials = [each.serial for each in ledger.issued]
        if len(set(serials)) != len(serials) or len({each.id for each in ledger.secrets}) != len(ledger.secrets):
            raise ValueError("a serial or a secret is there twice")
    except ValueError as error:
        raise Failure("not the ledger of a trust folder", hint="restore the folder from its copy") from error
    return replace(ledger, v=VERSION)


def stamp(moment: datetime.datetime) -> str:
    """A time as the ledger has it: UTC, whole seconds."""
    return moment.astimezone(datetime.UTC).isoformat(timespec="seconds")

"""What a trust folder holds, for people and for programs: its authorities, and what each issued."""

from __future__ import annotations

import datetime
from dataclasses import asdict, dataclass
from pathlib import Path

from terminal import table
from trust import certificate, folder, ledger
from trust.ledger import Record
from trust.profile import AUTHORITIES
from trust.secret import Secret


@dataclass(frozen=True, slots=True)
class AuthorityFacts:
    """An authority: its name, serial and fingerprint (hexadecimal; SHA-256 of the DER), and the end of its validity."""

    name: str
    serial: str
    fingerprint: str
    not_after: datetime.datetime


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it, as it is at ``now``."""

    id: str
    authorities: tuple[AuthorityFacts, ...]
    issued: tuple[Record, ...]
    secrets: tuple[tuple[Secret, int], ...]
    """With how many machines have enrolled with each."""
    now: datetime.datetime

    def as_json(self) -> dict[str, object]:
        """For ``trust show --json``; times are ISO 8601 in UTC."""
        return {
            "v": 1,
            "id": self.id,
            "authorities": [asdict(each) | {"not_after": ledger.stamp(each.not_after)} for each in self.authorities],
            "certificates": [asdict(each) | {"state": each.state(self.now)} for each in self.issued],
            "secrets": [
                {
                    **{key: value for key, value in asdict(each).items() if key != "sha256"},
                    "used": used,
                    "state": each.state(used, self.now),
                }
                for each, used in self.secrets
            ],
        }

    def text(self) -> str:
        """Two tables."""
        authorities = [
            (each.name, _day(each.not_after), each.serial, each.fingerprint[:16]) for each in self.authorities
        ]
        issued = [
            (
                *(each.name, each.role, each.profile, each.state(self.now), _day(each.ends)),
                *(each.serial, each.fingerprint[:16], " ".join(each.addresses)),
            )
            for each in self.issued
        ]
        parts = [table(authorities, ("AUTHORITY", "UNTIL", "SERIAL", "SHA-256"))]
        if issued:
            header = ("NAME", "ROLE", "CERTIFICATE", "STATE", "UNTIL", "SERIAL", "SHA-256", "ADDRESSES")
            parts.append(table(issued, header))
        if self.secrets:
            parts.append(self.secrets_text())
        return "\n\n".join(parts)

    def secrets_text(self) -> str:
        """The table of join secrets."""
        rows = [
            (
                *(each.id, each.state(used, self.now), f"{used} of {each.uses}"),
                *(each.ends[:16], " ".join(each.names) or "any", " ".join(each.networks) or "where it asks from"),
            )
            for each, used in self.secrets
        ]
        return table(rows, ("SECRET", "STATE", "USED", "UNTIL", "NAMES", "ADDRESSES"))


def read(path: Path, *, now: datetime.datetime | None = None) -> Overview:
    """Of the trust folder ``path``. Raises Failure."""
    with folder.opened(path, to_write=False) as store:
        found = [(name, certificate.facts(store.certificate(name))) for name in AUTHORITIES]
        authorities = tuple(AuthorityFacts(name, each.serial, each.fingerprint, each.not_after) for name, each in found)
        secrets = tuple((each, store.ledger.uses(each.id)) for each in store.ledger.secrets)
        moment = now or datetime.datetime.now(datetime.UTC)
        return Overview(store.ledger.id, authorities, store.ledger.issued, secrets, moment)


def _day(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%d}"

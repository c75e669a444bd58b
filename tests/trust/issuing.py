"""A real issuer for tests, and a node's requests to it: real TLS, real openssl."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trust
from enrolment import files, keys, protocol
from enrolment.client import Issuer as Contact
from enrolment.node import Orders
from enrolment.place import Place
from enrolment.target import checked
from trust import issuer, names
from trust.service import Issuer

HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(1)


class Clock:
    """An issuer's, which is set by hand."""

    def __init__(self) -> None:
        self.now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)

    def __call__(self) -> datetime.datetime:
        return self.now


class Lab:
    """A trust folder with its issuer at 127.0.0.1, which ``said`` what it did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.said: list[str] = []
        self.issuer = Issuer(path, "127.0.0.1", 0, (names.address("127.0.0.1"),), say=self.said.append, now=self.clock)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.issuer.port}"

    @property
    def contact(self) -> Contact:
        return Contact(checked(self.url, self.issuer.fingerprint))

    def secret(self, *, uses: int = 1, ttl: datetime.timedelta = HOUR, **options: Any) -> str:
        """A join secret; nodes may have any address of 10.0.0.0/24."""
        usual: dict[str, Any] = {"networks": ["10.0.0.0/24"]}
        return issuer.new_secret(self.path, uses=uses, ttl=ttl, now=self.clock.now, **usual | options)[1]

    def orders(self, secret: str, *addresses: str) -> Orders:
        return Orders(self.url, self.issuer.fingerprint, secret, addresses or ("10.0.0.1",))


@contextmanager
def serving(path: Path) -> Iterator[Lab]:
    """A lab, whose trust folder is made if there is none, while it serves."""
    if not path.exists():
        trust.create(path)
    lab = Lab(path)
    lab.issuer.start()
    try:
        yield lab
    finally:
        lab.issuer.stop()


def node(root: Path, name: str = "node") -> Place:
    """A node's folders below ``root``."""
    return Place(root / name / "etc/trust", root / name / "var/trust")


class Asking:
    """Requests of a node, which a test may spoil: ``request`` is what is asked for, signed by ``machine``."""

    def __init__(self, root: Path, name: str = "node-1", secret: str = "", address: str = "10.0.0.1") -> None:
        self.machine = root / f"{name}.machine.key"
        if not self.machine.exists():
            self.machine.write_text(keys.new())
        self.request = protocol.Request(
            v=1,
            nonce="",
            name=name,
            addresses=(address,),
            machine=keys.public(self.machine),
            requests={leaf: keys.new_with_request(name)[1] for leaf in files.LEAVES},
            secret=secret,
        )

    def enrol(self, contact: Contact, **spoilt: Any) -> protocol.Answer:
        return self._post(contact, protocol.ENROL, spoilt)

    def renew(self, contact: Contact, **spoilt: Any) -> protocol.Answer:
        return self._post(contact, protocol.RENEW, spoilt)

    def _post(self, contact: Contact, path: str, spoilt: dict[str, Any]) -> protocol.Answer:
        body = replace(self.request, **{"nonce": contact.nonce(), **spoilt}).dump()
        return contact.post(path, body, keys.sign(self.machine, body))

"""What a node does with its issuer: enrol, renew, read the lists. Each is one step that happens or not."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from enrolment import files, keys, protocol
from enrolment.client import Issuer
from enrolment.place import VERSION, Enrolment, Place
from enrolment.target import checked
from terminal import Failure, record

ORDERS: Final = Path("/run/flotilla/enrol.json")
"""What user-data says (``flotilla.trust``); it has the join secret, and is removed when that has been used."""
_IMAGE: Final = Path("/usr")
"""Its time is that of the image's packages (builder/finish/databases.py)."""
_LEAF_SHOWN: Final = "etcd-peer.crt"


@dataclass(frozen=True, slots=True)
class Orders:
    """Where to enrol, with which secret, for which IP addresses (none: that of the connection)."""

    issuer: str
    fingerprint: str
    secret: str = field(repr=False)
    addresses: tuple[str, ...] = ()


def orders(path: Path = ORDERS) -> Orders | None:
    """What user-data says, None if it says nothing. Raises Failure."""
    try:
        return record.build(Orders, record.parse(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Failure("cannot be read", where=str(path), hint="'cloudconfig apply' writes it") from error


def clock_is_wrong() -> bool:
    """Whether this machine's clock is before the build of its image: then no certificate is too early."""
    return time.time() < _IMAGE.stat().st_mtime


def contact(url: str, fingerprint: str) -> Issuer:
    """The issuer there. Raises Failure."""
    return Issuer(checked(url, fingerprint), any_time=clock_is_wrong())


def fulfilled(place: Place, wanted: Orders) -> bool:
    """Whether the node has enrolled as user-data says. Raises Failure."""
    known = place.enrolment()
    return known is not None and known.fingerprint == checked(wanted.issuer, wanted.fingerprint).fingerprint


def enrol(place: Place, wanted: Orders, name: str) -> Enrolment:
    """Get the first certificates, for a node called ``name``. Raises Failure."""
    place.check_free()
    issuer = contact(wanted.issuer, wanted.fingerprint)
    asked = _Asked(wanted.issuer, wanted.fingerprint, name.lower(), wanted.addresses, wanted.secret)
    return _issued(place, issuer, protocol.ENROL, asked)[0]


def renew(place: Place) -> tuple[Enrolment, bool]:
    """New keys and certificates in the place of those in use; and whether an authority has changed, too.

    Raises Failure."""
    known = _known(place)
    issuer = contact(known.url, known.fingerprint)
    asked = _Asked(known.url, known.fingerprint, known.name, known.addresses)
    return _issued(place, issuer, protocol.RENEW, asked)


def refresh(place: Place, issuer: Issuer, tag: str) -> tuple[str, bool]:
    """Read the lists of revoked certificates, if they are not those of ``tag``: their tag, and whether any changed.

    Raises Failure."""
    tag, found = issuer.lists(tag)
    return tag, found is not None and place.put_lists(found.files)


def _known(place: Place) -> Enrolment:
    if (known := place.enrolment()) is None:
        raise Failure(
            "this node has not enrolled", where=str(place.link), hint="its user-data says where: flotilla.trust"
        )
    return known


@dataclass(frozen=True, slots=True)
class _Asked:
    url: str
    fingerprint: str
    name: str
    addresses: tuple[str, ...]
    secret: str = field(default="", repr=False)


def _issued(place: Place, issuer: Issuer, path: str, asked: _Asked) -> tuple[Enrolment, bool]:
    machine = place.machine_key()
    made = {leaf: keys.new_with_request(asked.name) for leaf in files.LEAVES}
    nonce = issuer.nonce()
    shown = place.link / _LEAF_SHOWN
    body = protocol.Request(
        v=protocol.VERSION,
        nonce=nonce,
        name=asked.name,
        addresses=asked.addresses or (issuer.own_address,),
        machine=keys.public(machine),
        requests={leaf: request for leaf, (_, request) in made.items()},
        secret=asked.secret,
        certificate=shown.read_text("utf-8") if path == protocol.RENEW and shown.exists() else "",
    ).dump()
    answer = issuer.post(path, body, keys.sign(machine, body))
    enrolment = Enrolment(
        VERSION, asked.url, asked.fingerprint, asked.name, asked.addresses, answer.issued, answer.not_after
    )
    changed = not place.same(answer.files, files.AUTHORITIES)
    place.put({**answer.files, **{f"{leaf}.key": key for leaf, (key, _) in made.items()}}, enrolment)
    return enrolment, changed

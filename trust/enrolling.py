"""The issuer's judgement of a node's request, and what it issues then.

A node that is new needs a join secret, its name must be free, and its addresses its own. A node that is known is known
by its machine key, until what it has is revoked; that its certificates have expired changes nothing. One
write into the ledger is all that happens: a node that asks again, since the answer was lost, gets new certificates and
uses up nothing.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Final

from enrolment import protocol
from terminal import Failure
from trust import certificate, folder, ledger, profile
from trust.issuer import Asked, alternatives, issue
from trust.ledger import Ledger, Record
from trust.names import Address
from trust.request import Wanted, read
from trust.secret import Secret

ISSUES_DAY_MAX: Final = 24
"""So often may one machine ask in a day: each time has a place in the ledger for good."""
ISSUER_FILE: Final = "issuer.key"
"""In the trust folder: the issuer's own certificate, and its key."""


class Refused(Failure):
    """The request cannot be granted; the node gets the sentence. ``status`` is that of HTTP."""

    status = 403


class TooOften(Refused):
    """Not now."""

    status = 429


def enrol(path: Path, body: bytes, signature: bytes, peer: str, *, now: datetime.datetime) -> protocol.Answer:
    """Certificates for a machine with a join secret. ``peer`` is the address that the request comes from.

    Raises Refused; and Failure for trouble with the folder."""
    asked, wanted = _read(body, signature)
    with folder.opened(path, to_write=True) as store:
        judged = enrolling(store.ledger, wanted, asked.secret, ipaddress.ip_address(peer), now)
        return _issued(store, wanted, judged, now)


def renew(path: Path, body: bytes, signature: bytes, peer: str, *, now: datetime.datetime) -> protocol.Answer:
    """Certificates for a machine that is known by its key. Raises as :func:`enrol`."""
    asked, wanted = _read(body, signature)
    with folder.opened(path, to_write=True) as store:
        shown = certificate.shown(asked.certificate, store.authority(profile.ETCD_PEERS)) if asked.certificate else None
        judged = renewing(store.ledger, wanted, shown, ipaddress.ip_address(peer), now)
        return _issued(store, wanted, judged, now)


def enrolling(known: Ledger, wanted: Wanted, word: str, peer: Address, now: datetime.datetime) -> str:
    """The id of the secret that lets a machine in. Raises Refused. Pure."""
    id_, _, rest = word.partition(".")
    secret = next((each for each in known.secrets if each.id == id_), None)
    if secret is None or not secret.matches(rest):
        raise Refused(
            "the join secret is not one of this issuer's",
            hint="make one with 'trust secret new', and put it into user-data",
        )
    records = known.of_machine(wanted.machine)
    if records:
        _check_known(records, wanted, now)
    else:
        _check_name(known, wanted)
    if not any(each.secret == secret.id for each in records):
        _check_secret(known, wanted, secret, now)
    _check_addresses(known, wanted, secret, (), peer, now)
    return secret.id


def renewing(
    known: Ledger, wanted: Wanted, shown: certificate.Shown | None, peer: Address, now: datetime.datetime
) -> str:
    """The id of the secret with which a machine has enrolled. ``shown`` is a certificate of ours that it has.

    Raises Refused. Pure."""
    records = known.of_machine(wanted.machine)
    if records:
        _check_known(records, wanted, now)
        own, id_ = records[-1].addresses, records[-1].secret
    else:
        # A ledger that was restored from a copy does not have what was issued after it; the certificate says it.
        if shown is None or (shown.machine, shown.name) != (wanted.machine, wanted.name):
            raise Refused(
                "this issuer does not know this machine",
                hint="let it enrol: a new join secret in its user-data, and a reboot",
            )
        if shown.serial in known.revoked(profile.ETCD_PEERS):
            raise _revoked(wanted.name)
        _check_name(known, wanted)
        own, id_ = shown.addresses, ""
    secret = next((each for each in known.secrets if each.id == id_), None)
    _check_addresses(known, wanted, secret, own, peer, now)
    return id_


def of_issuer(path: Path, names: tuple[Address | str, ...], *, now: datetime.datetime | None = None) -> Path:
    """The file with an issuer's own certificate and key, for these names and addresses: made if need be.

    It is valid as long as its authority: its key lies beside that one's. Raises Failure."""
    with folder.opened(path, to_write=True) as store:
        (what,) = profile.ISSUER
        wanted = set(alternatives(what, profile.ISSUER_NAME, names))
        text = store.text(ISSUER_FILE)
        if text is None or not certificate.serves(text, store.authority(what.authority), wanted):
            issued = issue(
                store, profile.ISSUER, profile.ISSUER_NAME, "issuer", names, profile.AUTHORITY_DAYS, now
            ).files
            key, leaf = issued[profile.key_file(what.name)], issued[profile.certificate_file(what.name)]
            store.put(ISSUER_FILE, key + leaf)
        return path / ISSUER_FILE


def _read(body: bytes, signature: bytes) -> tuple[protocol.Request, Wanted]:
    try:
        asked = protocol.request(body)
        return asked, read(asked, body, signature)
    except Failure as failure:
        raise Refused(str(failure), hint=failure.hint) from failure


def _check_known(records: list[Record], wanted: Wanted, now: datetime.datetime) -> None:
    last = records[-1]
    if last.revoked is not None:
        raise _revoked(last.name)
    if last.name != wanted.name:
        raise Refused(
            f"this machine is known as {last.name}, and asks for {wanted.name}",
            hint=f"to rename it: 'trust revoke DIR --node {last.name}', remove its machine key, and let it enrol",
        )
    since = now - datetime.timedelta(1)
    recent = {each.issued for each in records if datetime.datetime.fromisoformat(each.issued) > since}
    if len(recent) >= ISSUES_DAY_MAX:
        raise TooOften("this machine has asked too often today", hint="look into its journal: flotilla-trust.service")


def _check_secret(known: Ledger, wanted: Wanted, secret: Secret, now: datetime.datetime) -> None:
    state = secret.state(known.uses(secret.id), now)
    if state != "open":
        raise Refused(
            f"the join secret {secret.id} is {state}",
            hint="make another with 'trust secret new', and put it into user-data",
        )
    if not secret.permits_name(wanted.name):
        raise Refused(
            f"the join secret {secret.id} is not for a node called {wanted.name}",
            hint=f"it is for {', '.join(secret.names)}; see 'trust secret list'",
        )


def _check_name(known: Ledger, wanted: Wanted) -> None:
    owner = known.newest().get(wanted.name)
    if owner is not None and owner.revoked is None:
        raise Refused(
            f"another machine is called {wanted.name}",
            hint=f"give this one another host name; or, if that one is gone: 'trust revoke DIR --node {wanted.name}'",
        )


def _check_addresses(
    known: Ledger,
    wanted: Wanted,
    secret: Secret | None,
    own: tuple[str, ...],
    peer: Address,
    now: datetime.datetime,
) -> None:
    owners = {
        address: name
        for name, last in known.newest().items()
        if name != wanted.name and last.state(now) in ("valid", "due")
        for address in last.addresses
    }
    for address in wanted.addresses:
        if not (str(address) in own or (secret is not None and secret.permits_address(address, peer))):
            allowed = ", ".join(secret.networks) if secret is not None else ""
            raise Refused(
                f"{address} is not an address that this machine may have: its request comes from {peer}",
                hint=f"its join secret is for {allowed}"
                if allowed
                else "to allow others, make the join secret with 'trust secret new --cidr NETWORK'",
            )
        if other := owners.get(str(address)):
            raise Refused(
                f"{address} is the address of {other}",
                hint=f"give this one another; or, if that one is gone: 'trust revoke DIR --node {other}'",
            )


def _revoked(name: str) -> Refused:
    return Refused(
        f"the certificates of {name} were revoked",
        hint="to let it in again: remove its machine key (/var/lib/flotilla/trust), and let it enrol with a new secret",
    )


def _issued(store: folder.Store, wanted: Wanted, secret: str, now: datetime.datetime) -> protocol.Answer:
    asked = Asked(wanted.machine, secret, wanted.keys)
    made = issue(store, profile.NODE, wanted.name, "node", wanted.addresses, profile.ENROLLED_DAYS, now, asked)
    return protocol.Answer(protocol.VERSION, ledger.stamp(now), ledger.stamp(made.not_after), made.files)

"""What is done with a trust folder: make it, issue from it, renew, revoke. Each call is one step that happens or not.

``now`` is the time (UTC) that an issue counts from; the clock's without it.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from terminal import Failure, UsageFailure, did_you_mean
from trust import certificate, folder, ledger, names, profile, secret
from trust.ledger import Ledger, Record
from trust.names import Address
from trust.profile import Profile, Role
from trust.secret import Secret


@dataclass(frozen=True, slots=True)
class Certificates:
    """What one holder gets. ``files`` has PEM texts by file name; :func:`trust.mode` knows the permissions of each.

    They are certificate and key of each profile, and certificate and revocation list of each authority that it meets.
    No key is in its ``repr``.
    """

    name: str
    role: str
    not_after: datetime.datetime
    files: dict[str, str] = field(repr=False)


def create(path: Path, *, now: datetime.datetime | None = None) -> None:
    """Make a trust folder with new authorities. Raises Failure: it is there, or cannot be written."""
    fresh = Ledger(ledger.VERSION, secrets.token_hex(4))
    ends = _now(now) + datetime.timedelta(profile.AUTHORITY_DAYS)
    with folder.made(path) as files:
        files[folder.LEDGER] = fresh.dump()
        for name in profile.AUTHORITIES:
            pair = certificate.new_authority(f"flotilla {name} {fresh.id}", ends, serial=certificate.random_serial())
            authority = certificate.Authority.parse(pair.certificate, pair.key)
            stem = profile.ca_stem(name)
            files[profile.certificate_file(stem)] = pair.certificate
            files[profile.key_file(stem)] = pair.key
            files[profile.crl_file(name)] = authority.revocation_list({}, number=1)


def issue_node(
    path: Path,
    name: str,
    addresses: Sequence[str],
    *,
    days: int = profile.NODE_DAYS,
    first: bool = False,
    now: datetime.datetime | None = None,
) -> Certificates:
    """Certificates and keys for a node that others reach at ``name`` and at ``addresses``, IP or host names.

    Each call makes new ones, and those of before stay valid; with ``first`` it fails if there are any. None outlives
    its authority. Raises Failure.
    """
    name, found = names.node_name(name), names.addresses(addresses)
    if not found:
        raise UsageFailure("no address", where=name, hint="name those that other nodes reach it at")
    with folder.opened(path, to_write=True) as store:
        if first:
            _refuse_second(store.ledger, name, node=True, now=_now(now))
        return issue(store, profile.NODE, name, "node", found, days, now)


def issue_user(
    path: Path,
    name: str,
    role: Role,
    *,
    days: int = profile.USER_DAYS,
    etcd: bool = False,
    first: bool = False,
    now: datetime.datetime | None = None,
) -> Certificates:
    """A certificate and key of a user for fleet's API, and with ``etcd``, for operators, one for etcd itself.

    Whoever writes to etcd is root on every node, and fleet's journal does not say who it was. ``first`` is as for a
    node. Raises Failure.
    """
    name = names.user_name(name)
    if role not in ("reader", "operator"):
        raise UsageFailure("no role of a user", where=repr(role), hint="reader or operator")
    if etcd and role != "operator":
        raise UsageFailure("a reader gets no certificate for etcd", hint="etcd cannot stop its holder from writing")
    with folder.opened(path, to_write=True) as store:
        if first:
            _refuse_second(store.ledger, name, node=False, now=_now(now))
        return issue(store, _of_user(etcd=etcd), name, role, (), days, now)


def renew(path: Path, name: str, *, node: bool, now: datetime.datetime | None = None) -> Certificates:
    """New certificates and keys like the last ones of the node, else of the user, of that name, for as long a time.

    Those of before stay valid until they end. Raises Failure: the name is unknown, or its certificates are revoked.
    """
    with folder.opened(path, to_write=True) as store:
        records = known(store.ledger, name, node=node)
        last = records[-1]
        if last.revoked is not None:
            raise Failure(
                "its certificates were revoked", where=name, hint="if it is to have new ones all the same: trust issue"
            )
        together = [each for each in records if each.issued == last.issued]
        etcd = any(each.profile == profile.ETCD_CLIENT.name for each in together)
        profiles = profile.NODE if node else _of_user(etcd=etcd)
        found = names.addresses(last.addresses)
        days = max(1, round(last.lifetime / datetime.timedelta(1)))
        return issue(store, profiles, last.name, last.role, found, days, now)


def revoke(path: Path, name: str, *, node: bool, now: datetime.datetime | None = None) -> list[Record]:
    """Revoke all certificates of the node, else of the user, of that name; those that were not revoked before.

    The lists in the folder have them when this returns. Raises Failure if the name is unknown.
    """
    with folder.opened(path, to_write=True) as store:
        records = [each for each in known(store.ledger, name, node=node) if each.revoked is None]
        store.save(store.ledger.with_revoked([each.serial for each in records], _now(now)))
        return records


def new_secret(
    path: Path,
    *,
    uses: int,
    ttl: datetime.timedelta,
    names: Sequence[str] = (),
    networks: Sequence[str] = (),
    now: datetime.datetime | None = None,
) -> tuple[Secret, str]:
    """A new join secret, and what is to be copied into user-data: it is nowhere else. See :mod:`trust.secret`.

    Raises Failure."""
    made, word = secret.new(uses=uses, ttl=ttl, names=names, networks=networks, now=_now(now))
    with folder.opened(path, to_write=True) as store:
        store.save(replace(store.ledger, secrets=(*store.ledger.secrets, made)))
    return made, word


def revoke_secret(path: Path, id_: str, *, now: datetime.datetime | None = None) -> Secret:
    """No other node enrols with the secret of this id from now on; who has stays. Raises Failure: there is none."""
    with folder.opened(path, to_write=True) as store:
        found = next((each for each in store.ledger.secrets if each.id == id_.partition(".")[0]), None)
        if found is None:
            ids = [each.id for each in store.ledger.secrets]
            hint = did_you_mean(id_, ids, "trust secret list DIR shows them")
            raise Failure("no join secret has this id", where=id_.partition(".")[0], hint=hint)
        store.save(store.ledger.with_ended((found.id,), _now(now)))
        return found


def known(found: Ledger, name: str, *, node: bool) -> list[Record]:
    """The records of a holder, the newest last. Raises Failure if there is none."""
    if records := found.of(name, node=node):
        return records
    others = {each.name for each in found.issued if (each.role == "node") == node}
    kind = "node" if node else "user"
    raise Failure(
        f"no {kind} of this name has a certificate",
        where=name,
        hint=did_you_mean(name, others, "trust show DIR lists all of them"),
    )


def _refuse_second(found: Ledger, name: str, *, node: bool, now: datetime.datetime) -> None:
    if any(each.state(now) in ("valid", "due") for each in found.of(name, node=node)):
        raise Failure(
            "it has certificates that are valid",
            where=name,
            hint="'trust renew' makes new ones like them; for other addresses or another role, "
            "'trust revoke' comes first",
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """A node that asked for its certificates itself: it has keys, whose public halves are here by profile.

    ``machine`` and ``secret`` are as in a :class:`Record`."""

    machine: str
    secret: str
    keys: Mapping[str, ec.EllipticCurvePublicKey]


def issue(
    store: folder.Store,
    profiles: Sequence[Profile],
    name: str,
    role: str,
    addresses: Sequence[Address | str],
    days: int,
    now: datetime.datetime | None,
    asked: Asked | None = None,
) -> Certificates:
    """Certificates for who has been judged already, with new keys, or for those that were ``asked`` for.

    All are in the ledger when this returns. Raises Failure: the authority has expired, or its files are broken."""
    if not 1 <= days <= profile.AUTHORITY_DAYS:
        raise UsageFailure("not a number of days", where=f"{days}", hint=f"1 to {profile.AUTHORITY_DAYS}")
    begin = _now(now)
    end = begin + datetime.timedelta(days)
    files: dict[str, str] = {}
    records = []
    authorities = {each: store.authority(each) for each in dict.fromkeys(one.authority for one in profiles)}
    for authority_name, authority in authorities.items():
        ends = authority.certificate.not_valid_after_utc
        if ends <= begin:
            raise Failure(
                f"this authority expired on {ends:%Y-%m-%d}",
                where=str(store.path / profile.certificate_file(profile.ca_stem(authority_name))),
                hint="check the clock of this computer; else make a new folder (trust init), and new certificates",
            )
        end = min(end, ends)
        files[profile.certificate_file(profile.ca_stem(authority_name))] = store.certificate(authority_name)
        files[profile.crl_file(authority_name)] = store.published(authority_name)
    for each in profiles:
        if asked is None:
            key = certificate.new_key()
            files[profile.key_file(each.name)] = certificate.key_text(key)
            public = key.public_key()
        else:
            public = asked.keys[each.name]
        made = certificate.leaf(
            authorities[each.authority],
            name,
            role,
            public,
            not_after=end,
            serial=certificate.random_serial(),
            serves=each.serves,
            asks=each.asks,
            alternatives=alternatives(each, name, addresses),
            machine=asked.machine if asked is not None else "",
        )
        files[profile.certificate_file(each.name)] = made
        facts = certificate.facts(made)
        records.append(
            Record(
                serial=facts.serial,
                profile=each.name,
                authority=each.authority,
                name=name,
                role=role,
                addresses=tuple(map(str, addresses)),
                issued=ledger.stamp(begin),
                not_after=ledger.stamp(facts.not_after),
                fingerprint=facts.fingerprint,
                machine=asked.machine if asked is not None else "",
                secret=asked.secret if asked is not None else "",
            )
        )
    # First the record, then the certificate: one that is lost on the way can be revoked, the other way round not.
    store.save(store.ledger.with_issued(records))
    return Certificates(name, role, end, files)


def alternatives(what: Profile, name: str, addresses: Sequence[Address | str]) -> tuple[Address | str, ...]:
    """The alternative names of a certificate of this profile."""
    local = certificate.LOCAL if what.is_local else ()
    return tuple(dict.fromkeys((*local, name, *addresses))) if what.serves else ()


def _of_user(*, etcd: bool) -> Sequence[Profile]:
    return (*profile.USER, profile.ETCD_CLIENT) if etcd else profile.USER


def _now(now: datetime.datetime | None) -> datetime.datetime:
    """A certificate has whole seconds. Raises Failure for a time before that from which on all is valid."""
    found = (now if now is not None else datetime.datetime.now(datetime.UTC)).replace(microsecond=0)
    if found < certificate.NOT_BEFORE:
        raise Failure("the clock of this computer is wrong", where=f"{found:%Y-%m-%d}", hint="set it, and try again")
    return found

"""A lost trust folder, made again from an older copy, by which no one comes back who was revoked.

What the copy lacks was issued or revoked after it. Serial numbers are 159 random bits, so none is given out a second
time. Revocations are taken over from lists that a node has. A machine that the copy does not know shows the certificate
that it has when it renews (trust/enrolling.py). How often a join secret was used since is not known: all of them end.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from terminal import Failure
from trust import certificate, folder, ledger, profile
from trust.ledger import Foreign


@dataclass(frozen=True, slots=True)
class Restored:
    """How many revocations were taken over, and how many secrets ended."""

    revocations: int
    secrets: int


def restore(copy: Path, path: Path, lists: Sequence[Path], *, now: datetime.datetime | None = None) -> Restored:
    """Make the trust folder ``path`` of ``copy``, and of the lists (``etcd-peers.crl`` and so on) in some folders.

    Raises Failure: the copy is not whole, a list is not of its authorities, or ``path`` exists.
    """
    when = now or datetime.datetime.now(datetime.UTC)
    with folder.opened(copy, to_write=False) as store, folder.made(path) as files:
        authorities = {name: store.authority(name) for name in profile.AUTHORITIES}
        found = {
            Foreign(name, f"{serial:x}", ledger.stamp(revoked))
            for place in lists
            for name, authority in authorities.items()
            for serial, revoked in _revoked(place / profile.crl_file(name), authority).items()
        }
        known = {each.serial: each for each in store.ledger.issued}
        fresh = [each for each in found if each.serial in known and known[each.serial].revoked is None]
        unknown = {each for each in found if each.serial not in known}
        unknown -= {each for each in unknown if each.serial in {one.serial for one in store.ledger.foreign}}
        open_ = [each.id for each in store.ledger.secrets if each.revoked is None]
        after = store.ledger.with_revoked([each.serial for each in fresh], when).with_ended(open_, when)
        after = replace(
            after, foreign=(*after.foreign, *sorted(unknown, key=lambda each: (each.authority, each.serial)))
        )
        files[folder.LEDGER] = after.dump()
        for name, authority in authorities.items():
            stem = profile.ca_stem(name)
            files[profile.certificate_file(stem)] = store.certificate(name)
            files[profile.key_file(stem)] = certificate.key_text(authority.key)
            revoked = after.revoked(name)
            files[profile.crl_file(name)] = authority.revocation_list(revoked, number=len(revoked) + 1)
    return Restored(len(fresh) + len(unknown), len(open_))


def _revoked(path: Path, authority: certificate.Authority) -> dict[int, datetime.datetime]:
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            "cannot be read", where=str(path), hint="name a folder with the lists of a node: /etc/flotilla/trust"
        ) from error
    found = authority.revocations(text)
    if found is None:
        raise Failure("not a list of the copy's authority", where=str(path), hint="is it a node of this cluster?")
    return found

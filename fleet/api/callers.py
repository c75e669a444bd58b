"""Who may do what: the role in a caller's certificate, as its authority has signed it.

Whoever comes through the unix socket is root, or in the group that equals root, and is asked for no certificate. Over
plain TCP, which only an explicit setting opens, nothing is known of a caller, and all is allowed.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from terminal import Failure
from webserver.message import Request

READER: Final = "reader"
OPERATOR: Final = "operator"
_READING: Final = ("GET", "HEAD", "OPTIONS")
_UNITS_SHOWN: Final = 10


class Forbidden(Failure):
    """The caller's certificate does not permit the request: HTTP 403."""


def check(request: Request, *, is_change: bool) -> None:
    """Raises :class:`Forbidden` unless the caller may have it done."""
    caller = request.certificate
    if caller is None:
        return
    whose = caller.name or "a certificate without one name"
    if caller.ends <= time.time():
        raise Forbidden(f"the certificate of {whose} has expired since this connection began", hint="trust renew")
    if not caller.name or caller.role not in (READER, OPERATOR):
        raise Forbidden(
            f"{whose} has the role {caller.role[:64]!r}, and this API knows {READER} and {OPERATOR} only",
            hint="use a certificate that is a user's: trust issue --user NAME --role ROLE",
        )
    if is_change and caller.role != OPERATOR:
        raise Forbidden(
            f"{whose} is a {READER}, and changes nothing",
            hint=f"ask an operator, or whoever has the trust folder for a certificate with --role {OPERATOR}",
        )


def changes(request: Request, path: str) -> bool:
    """Whether the request to this path may change something; ``POST .../progress`` reads, with its query in a body."""
    return request.method not in _READING and not (request.method == "POST" and path.endswith("/progress"))


def shown(request: Request) -> str:
    """The caller, for the journal."""
    caller = request.certificate
    if caller is not None:
        return f"{caller.name} ({caller.role}, certificate {caller.serial}, from {request.peer})"
    return request.by if request.uid is not None else f"{request.peer or 'someone'} (without a certificate)"


def named(units: Collection[str]) -> str:
    """Units, for the journal: some of them, if they are many."""
    listed = " ".join(sorted(units)[:_UNITS_SHOWN])
    more = len(units) - _UNITS_SHOWN
    return f"{listed} and {more} more" if more > 0 else listed

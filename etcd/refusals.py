"""etcd's refusals as messages with the next step.

Source of its texts: ``api/v3rpc/rpctypes/error.go`` of etcd 3.5, and gRPC's own for a message that is too large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from etcd.errors import Compacted, Corrupt, Denied, EtcdError, LeaseNotFound, NoSpace, TooLarge, Unavailable

_CANCELLED, _DEADLINE_EXCEEDED, _NOT_FOUND, _PERMISSION_DENIED = 1, 4, 5, 7
_RESOURCE_EXHAUSTED, _OUT_OF_RANGE, _UNAVAILABLE, _DATA_LOSS, _UNAUTHENTICATED = 8, 11, 14, 15, 16


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Texts of etcd have one of ``phrases``, or its answer has one of ``codes``; ``means`` goes before the text."""

    kind: type[EtcdError]
    phrases: tuple[str, ...]
    codes: tuple[int, ...]
    means: str
    hint: str


_REFUSALS: Final = (
    _Refusal(
        NoSpace,
        ("database space exceeded",),
        (),
        "etcd is full, and takes nothing new",
        "the nodes make room within minutes; if not, 'sudo discovery alarms' on a node says why (docs/etcd.md)",
    ),
    _Refusal(
        Corrupt,
        ("corrupt cluster",),
        (_DATA_LOSS,),
        "the members of etcd do not agree on the data, and take no more of it",
        "the nodes remove the member that differs within minutes; if not, 'sudo discovery alarms' on a node says why "
        "(docs/etcd.md)",
    ),
    _Refusal(
        TooLarge,
        ("request is too large", "message larger than max", "too many operations"),
        (),
        "that is more than etcd takes in one request",
        "make it smaller: etcd takes 1.5 MiB (--max-request-bytes), and a unit is text",
    ),
    _Refusal(
        Denied,
        (
            "permission denied",
            "invalid auth token",
            "user name is empty",
            "user name not found",
            "authentication failed",
            "auth store is old",
        ),
        (_PERMISSION_DENIED, _UNAUTHENTICATED),
        "etcd does not let this client do that",
        "check the client's certificate, and users and roles: 'etcdctl auth status', 'etcdctl user list', "
        "'etcdctl role list'",
    ),
)


def refusal(message: str, *, where: str, code: int = 0, lease: int = 0) -> EtcdError:
    """The error for ``message`` with the gRPC status ``code``, in answer to a request with this ``lease`` (0: none)."""
    message = message.removeprefix("etcdserver: ")
    if code in (_CANCELLED, _DEADLINE_EXCEEDED, _UNAVAILABLE):
        return Unavailable(message, where=where, code=code, maybe_applied=True)
    if code == _RESOURCE_EXHAUSTED and "too many requests" in message:
        return Unavailable(message, where=where, code=code, reached=True)  # refused before it was begun
    if code == _OUT_OF_RANGE and "compacted" in message:
        return Compacted(0, where=where)
    if code == _NOT_FOUND and "lease" in message:
        return LeaseNotFound(lease, where=where)
    for known in _REFUSALS:
        if code in known.codes or any(phrase in message for phrase in known.phrases):
            return known.kind(f"{known.means} ({message})", where=where, hint=known.hint, code=code)
    return EtcdError(message, where=where, code=code)

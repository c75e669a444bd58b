"""What a node and an issuer say to each other: HTTP with JSON bodies, over TLS pinned to the issuer's authority.

    GET  /v1/authority   the authority's certificate in PEM: its SHA-256 is the fingerprint in user-data
    GET  /v1/nonce       a word that one request of the next minutes has to have in it
    POST /v1/enrol       a Request with a join secret, signed -> an Answer
    POST /v1/renew       the same without: the machine key is known -> an Answer
    GET  /v1/lists       the lists of revoked certificates; ETag and If-None-Match
    GET  /v1/health      whether it could issue now

The header ``Flotilla-Signature`` is base64 of an ECDSA signature (SHA-256, DER) over the body, by the machine key that
is in the body. A refusal has a status from 400 on and a body ``{"v": 1, "message": ..., "hint": ...}``.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Final, TypeVar

from enrolment.files import GIVEN, LISTS
from terminal import Failure, record

VERSION: Final = 1
AUTHORITY, NONCE, ENROL, RENEW, LISTS_PATH, HEALTH = (
    f"/v1/{name}" for name in ("authority", "nonce", "enrol", "renew", "lists", "health")
)
SIGNATURE: Final = "Flotilla-Signature"
ORGANIZATION: Final = "issuer"
"""In the subject of an issuer's own certificate: no node gets one like that, so none can pose as the issuer."""
REQUEST_BYTES_MAX: Final = 16 << 10
ANSWER_BYTES_MAX: Final = 16 << 20
"""Of lists with some 200,000 entries."""
_TEXT_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """What a node asks for: certificates for ``name`` and IP ``addresses``.

    ``machine`` is its machine key's public half in PEM, ``requests`` has a request for a certificate (PKCS #10, PEM)
    by the name of each leaf. ``secret`` is for enrolling. ``certificate``, for renewing, is one that it has, in PEM: an
    issuer that was restored from an old copy learns by it whom it has forgotten.
    """

    v: int
    nonce: str
    name: str
    addresses: tuple[str, ...]
    machine: str
    requests: dict[str, str]
    secret: str = field(default="", repr=False)
    certificate: str = ""

    def dump(self) -> bytes:
        """The body."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the node gets: texts by file name, all of :data:`enrolment.files.GIVEN`; times are ISO 8601 in UTC."""

    v: int
    issued: str
    not_after: str
    files: dict[str, str]

    def dump(self) -> bytes:
        """The body."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, slots=True)
class Lists:
    """All of :data:`enrolment.files.LISTS`, by file name."""

    v: int
    files: dict[str, str]

    def dump(self) -> bytes:
        """The body."""
        return json.dumps(asdict(self)).encode()


T = TypeVar("T", Answer, Lists)


def request(body: bytes) -> Request:
    """Read a body. Raises Failure."""
    try:
        found = record.build(Request, record.parse(body))
        texts = (found.nonce, found.name, found.machine, found.secret, found.certificate)
        if found.v != VERSION or max(map(len, (*texts, *found.addresses, *found.requests.values()))) > _TEXT_MAX:
            raise ValueError("not of this version, or too long")
    except ValueError as error:
        raise Failure("not the request of a node", hint="is its image of the same version as the issuer?") from error
    return found


def answer(body: bytes) -> Answer:
    """Read a body. Raises Failure."""
    return _of_issuer(Answer, body, GIVEN)


def lists(body: bytes) -> Lists:
    """Read a body. Raises Failure."""
    return _of_issuer(Lists, body, LISTS)


def _of_issuer(kind: type[T], body: bytes, names: Collection[str]) -> T:
    try:
        found = record.build(kind, record.parse(body))
        if found.v != VERSION or found.files.keys() != set(names):
            raise ValueError("not of this version, or not whole")
    except ValueError as error:
        raise Failure("the answer is not an issuer's", hint="is its version that of the image?") from error
    return found


def refusal(message: str, hint: str | None) -> bytes:
    """The body of a refusal."""
    return json.dumps({"v": VERSION, "message": message, "hint": hint or ""}).encode()


def reason(body: bytes) -> tuple[str, str]:
    """Message and hint of a refusal; empty ones of what is none."""
    try:
        found = record.parse(body)
        return str(found["message"])[:_TEXT_MAX], str(found["hint"])[:_TEXT_MAX]
    except (ValueError, KeyError, TypeError):
        return "", ""

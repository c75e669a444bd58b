"""Lines of the protocol between commands and a cluster's supervisor.

A JSON line there, a JSON line back, over its unix socket. Pure.

::

    -> {"do": "request", "protocol": 1, "program": "0.1.0", "request": "StopNode", "fields": {"node": 2}}
    <- {"protocol": 1, "program": "0.1.0", "result": null}
    <- {"protocol": 1, "program": "0.1.0", "failure": "...", "where": "...", "hint": "..."}

Both sides refuse all other lines. A supervisor outlives the command that started it, and may then be of another version
than the next command. So every version keeps ``do`` (to which supervisors from before this protocol reply with a
failure), ``protocol``, ``program``, and ``failure``, ``where`` and ``hint``, which is all that is read of another
version's lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TypeVar

from cluster.model import protocol
from cluster.model.protocol import REQUESTS, TURNS, Message, Request, Turn, reply_type
from terminal import Failure, record
from terminal.version import VERSION as PROGRAM

REMEDY = "cluster-down and cluster-up make it again with this version; or use the version that started it"

T = TypeVar("T")
R = TypeVar("R")


def encode(request: Request[object]) -> bytes:
    """``request`` as a line."""
    return _line({"do": "request", **_version(), "request": type(request).__name__, "fields": request})


def decode(line: bytes) -> Request[object]:
    """The request on ``line``. Raises :class:`Failure` for all else, and for one of another version."""
    try:
        message = record.parse(line)
        other = _other(message, "this command is of", f"the cluster was started by Flotilla {PROGRAM}")
        if other is not None:
            raise other
        return _built(REQUESTS, message, "request")
    except ValueError as error:
        raise Failure(f"the supervisor knows no such request: {error}") from None


def encode_turn(turn: Turn) -> bytes:
    """``turn`` as a line. It follows a request, whose version was the right one."""
    return _line({"turn": type(turn).__name__, "fields": turn})


def decode_turn(line: bytes) -> Turn:
    """The turn on ``line``. Raises ``ValueError``."""
    return _built(TURNS, record.parse(line), "turn")


def encode_reply(request: Request[T], result: object) -> bytes:
    """``result``, the reply to ``request``, as a line.

    Raises ``ValueError`` if it is not of the type that the request names.
    """
    return _line({**_version(), "result": record.fit(reply_type(type(request)), result, "the reply")})


def encode_failure(failure: Failure) -> bytes:
    """``failure`` as a line."""
    fields = {"failure": failure.message, "where": failure.where, "hint": failure.hint}
    return _line({**_version(), **fields})


def decode_reply(request: Request[T], line: bytes, where: str) -> T:
    """The reply to ``request`` on ``line``, which came from ``where``.

    Raises :class:`Failure`: the supervisor's, or that this is no reply.
    """
    try:
        message = record.parse(line)
        if not isinstance(message, dict):
            raise ValueError("it is no object")
        if (failure := failure_of(message, where) or _other_supervisor(message, where)) is not None:
            raise failure
        if "result" not in message:
            raise ValueError("it has no result")
        reply: T = record.fit(reply_type(type(request)), message["result"], "the reply")
    except ValueError as error:
        name = type(request).__name__
        raise Failure(f"the cluster's supervisor does not answer to {name}: {error}", where=where) from None
    return reply


def failure_of(message: Mapping[str, object], where: str) -> Failure | None:
    """The failure in ``message``, a line of the supervisor at ``where``; None if it holds none."""
    match message:
        case {"protocol": int(), "failure": str(why), "where": str() | None as place, "hint": str() | None as hint}:
            return Failure(why, where=place, hint=hint)
        case {"failure": _}:
            unclear = Failure("the cluster's supervisor has failed without a reason", where=where)
            return _other_supervisor(message, where) or unclear
        case _:
            return None


def _version() -> Message:
    return {"protocol": protocol.VERSION, "program": PROGRAM}


def _other_supervisor(message: object, where: str) -> Failure | None:
    return _other(message, "the cluster was started by", f"this command is of Flotilla {PROGRAM}", where)


def _other(message: object, who: str, we: str, where: str | None = None) -> Failure | None:
    """What is wrong if ``message``, a line of ``who``, is of another version than ``we`` are; None if it is not."""
    match message:
        case {"protocol": int(number), "program": str(program)}:
            other, speaks = f"Flotilla {program}", f"which speaks protocol {number}"
        case _:
            number, other, speaks = 0, "an older Flotilla", "which numbers no protocol"
    if number == protocol.VERSION:
        return None
    return Failure(f"{who} {other}, {speaks}; {we}, which speaks protocol {protocol.VERSION}", where=where, hint=REMEDY)


def _built(kinds: tuple[type[R], ...], message: object, name: str) -> R:
    if not isinstance(message, dict):
        raise ValueError("it is no object")
    kind = next((each for each in kinds if each.__name__ == message.get(name)), None)
    if kind is None:
        raise ValueError(str(message.get(name)))
    try:
        return record.build(kind, message.get("fields"))
    except ValueError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None


def _line(message: Message) -> bytes:
    """Replies may be dataclasses, or have some in them."""
    return json.dumps(message, default=asdict).encode() + b"\n"

"""The JSON of etcd's gRPC gateway: bytes are base64, 64-bit integers are strings, zero values are left out.

Pure: dictionaries in, values out. Any other shape raises :class:`ValueError`, which the transport turns into an
:class:`~etcd.errors.EtcdError`. Source: https://etcd.io/docs/v3.5/dev-guide/api_grpc_gateway/ and rpc.proto.
"""

from __future__ import annotations

from base64 import b64encode
from binascii import a2b_base64
from typing import Any

from etcd.protocol import Compare, Event, KeyValue, Member, Op, OpResult, RangeResult, Status, TxnResult, WatchBatch

Json = dict[str, Any]

_RELATIONS = {"==": "EQUAL", "!=": "NOT_EQUAL", "<": "LESS", ">": "GREATER"}
_OPERANDS = {"CREATE": "create_revision", "MOD": "mod_revision", "VERSION": "version", "LEASE": "lease"}


def encode_key(key: str) -> bytes:
    """The bytes of a key."""
    return key.encode("utf-8", "surrogateescape")


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with ``prefix``; ``\\0`` (etcd's "to the end") if there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0"


def base64(data: bytes) -> str:
    """The gateway's form of bytes."""
    return b64encode(data).decode("ascii")


def key_fields(key: str, *, prefix: bool) -> Json:
    """``key`` and ``range_end`` of a request. The empty prefix stands for the whole key space, from ``\\0`` on."""
    raw = encode_key(key)
    if not prefix:
        return {"key": base64(raw)}
    return {"key": base64(raw or b"\0"), "range_end": base64(prefix_end(raw))}


def put_fields(key: str, value: bytes, lease: int) -> Json:
    """A PutRequest."""
    fields = {"key": base64(encode_key(key)), "value": base64(value)}
    if lease:
        fields["lease"] = str(lease)
    return fields


def encode_compare(compare: Compare) -> Json:
    """A Compare of a TxnRequest."""
    fields = {
        "key": base64(encode_key(compare.key)),
        "target": compare.target,
        "result": _RELATIONS[compare.relation],
    }
    if isinstance(compare.operand, bytes):
        fields["value"] = base64(compare.operand)
    else:
        fields[_OPERANDS[compare.target]] = str(compare.operand)
    return fields


def encode_op(op: Op) -> Json:
    """A RequestOp of a TxnRequest."""
    if op.kind == "put":
        return {"request_put": put_fields(op.key, op.value_bytes, op.lease)}
    fields = key_fields(op.key, prefix=op.prefix)
    return {"request_delete_range": fields} if op.kind == "delete" else {"request_range": fields}


def integer(fields: Json, name: str) -> int:
    """A number that the gateway writes as a string, or leaves out if it is zero."""
    value = fields.get(name, 0)
    if (
        type(value) is str or type(value) is int
    ):  # not a bool; and quicker than isinstance, of which a range has millions
        return int(value)
    raise ValueError(f"{name} is not a number")


def text(fields: Json, name: str) -> str:
    """A string, empty if it is left out."""
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")
    return value


def binary(fields: Json, name: str) -> bytes:
    """Bytes, empty if they are left out."""
    value = fields.get(name, "")
    try:
        return a2b_base64(value, strict_mode=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not base64") from error


def member_object(fields: Json, name: str) -> Json:
    """A nested object, empty if it is left out."""
    value = fields.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value


def object_list(fields: Json, name: str) -> list[Json]:
    """A list of objects, empty if it is left out."""
    value = fields.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"{name} is not a list of objects")
    return value


def strings(fields: Json, name: str) -> tuple[str, ...]:
    """A list of strings, empty if it is left out."""
    value = fields.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} is not a list of strings")
    return tuple(value)


def revision(answer: Json) -> int:
    """The revision in the header of any answer."""
    return integer(member_object(answer, "header"), "revision")


def decode_kv(fields: Json) -> KeyValue:
    """An mvccpb.KeyValue."""
    return KeyValue(
        key=binary(fields, "key").decode("utf-8", "surrogateescape"),
        value=binary(fields, "value"),
        create_revision=integer(fields, "create_revision"),
        mod_revision=integer(fields, "mod_revision"),
        version=integer(fields, "version"),
        lease=integer(fields, "lease"),
    )


def decode_range(answer: Json) -> RangeResult:
    """A RangeResponse: one page of it."""
    return RangeResult(tuple(decode_kv(kv) for kv in object_list(answer, "kvs")), revision(answer))


def decode_end(answer: Json) -> tuple[str, int]:
    """Where the page after that of a RangeResponse begins (the key, encoded), and the store's revision."""
    kvs = object_list(answer, "kvs")
    if not kvs:
        raise ValueError("a page without keys that is not the last")
    return base64(binary(kvs[-1], "key") + b"\0"), revision(answer)


def _decode_op(fields: Json) -> OpResult:
    if "response_range" in fields:
        found = object_list(member_object(fields, "response_range"), "kvs")
        return OpResult("get", kvs=tuple(decode_kv(kv) for kv in found))
    if "response_delete_range" in fields:
        return OpResult("delete", deleted=integer(member_object(fields, "response_delete_range"), "deleted"))
    if "response_put" in fields:
        return OpResult("put")
    raise ValueError("unknown response in a transaction")


def decode_txn(answer: Json) -> TxnResult:
    """A TxnResponse."""
    return TxnResult(
        succeeded=answer.get("succeeded") is True,
        revision=revision(answer),
        responses=tuple(_decode_op(fields) for fields in object_list(answer, "responses")),
    )


def _decode_event(fields: Json) -> Event:
    kv = decode_kv(member_object(fields, "kv"))
    return Event("delete" if fields.get("type") == "DELETE" else "put", kv)


def decode_batch(answer: Json) -> WatchBatch:
    """A WatchResponse.

    With events, the header's revision is no place to resume from: while etcd catches up, it names the newest revision
    of the store in each of several batches. The last event's is.
    """
    events = tuple(_decode_event(fields) for fields in object_list(answer, "events"))
    return WatchBatch(events[-1].kv.mod_revision if events else revision(answer), events)


def decode_member(fields: Json) -> Member:
    """A Member of a MemberListResponse."""
    return Member(
        id=integer(fields, "ID"),
        name=text(fields, "name"),
        peer_urls=strings(fields, "peerURLs"),
        client_urls=strings(fields, "clientURLs"),
        learner=fields.get("isLearner") is True,
    )


def decode_status(answer: Json) -> Status:
    """A StatusResponse."""
    header = member_object(answer, "header")
    return Status(
        version=text(answer, "version"),
        member_id=integer(header, "member_id"),
        leader=integer(answer, "leader"),
        raft_term=integer(answer, "raftTerm"),
        raft_index=integer(answer, "raftIndex"),
        revision=integer(header, "revision"),
        db_size=integer(answer, "dbSize"),
        learner=answer.get("isLearner") is True,
        errors=strings(answer, "errors"),
    )

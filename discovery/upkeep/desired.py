"""What etcd itself knows of its membership, below a prefix (``/flotilla/etcd/`` by default), with who writes each key:

================  ==================================================================================================
``size``          a person (``discovery size``): how many voters there should be, 1, 3 or 5; absent: by the number of
                  nodes
``nodes/NAME``    the node: that it could be a member, and what it is now. Without a lease: it outlives the machine
``upkeep``        the voters' leader: its last step, or why there is none, and what it says of each member
================  ==================================================================================================

Values are JSON objects with a version ``v``; one of another version, or a broken one, counts as missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from discovery.upkeep.plan import SIZES, Node, Step
from etcd.protocol import KeyValue
from terminal import record

PREFIX: Final = "/flotilla/etcd/"
MACHINES: Final = "/flotilla/fleet/machines/"
"""Below it, a key under a lease for each machine that is alive: fleet's, or those of whoever else knows."""
_V: Final = 1


class Offer(NamedTuple):
    """A node by its own account: ``role`` is "voter", "learner" or "proxy", and has been so ``since``.

    ``lost`` is the id of the member that it is in etcd's list, though its data is gone; else 0.
    """

    urls: tuple[str, ...]
    machine: str
    role: str
    since: str
    lost: int = 0

    def encoded(self) -> bytes:
        """The key's value."""
        fields: dict[str, object] = {"v": _V, "peers": list(self.urls), "machine": self.machine, "role": self.role}
        return _json({**fields, "since": self.since, "lost": f"{self.lost:x}"})


class Report(NamedTuple):
    """What the leader called ``by`` has decided ``since``, the ``target`` that it works towards, and for each member
    (by id) what it says of it, and since when."""

    by: str
    step: Step
    since: str
    target: int
    members: Mapping[int, tuple[str, str]]

    def encoded(self) -> bytes:
        """The key's value."""
        kind, reason, member, node, _ = self.step
        fields: dict[str, object] = {"v": _V, "by": self.by, "kind": kind, "reason": reason, "member": f"{member:x}"}
        said = {f"{one:x}": {"is": text, "since": since} for one, (text, since) in self.members.items()}
        return _json({**fields, "node": node, "since": self.since, "target": self.target, "members": said})


class Desired(NamedTuple):
    """All keys below the prefix, and the revision that changed the leader's last."""

    size: int
    offers: Mapping[str, Offer]
    report: Report | None
    fence: int

    def nodes(self, failures: Mapping[str, int]) -> tuple[Node, ...]:
        """The nodes, for a plan."""
        return tuple(
            Node(name, one.urls, one.machine, one.lost, failures.get(name, 0)) for name, one in self.offers.items()
        )


def key_size(prefix: str) -> str:
    """Of the size that a person has set."""
    return f"{prefix}size"


def key_node(prefix: str, name: str) -> str:
    """Of a node's own account."""
    return f"{prefix}nodes/{name}"


def key_report(prefix: str) -> str:
    """Of the leader's."""
    return f"{prefix}upkeep"


def decode(kvs: Iterable[KeyValue], prefix: str) -> Desired:
    """What the keys below ``prefix`` say."""
    size, offers, report, fence = 0, {}, None, 0
    for kv in kvs:
        key = kv.key.removeprefix(prefix)
        if key == "size":
            size = _size(kv.value)
        elif key == "upkeep":
            report, fence = _report(kv.value), kv.mod_revision
        elif key.startswith("nodes/") and (offer := decode_offer(kv.value)) is not None:
            offers[key.removeprefix("nodes/")] = offer
    return Desired(size, offers, report, fence)


def decode_offer(value: bytes) -> Offer | None:
    """What :meth:`Offer.encoded` gave; None if it is not that."""
    try:
        fields = _fields(value)
        urls = tuple(map(_text, fields["peers"]))
        machine, role, since, lost = (_text(fields[key]) for key in ("machine", "role", "since", "lost"))
        return Offer(urls, machine, role, since, int(lost, 16))
    except (ValueError, KeyError, TypeError):
        return None


def _report(value: bytes) -> Report | None:
    try:
        fields = _fields(value)
        kind, reason, node, by, since = (_text(fields[key]) for key in ("kind", "reason", "node", "by", "since"))
        if kind not in ("nothing", "remove", "add", "promote", "evict"):
            return None
        step = Step(kind, reason, int(_text(fields["member"]), 16), node)  # type: ignore[arg-type]  # one of them
        said = {int(one, 16): (_text(each["is"]), _text(each["since"])) for one, each in fields["members"].items()}
        target = fields["target"]
        return Report(by, step, since, target if target in SIZES else 0, said)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _size(value: bytes) -> int:
    return int(value) if value in [b"%d" % size for size in SIZES] else 0


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(value)
    return value


def _fields(value: bytes) -> dict[str, Any]:
    found = record.parse(value)
    if not isinstance(found, dict) or found.get("v") != _V:
        raise ValueError("another version")
    return found


def _json(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()

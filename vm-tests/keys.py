"""etcd as a client on a node's own loopback sees it, through the node's ssh: JSON over HTTP, no program is run on the
node.

The paths and names are etcd's gRPC gateway's (api v3.5); keys and values are base64 there.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from terminal import Failure


class Refused(Failure):
    """etcd answered with an error: it has no leader, for example."""


@dataclass(frozen=True)
class Member:
    """What one node's etcd says of itself."""

    node: Node
    id: str
    leader: str
    term: int
    version: str

    @property
    def leads(self) -> bool:
        """Whether it is the leader, by its own word."""
        return self.id == self.leader


def ask(node: Node, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST to etcd's gateway on ``node``. Raises :class:`Refused`, or :class:`Failure` if there is no answer."""
    status, text = node.etcd("POST", path, body)
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise Refused(f"etcd's answer is no JSON: {text[:100]!r}", where=node.name) from error
    if status != 200:
        raise Refused(f"etcd refuses {path}: {answer.get('message', answer)}", where=node.name)
    return answer


def put(node: Node, key: str, value: str) -> int:
    """Write; returns the revision. It has happened then, and nothing that the cluster survives may lose it."""
    answer = ask(node, "/v3/kv/put", {"key": _coded(key), "value": _coded(value)})
    return int(answer["header"]["revision"])


def get(node: Node, key: str, *, serializable: bool = False) -> str | None:
    """Read: the latest that any client wrote, or, ``serializable``, what this member knows."""
    answer = ask(node, "/v3/kv/range", {"key": _coded(key), "serializable": serializable})
    return b64decode(answer["kvs"][0]["value"]).decode() if answer.get("kvs") else None


def everything(node: Node, prefix: str) -> dict[str, str]:
    """All keys that begin with ``prefix``, with their values."""
    answer = ask(
        node, "/v3/kv/range", {"key": _coded(prefix), "range_end": _coded(prefix[:-1] + chr(ord(prefix[-1]) + 1))}
    )
    return {b64decode(kv["key"]).decode(): b64decode(kv["value"]).decode() for kv in answer.get("kvs", [])}


def member(node: Node) -> Member:
    """What the etcd of ``node`` says of itself."""
    answer = ask(node, "/v3/maintenance/status", {})
    return Member(
        node, answer["header"]["member_id"], answer.get("leader", "0"), int(answer["raftTerm"]), answer["version"]
    )


def leader(cluster: Cluster) -> Node:
    """The node whose etcd leads. Raises AssertionError if there is none, or two think so."""
    leaders = [found.node for found in map(member, cluster.nodes[: cluster.description.members]) if found.leads]
    assert len(leaders) == 1, f"leaders: {[node.name for node in leaders]}"
    return leaders[0]


def others(cluster: Cluster, *nodes: Node) -> list[Node]:
    """The nodes that are not among ``nodes``."""
    names = {node.name for node in nodes}
    return [node for node in cluster.nodes if node.name not in names]


def alarms(node: Node) -> list[str]:
    """The alarms that etcd has raised: "NOSPACE", "CORRUPT"."""
    answer = ask(node, "/v3/maintenance/alarm", {"action": "GET", "memberID": 0, "alarm": "NONE"})
    return [alarm["alarm"] for alarm in answer.get("alarms", [])]


def hash_at(node: Node, revision: int) -> int:
    """A hash of all that ``node`` knows up to ``revision``: equal on all members of a healthy cluster."""
    return int(ask(node, "/v3/maintenance/hashkv", {"revision": revision})["hash"])


def _coded(text: str) -> str:
    return b64encode(text.encode()).decode()

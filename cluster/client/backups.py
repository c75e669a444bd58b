"""How the backups of etcd on a node go, as the node itself says (docs/etcd.md)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from cluster.client.node import Node
from cluster.client.room import PATIENCE_S
from cluster.model.status import BackupStatus
from discovery.backup.state import PATH, State
from terminal import Failure, printable

_TEXT_MAX: Final = 1 << 16
_NUMBER_MAX: Final = 1 << 62
_TROUBLE_MAX: Final = 300


def parse(text: str) -> BackupStatus | None:
    """From the node's file, which may be hostile: only what we know is taken from it. None if that is nothing."""
    state = State.parse(text) if len(text) <= _TEXT_MAX else None
    if state is None:
        return None
    last = state.last
    return {
        "taken": None if last is None else _bounded(last.taken),
        "revision": None if last is None else _bounded(last.revision),
        "size": None if last is None else _bounded(last.size),
        "kept": _bounded(state.kept),
        "trouble": printable(state.trouble[:_TROUBLE_MAX], instead=" "),
    }


def backups(nodes: Sequence[Node]) -> list[BackupStatus | None]:
    """Of each of these, read at once; None of one that does not answer in time or has not tried yet."""
    with ThreadPoolExecutor(max(len(nodes), 1)) as executor:
        return list(executor.map(_of, nodes))


def _of(node: Node) -> BackupStatus | None:
    try:
        answer = node.root(f"cat {PATH}", PATIENCE_S)
    except Failure:
        return None
    return parse(answer.out)


def _bounded(number: int) -> int:
    return min(max(number, 0), _NUMBER_MAX)

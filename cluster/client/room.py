"""How full the disk of a node is, as the node itself has found at its last check (docs/room.md)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from cluster.client.node import Node
from cluster.model.status import RoomStatus
from terminal import Failure
from upkeep.status import PATHS, STATUS, Status

PATIENCE_S: Final = 3.0
"""For all answers: a node that hangs is not waited for."""
_TEXT_MAX: Final = 1 << 20
_KINDS: Final = ("container", "image")
_COUNT_MAX: Final = 10**9


@dataclass(frozen=True, slots=True)
class Room:
    """``percent`` by path, as df(1) shows it; ``above`` has the paths that are too full, ``removed`` how many
    containers and images went since the node's start; ``stuck``: too full, and nothing more may be removed."""

    percent: dict[str, int]
    above: tuple[str, ...]
    stuck: bool
    removed: dict[str, int]

    def data(self) -> RoomStatus:
        """For JSON."""
        return {"percent": self.percent, "above": list(self.above), "stuck": self.stuck, "removed": self.removed}

    @classmethod
    def parse(cls, text: str) -> Room | None:
        """From the node's file, which may be hostile: only what we know is taken from it. None if that is nothing."""
        if len(text) > _TEXT_MAX:
            return None
        found = Status.parse(text)
        known = [str(path) for path in PATHS]
        percent = {fill.path: round(min(max(fill.percent, 0), 100)) for fill in found.fills if fill.path in known}
        above = tuple(path for path in percent if path in found.above)
        removed = {kind: min(max(found.removed.get(kind, 0), 0), _COUNT_MAX) for kind in _KINDS}
        return cls(percent, above, found.stuck, removed) if percent else None


def rooms(nodes: Sequence[Node]) -> list[Room | None]:
    """Of each of these, read at once; None of one that does not answer in time or has not checked yet."""
    with ThreadPoolExecutor(max(len(nodes), 1)) as executor:
        return list(executor.map(_room, nodes))


def _room(node: Node) -> Room | None:
    try:
        answer = node.root(f"cat {STATUS}", PATIENCE_S)
    except Failure:
        return None
    return Room.parse(answer.out)

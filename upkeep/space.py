"""Which containers and images go when a disk fills up. Pure: docker's data, the time and the fill level are arguments.

A container is idle once it has ended, an image while no container has it, but for containers that are idle themselves.
What has been idle for a while goes, the longest idle first, containers before images, until there is room again.
Whatever carries the label ``flotilla.keep`` stays. The thresholds are those of Kubernetes' kubelet
(``image-gc-high-threshold`` and the like).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

KEEP: Final = "flotilla.keep"
"""The label of containers and images that stay."""
ENDED: Final = frozenset({"exited", "dead"})
"""States of containers that will not run again by themselves. ``created`` is not one: its start follows."""


@dataclass(frozen=True, slots=True)
class Container:
    """``image`` is the id of its image, ``state`` docker's term, ``created`` in seconds since 1970.

    ``kept``: it has the label."""

    id: str
    name: str
    image: str
    state: str
    created: int
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """``tags`` are its names, none for one that lost them to a newer one."""

    id: str
    tags: tuple[str, ...]
    created: int
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Holdings:
    """All that docker has."""

    containers: Sequence[Container]
    images: Sequence[Image]

    def idle(self) -> tuple[Container | Image, ...]:
        """The containers and images that may be removed."""
        ended = [each for each in self.containers if each.state in ENDED and not each.kept]
        ids = {each.id for each in ended}
        used = {each.image for each in self.containers if each.id not in ids}
        return (*ended, *(each for each in self.images if each.id not in used and not each.kept))


@dataclass(frozen=True, slots=True)
class Fill:
    """How full a file system is for all but the system, as df(1) shows it.

    What ext4 reserves (``f_bfree - f_bavail``) counts as full.

    ``size_bytes`` is without what is kept.
    """

    path: str
    size_bytes: int
    percent: float

    @classmethod
    def of(cls, path: str, block_bytes: int, blocks: int, free: int, available: int) -> Fill:
        """From the fields ``f_frsize``, ``f_blocks``, ``f_bfree`` and ``f_bavail`` of statvfs(3)."""
        used = blocks - free
        size = used + available
        return cls(path, size * block_bytes, 100 * used / size if size > 0 else 0.0)


def idle_since(idle: Sequence[Container | Image], before: Mapping[str, float], now: float) -> dict[str, float]:
    """Since when each is idle, by id: as ``before`` knew it, ``now`` for what was not idle then.

    ``now`` is never before what ``before`` has."""
    return {each.id: min(before.get(each.id, now), now) for each in idle}


def order(
    idle: Sequence[Container | Image], since: Mapping[str, float], now: float, rest_s: float
) -> list[Container | Image]:
    """Those that have been idle for ``rest_s`` seconds, in the order in which they go."""
    due = [each for each in idle if now - since.get(each.id, now) >= rest_s]
    return sorted(due, key=lambda each: (isinstance(each, Image), since.get(each.id, now), each.created, each.id))

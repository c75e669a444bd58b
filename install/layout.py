"""What an installed disk consists of: ``disk.json`` on the medium, which the builder wrote (builder/targets/iso.py).

All places and sizes are bytes. What no extent covers is zeros.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from media.partition import Partition
from terminal import Failure, record

NAME: Final = "disk.json"
MIB: Final = 1 << 20
BLOCK: Final = 4096
"""All extents are whole blocks: the size in which a disk can be read past the kernel's cache."""

STATE: Final = "state"

_SOURCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Extent:
    """``size`` bytes from ``source_offset`` of ``source`` for ``offset`` of the disk, with their SHA-256."""

    source: str
    source_offset: int
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Layout:
    """A disk of at least ``size`` bytes; its last partition is the state and takes the remaining space."""

    name: str
    version: str
    root_hash: str
    identifier: uuid.UUID
    size: int
    partitions: tuple[Partition, ...]
    extents: tuple[Extent, ...]

    @property
    def state(self) -> Partition:
        """The last partition."""
        return self.partitions[-1]

    def grown(self, size: int) -> Layout:
        """The same for a disk of ``size`` bytes, at least the present size.

        The state ends where the MiB of the table's backup begins.
        """
        end = size // MIB * MIB - MIB
        state = replace(self.state, size=end - self.state.start)
        return replace(self, size=size, partitions=(*self.partitions[:-1], state))


def load(folder: Path) -> Layout:
    """The layout in ``folder`` of a medium. Raises Failure if there is none, or if it is broken."""
    path = folder / NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Failure(
            f"this is no installation medium: {error.strerror}",
            where=str(path),
            hint="boot from the ISO, or name the folder where it is mounted with --medium",
        ) from error
    return parse(data, str(path))


def parse(data: bytes, where: str) -> Layout:
    """The layout that ``data`` describes. Raises Failure, naming ``where``, unless it is complete and consistent."""
    try:
        value = record.parse(data)
        if value["v"] != 1:
            raise Failure(
                f"is of version {value['v']}, this program knows 1", where=where, hint="install with the medium's own"
            )
        layout = Layout(
            _text(value["name"]),
            _text(value["version"]),
            _matching(_SHA256, value["root_hash"]),
            uuid.UUID(value["identifier"]),
            _count(value["size"]),
            tuple(_partition(part) for part in value["partitions"]),
            tuple(_extent(extent) for extent in value["extents"]),
        )
        _check(layout)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(
            "the description of the disk is broken", where=where, hint="the medium is damaged: write it again"
        ) from error
    return layout


def _partition(value: Mapping[str, object]) -> Partition:
    return Partition(
        _text(value["name"]),
        uuid.UUID(str(value["type"])),
        uuid.UUID(str(value["identifier"])),
        _count(value["start"]),
        _count(value["size"]),
    )


def _extent(value: Mapping[str, object]) -> Extent:
    return Extent(
        _matching(_SOURCE, value["source"]),
        _count(value["source_offset"]),
        _count(value["offset"]),
        _count(value["size"]),
        _matching(_SHA256, value["sha256"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"not a name: {value!r}")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
        raise ValueError(f"not a number of bytes: {value!r}")
    return value


def _matching(pattern: re.Pattern[str], value: object) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"not {pattern.pattern}: {value!r}")
    return value


def _check(layout: Layout) -> None:
    """Raise ValueError unless partitions follow each other without overlap and every extent lies in one of them."""
    free = MIB
    for part in layout.partitions:
        if part.start < free or part.start % MIB or part.size % MIB or not part.size or len(part.name) > 36:
            raise ValueError(f"partition {part.name!r} at {part.start}")
        free = part.end
    if not layout.partitions or layout.state.name != STATE or layout.size < free + MIB:
        raise ValueError("no room for the state")
    for extent in layout.extents:
        if extent.offset % BLOCK or extent.size % BLOCK or extent.source_offset % BLOCK or not extent.size:
            raise ValueError(f"extent at {extent.offset}: not whole blocks")
        if not any(p.start <= extent.offset and extent.offset + extent.size <= p.end for p in layout.partitions):
            raise ValueError(f"extent at {extent.offset}: in no partition")

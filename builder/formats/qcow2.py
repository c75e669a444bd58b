"""QEMU's own format for disks, written directly from the contents.

qemu-img needs the whole disk as a file first: another copy of everything, which takes longer than all of this module's
work. Format: QEMU's "Qcow2 Image File Format" (docs/interop/qcow2.rst), version 3, of which QEMU 1.1 and all later ones
read everything used here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from builder.core.extent import Extent
from media.sparse import data_ranges

CLUSTER_BITS: Final = 16
CLUSTER: Final = 1 << CLUSTER_BITS
"""Unit of allocation for the guest in bytes, qemu-img's default."""

_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII8x")
"""The header.

Magic, version, backing file and its name's length, cluster bits, size, encryption, entries and place of the first
table, place and clusters of the refcounts' table, snapshots and their place, features (three sets), refcount bits,
header length; and no extensions.
"""
_HEADER_BYTES: Final = 104
_REFCOUNT_BITS_LOG: Final = 4
_ENTRIES: Final = CLUSTER // 8
"""Of a table of places."""
_REFCOUNTS: Final = CLUSTER // 2
"""In a cluster of them."""
_COPIED: Final = 1 << 63
"""Marks a place that nothing else refers to."""
_BLANK: Final = bytes(CLUSTER)


def write(size: int, contents: Iterable[Extent], output: Path) -> None:
    """Write a disk of ``size`` bytes that holds ``contents`` as the new file ``output``; zeros take no room in it.

    Every extent begins at a multiple of :data:`CLUSTER`; where two of them meet in one, at most one has more than zeros
    there. The same contents give the same bytes, wherever they have holes. Raises :class:`terminal.Failure` for a
    truncated source.
    """
    with output.open("wb") as file:
        places: dict[int, int] = {}
        free = count(CLUSTER, CLUSTER)  # after the header's

        def put(data: bytes) -> int:
            place = next(free)
            file.seek(place)
            file.write(data)
            return place

        def put_all(data: bytes) -> list[int]:
            return [put(data[at : at + CLUSTER]) for at in range(0, len(data), CLUSTER)]

        for extent in contents:
            for number, data in _clusters(extent):
                places[number] = put(data)
        tables: dict[int, list[int]] = {}
        for number, place in places.items():
            tables.setdefault(number // _ENTRIES, [0] * _ENTRIES)[number % _ENTRIES] = place | _COPIED
        first = [0] * -(-size // (CLUSTER * _ENTRIES))
        for number, table in tables.items():
            first[number] = put(_places(table)) | _COPIED
        first_place = put_all(_places(first))[0]
        # The refcounts also count their own clusters, and that of their table.
        used = next(free) // CLUSTER
        blocks = next(n for n in count(1) if n * _REFCOUNTS >= used + n + 1)
        free = count(used * CLUSTER, CLUSTER)
        counts = put_all((b"\0\1" * (used + blocks + 1)).ljust(blocks * CLUSTER, b"\0"))
        counts_place = put(_places(counts))
        file.seek(0)
        file.write(
            _HEADER.pack(
                *(b"QFI\xfb", 3, 0, 0, CLUSTER_BITS, size, 0, len(first), first_place, counts_place, 1),
                *(0, 0, 0, 0, 0, _REFCOUNT_BITS_LOG, _HEADER_BYTES),
            )
        )
        file.truncate((used + blocks + 1) * CLUSTER)


def _places(table: list[int]) -> bytes:
    return struct.pack(f">{len(table)}Q", *table)


def _clusters(extent: Extent) -> Iterator[tuple[int, bytes]]:
    """(number on the disk, contents) of each cluster of ``extent`` that is not all zeros."""
    if extent.offset % CLUSTER:
        raise ValueError(f"{extent} does not begin with a cluster")
    begin, end = extent.source_offset, extent.source_offset + extent.size
    with extent.source.open("rb", buffering=0) as source:
        extent.require(source.fileno())
        seen = begin
        for start, stop in data_ranges(source.fileno(), begin, end):
            # Data need not begin at a cluster; what precedes it in its cluster was already read, or is zeros.
            at = max(seen, begin + (start - begin) // CLUSTER * CLUSTER)
            while at < stop:
                source.seek(at)
                data = source.read(min(CLUSTER, end - at))
                if not _BLANK.startswith(data):
                    yield (extent.offset + at - begin) // CLUSTER, data
                at += CLUSTER
            seen = at

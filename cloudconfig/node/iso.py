"""Reads small files from the root of an ISO 9660 volume, without mounting it.

A seed volume is untrusted input of a dozen sectors. Parsing it here, with bounds on everything, spares the node a
kernel driver, a mount, and the kernel's opinion of a hostile file system. Formats: ECMA-119 for the volume and its
directory records, Joliet (a supplementary descriptor with UCS-2 names), SUSP/RRIP ``NM`` entries for Rock Ridge names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import BinaryIO

from terminal import Failure

SECTOR = 2048
FIRST_DESCRIPTOR = 16
DESCRIPTORS_MAX = 16
DIRECTORY_MAX = 64 * SECTOR
FILE_MAX = 2 << 20

_JOLIET = (b"%/@", b"%/C", b"%/E")


class IsoError(Failure):
    """Not an ISO 9660 volume, or a broken one."""


def label(volume: BinaryIO) -> str:
    """The volume's label. Raises IsoError."""
    for descriptor in _descriptors(volume):
        if descriptor[0] == 1:
            return descriptor[40:72].decode("ascii", "replace").rstrip(" \0")
    raise IsoError("no primary volume descriptor")


def read(volume: BinaryIO, names: Collection[str]) -> dict[str, bytes]:
    """Those of the regular files ``names`` that the root directory has.

    Of two with the same name, the last. Raises IsoError."""
    primary = joliet = None
    for descriptor in _descriptors(volume):
        if descriptor[0] == 1 and primary is None:
            primary = descriptor
        elif descriptor[0] == 2 and descriptor[88:91] in _JOLIET:
            joliet = descriptor
    root = joliet or primary
    if root is None:
        raise IsoError("no primary volume descriptor")
    # First where they are: many records may lead to one large extent.
    places = {name: place for name, *place in _entries(volume, root[156:190], joliet is not None) if name in names}
    for name, (_start, size) in places.items():
        if size > FILE_MAX:
            raise IsoError(f"{name} is larger than {FILE_MAX >> 20} MiB")
    return {name: _bytes(volume, start, size) for name, (start, size) in places.items()}


def _descriptors(volume: BinaryIO) -> Iterator[bytes]:
    for number in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + DESCRIPTORS_MAX):
        descriptor = _bytes(volume, number, SECTOR)
        if descriptor[1:6] != b"CD001":
            raise IsoError("not an ISO 9660 volume")
        if descriptor[0] == 255:
            return
        yield descriptor


def _entries(volume: BinaryIO, record: bytes, joliet: bool) -> Iterator[tuple[str, int, int]]:
    """Name, first sector and size of each file of the directory that ``record`` describes."""
    start, size = _extent(record)
    if size > DIRECTORY_MAX:
        raise IsoError("the root directory is too large")
    data = _bytes(volume, start, size)
    at = 0
    while at < len(data):
        length = data[at]
        if length == 0:  # a record never crosses a sector; the rest of this one is padding
            at = (at // SECTOR + 1) * SECTOR
            continue
        entry = data[at : at + length]
        at += length
        if length < 34 or len(entry) < length or 33 + entry[32] > length:
            raise IsoError("a broken directory record")
        if entry[25] & 0x02:
            continue
        raw = entry[33 : 33 + entry[32]]
        if joliet:
            name = raw.decode("utf-16-be", "replace")
        else:
            name = _rock_ridge(entry[33 + entry[32] + (1 - entry[32] % 2) :]) or raw.decode("ascii", "replace").lower()
        yield (name.partition(";")[0].removesuffix("."), *_extent(entry))


def _rock_ridge(area: bytes) -> str:
    """The name in the NM entries of a system use area, empty if there is none."""
    name = b""
    while len(area) >= 5 and area[2] >= 4:
        if area[:2] == b"NM" and not area[4] & 0x06:
            name += area[5 : area[2]]
        area = area[area[2] :]
    return name.decode("utf-8", "replace")


def _extent(record: bytes) -> tuple[int, int]:
    return int.from_bytes(record[2:6], "little"), int.from_bytes(record[10:14], "little")


def _bytes(volume: BinaryIO, sector: int, size: int) -> bytes:
    volume.seek(sector * SECTOR)
    data = volume.read(size)
    if len(data) < size:
        raise IsoError("the volume ends early")
    return data

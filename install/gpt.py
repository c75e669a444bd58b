"""The partition table (GPT) of a disk with sectors of 512 bytes: UEFI 2.10, chapter 5.

The image's own table is for the image's size; firmware and kernel expect the backup at the very end of the disk, and
the node has no fdisk.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from install.layout import MIB, Layout

SECTOR: Final = 512
_ENTRIES: Final = 128
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")
_HEADER: Final = struct.Struct("<8sIIIIQQQQ16sQIII")
_REVISION: Final = 0x0001_0000
_TABLE_SECTORS: Final = _ENTRIES * _ENTRY.size // SECTOR


class Table(NamedTuple):
    """``primary`` belongs at the disk's beginning, ``backup`` at its end."""

    primary: bytes
    backup: bytes


def table(layout: Layout) -> Table:
    """The table of a disk of ``layout.size`` bytes."""
    sectors = layout.size // SECTOR
    last = sectors - 1
    entries = b"".join(
        _ENTRY.pack(
            part.type.bytes_le,
            part.identifier.bytes_le,
            part.start // SECTOR,
            part.end // SECTOR - 1,
            0,
            part.name.encode("utf-16-le"),
        )
        for part in layout.partitions
    ).ljust(_ENTRIES * _ENTRY.size, b"\0")

    def header(here: int, other: int, first_entry: int) -> bytes:
        def packed(checksum: int) -> bytes:
            return _HEADER.pack(
                b"EFI PART",
                _REVISION,
                _HEADER.size,
                checksum,
                0,
                here,
                other,
                MIB // SECTOR,
                last - _TABLE_SECTORS - 1,
                layout.identifier.bytes_le,
                first_entry,
                _ENTRIES,
                _ENTRY.size,
                zlib.crc32(entries),
            )

        return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")

    return Table(
        protective(sectors) + header(1, last, 2) + entries,
        entries + header(last, 1, last - _TABLE_SECTORS),
    )


def protective(sectors: int) -> bytes:
    """The boot sector that marks the whole disk as used for programs without GPT support (UEFI 5.2.3)."""
    entry = struct.pack("<B3sB3sII", 0, b"\0\x02\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFF_FFFF))
    return entry.rjust(446 + 16, b"\0").ljust(SECTOR - 2, b"\0") + b"\x55\xaa"

"""Archives for clouds and other programs: a gzip-compressed tar of a few files that may be large and mostly holes.

The tar is GNU's own form ("oldgnu"), with its sparse files; format: GNU tar's manual, appendix "Basic Tar Format". zstd
of the tools closure writes the gzip file: the zlib of another host would write other bytes. Neither contains a name or
a time except those given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.core.toolbox import Toolbox
from builder.formats.filesystem import feed
from media.sparse import data_ranges

BLOCK: Final = 512
GRAIN: Final = 64 << 10
"""Length of zeros from which a hole is used."""
_FIRST, _FURTHER = 4, 21  # rows of the map in the header, and in each block after it
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Member:
    """A file of an archive: its contents, or the file on the host with them; ``sparse`` leaves out runs of zeros."""

    name: str
    content: bytes | Path
    sparse: bool = False


def tar_gz(members: Iterable[Member], output: Path, epoch: int, tools: Toolbox) -> None:
    """Write ``members``, all of time ``epoch`` (seconds), as the new file ``output``.

    Raises :class:`Failure` if that fails.
    """
    command = [*tools.command("zstd"), "-q", "--format=gzip", "-6", "-o", str(output)]
    feed(command, tools.environment("zstd"), tar(members, epoch), output)


def tar(members: Iterable[Member], epoch: int) -> Iterator[bytes]:
    """The tar's bytes, in pieces."""
    for member in members:
        if isinstance(member.content, bytes):
            yield _header(member.name, len(member.content), epoch)
            yield member.content + b"\0" * (-len(member.content) % BLOCK)
        else:
            yield from _file(member.name, member.content, epoch, member.sparse)
    yield b"\0" * (2 * BLOCK)


def filled(file: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the longest non-zero runs of the open ``file``, in whole grains except at its end.

    Whether zeros are a hole or written out depends on the host's file system, so contents decide; holes are only
    skipped faster.
    """
    begin = end = 0
    for start, stop in data_ranges(file, 0, size):
        position = max(start - start % GRAIN, end)
        while position < stop:
            grain = os.pread(file, min(GRAIN, size - position), position)
            if grain.strip(b"\0"):
                if position != end and begin != end:
                    yield begin, end
                if position != end or begin == end:
                    begin = position
                end = position + len(grain)
            position += len(grain)
    if begin != end:
        yield begin, end


def _file(name: str, path: Path, epoch: int, sparse: bool) -> Iterator[bytes]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        ranges = [*filled(file.fileno(), size)] if sparse else [(0, size)]
        yield _header(name, size, epoch, ranges if sparse else None)
        for begin, end in ranges:
            for position in range(begin, end, _CHUNK):
                yield os.pread(file.fileno(), min(_CHUNK, end - position), position)
        yield b"\0" * (-sum(end - begin for begin, end in ranges) % BLOCK)


def _header(name: str, size: int, epoch: int, ranges: list[tuple[int, int]] | None = None) -> bytes:
    """The header of a file; with ``ranges``, of a sparse file with these, followed by the rest of its map."""
    rows: list[bytes] = []
    stored, tail = size, b""
    if ranges is not None:
        # The last row marks the end of the file, if it ends with zeros.
        rows = [_number(begin) + _number(end - begin) for begin, end in [*ranges, (size, size)]]
        stored = sum(end - begin for begin, end in ranges)
        # atime, ctime, offset, longnames and unused; four rows; is there more?; the size with its holes
        further = len(rows) > _FIRST
        tail = bytes(41) + b"".join(rows[:_FIRST]).ljust(24 * _FIRST, b"\0") + bytes([further]) + _number(size)
    fields = (
        name.encode().ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + _number(stored) + _number(epoch),
        (b"0" if ranges is None else b"S")
        + bytes(100)
        + b"ustar  \0"
        + b"root".ljust(32, b"\0") * 2
        + bytes(16)
        + tail,
    )
    # The checksum counts its own field as blanks.
    total = sum(fields[0]) + sum(fields[1]) + 8 * ord(" ")
    header = (fields[0] + b"%06o\0 " % total + fields[1]).ljust(BLOCK, b"\0")
    for start in range(_FIRST, len(rows), _FURTHER):
        block = b"".join(rows[start : start + _FURTHER]).ljust(24 * _FURTHER, b"\0")
        header += (block + bytes([start + _FURTHER < len(rows)])).ljust(BLOCK, b"\0")
    return header


def _number(value: int) -> bytes:
    """Twelve bytes: octal as far as that reaches, then GNU's binary form."""
    return b"%011o\0" % value if value < 8**11 else b"\x80" + value.to_bytes(11, "big")

"""Writes a node to a disk and reads it back.

In this order, so that a disk on which this ended early boots nothing: all is cleared, the old partition table first;
contents are copied, then read back bypassing the kernel's cache; the partition table comes last, after its backup.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from install.gpt import table
from install.layout import BLOCK, MIB, Extent, Layout
from media.sparse import data_ranges
from terminal import Failure, Phases

# linux/fs.h
_BLKZEROOUT: Final = 0x127F
_BLKRRPART: Final = 0x125F

_EMPTYING_BYTES: Final = 64 * MIB
_UNFINISHED: Final = "it has no partition table now, and nothing boots from it: run this again"


class Span(NamedTuple):
    """Bytes of the disk, and the SHA-256 that they must have."""

    offset: int
    size: int
    sha256: str


def write(layout: Layout, size: int, medium: Path, target: Path, phases: Phases, state: Path | None = None) -> None:
    """Write ``layout`` to ``target``, a disk of ``size`` bytes, with the files in the folder ``medium``.

    ``state`` is a sparse file with the file system of the state partition; without it the partition stays empty, and
    the first boot formats it. Raises Failure if the medium or the disk returns wrong bytes, or if either cannot be read
    or written; the disk then has no partition table, as after an interruption.
    """
    try:
        with _opened(target, os.O_RDWR | os.O_EXCL) as disk:
            try:
                _fill(layout, size, medium, target, disk, phases, state)
            except KeyboardInterrupt:
                if not os.pread(disk, MIB, 0).strip(b"\0"):  # neither before all nor after all
                    phases.line(f"!!  {target}: {_UNFINISHED}")
                raise
    except OSError as error:
        busy = error.errno == errno.EBUSY
        raise Failure(
            f"input or output failed: {error.strerror}",
            where=str(error.filename or target),
            hint="something else uses it; nothing was changed" if busy else _UNFINISHED,
        ) from error


def _fill(layout: Layout, size: int, medium: Path, target: Path, disk: int, phases: Phases, state: Path | None) -> None:
    with phases.phase(f"emptying {target}"):
        for at in range(0, layout.size, _EMPTYING_BYTES):
            phases.detail(f"{at >> 20} of {layout.size >> 20} MiB")
            _empty(disk, at, min(_EMPTYING_BYTES, layout.size - at))
        # RAID and the backup of a partition table have signatures at the end.
        end = size // BLOCK * BLOCK
        _empty(disk, max(end - MIB, 0), min(MIB, end))
        os.fsync(disk)
    with phases.phase(f"copying {sum(extent.size for extent in layout.extents) / 1e6:.0f} MB"):
        written = [_copy_checked(extent, medium, disk, phases.detail) for extent in layout.extents]
        if state is not None:
            phases.detail("state")
            written += _copy_state(state, disk, layout.state.start)
        os.fsync(disk)
    with phases.phase("verifying"):
        _verify(target, written, phases.detail)
    with phases.phase("partition table"):
        primary, backup = table(layout.grown(size))
        os.pwrite(disk, backup, size - len(backup))
        os.fsync(disk)
        os.pwrite(disk, primary, 0)
        os.fsync(disk)
        _reread(disk)


def _empty(disk: int, offset: int, size: int) -> None:
    """Write zeros; a disk may have a fast way, otherwise the kernel writes them. A file in a test is not a disk."""
    try:
        fcntl.ioctl(disk, _BLKZEROOUT, struct.pack("=QQ", offset, size))
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        zeros = bytes(MIB)
        for at in range(offset, offset + size, MIB):
            os.pwrite(disk, zeros[: offset + size - at], at)


def _copy_checked(extent: Extent, medium: Path, disk: int, detail: Callable[[str], None]) -> Span:
    path = medium / extent.source
    with _opened(path, os.O_RDONLY) as source:
        digest = _copy(source, path, extent.source_offset, disk, extent.offset, extent.size, detail)
    if digest != extent.sha256:
        raise Failure(
            f"the medium is damaged: {extent.size} bytes from {extent.source_offset} are not what was built",
            where=str(path),
            hint=f"write the medium again; of the disk, {_UNFINISHED}",
        )
    return Span(extent.offset, extent.size, digest)


def _copy_state(image: Path, disk: int, offset: int) -> list[Span]:
    """Copy what is not a hole: holes are zeros, and so is the disk."""
    with _opened(image, os.O_RDONLY) as source:
        return [
            Span(offset + at, end - at, _copy(source, image, at, disk, offset + at, end - at, lambda _: None))
            for at, end in data(source, os.fstat(source).st_size)
        ]


def data(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data, in whole blocks."""
    for begin, end in data_ranges(file, 0, size):
        yield begin // BLOCK * BLOCK, min(-(-end // BLOCK) * BLOCK, size)


def _copy(source: int, path: Path, begin: int, disk: int, offset: int, size: int, detail: Callable[[str], None]) -> str:
    """Copy, and return the SHA-256 of what was read, which differs if the source ends early.

    An OSError of reading names ``path``.
    """
    digest = hashlib.sha256()
    at = 0
    while at < size:
        try:
            data = os.pread(source, min(MIB, size - at), begin + at)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        if not data:
            break
        digest.update(data)
        done = 0
        while done < len(data):
            done += os.pwrite(disk, data[done:], offset + at + done)
        at += len(data)
        detail(f"{at >> 20} of {size >> 20} MiB")
    return digest.hexdigest()


def _verify(target: Path, written: list[Span], detail: Callable[[str], None]) -> None:
    """Read all of it from the disk itself: O_DIRECT bypasses the kernel's cache.

    A file system in memory has no cache.
    """
    try:
        reading = os.open(target, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        reading = os.open(target, os.O_RDONLY)
    try:
        with mmap.mmap(-1, MIB) as buffer, memoryview(buffer) as view:
            for span in written:
                digest = hashlib.sha256()
                for at in range(0, span.size, MIB):
                    length = min(MIB, span.size - at)
                    got = os.preadv(reading, [view[:length]], span.offset + at)
                    digest.update(view[:got])
                    detail(f"{at >> 20} of {span.size >> 20} MiB")
                if digest.hexdigest() != span.sha256:
                    raise Failure(
                        f"gives back other bytes than were written, between {span.offset} and {span.offset + span.size}",
                        where=str(target),
                        hint=f"the disk or its cable is broken; {_UNFINISHED}",
                    )
    finally:
        os.close(reading)


def _reread(disk: int) -> None:
    """Make the kernel read the new partitions.

    This is optional: a disk in use was refused before, and a file has none.
    """
    try:
        fcntl.ioctl(disk, _BLKRRPART)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EBUSY, errno.EINVAL):
            raise


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield file
    finally:
        os.close(file)

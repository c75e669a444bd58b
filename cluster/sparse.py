"""Copying files that are mostly holes: state disks and memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 64 << 20


def extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """The (begin, end) of each stretch of the file that is not a hole; lseek(2), SEEK_DATA."""
    position = 0
    while True:
        try:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here
                return
            raise
        position = os.lseek(descriptor, begin, os.SEEK_HOLE)
        yield begin, position


def copy_sparse(source: int, target: int) -> None:
    """Make the empty file ``target`` (a descriptor, as ``source``) equal to ``source``, holes included. Raises OSError.

    The kernel moves the bytes (copy_file_range(2), sendfile(2) between file systems that cannot do that).
    """
    os.ftruncate(target, os.fstat(source).st_size)
    for begin, end in extents(source):
        os.lseek(target, begin, os.SEEK_SET)
        while begin < end:
            begin += _move(source, target, begin, min(end - begin, CHUNK_BYTES))


def _move(source: int, target: int, offset: int, count: int) -> int:
    try:
        moved = os.copy_file_range(source, target, count, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.lseek(target, offset, os.SEEK_SET)
        moved = os.sendfile(target, source, offset, count)
    if moved == 0:
        raise OSError(errno.EIO, "the file became shorter while it was copied")
    return moved


def copy_file(source: Path, target: Path) -> None:
    """Make the new file ``target`` equal to ``source``, holes included. Raises OSError."""
    with source.open("rb") as origin, target.open("xb") as copy:
        copy_sparse(origin.fileno(), copy.fileno())

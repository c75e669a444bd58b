"""Copying files that are mostly holes: state disks and memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from media.sparse import data_ranges

CHUNK_BYTES = 64 << 20


def copy_sparse(source: int, target: int) -> None:
    """Make the empty file ``target`` (a descriptor, as ``source``) equal to ``source``, holes included. Raises OSError.

    The kernel moves the bytes (copy_file_range(2), sendfile(2) between file systems that cannot do that).
    """
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for begin, end in data_ranges(source, 0, size):
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

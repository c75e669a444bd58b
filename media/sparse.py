"""Files that are mostly holes (lseek(2), SEEK_DATA)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator


def data_ranges(file: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of what is data, not a hole, between the offsets ``begin`` and ``end`` of an open file."""
    while begin < end:
        try:
            start = os.lseek(file, begin, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        if start >= end:
            return
        stop = min(os.lseek(file, start, os.SEEK_HOLE), end)
        yield start, stop
        begin = stop

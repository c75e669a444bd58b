"""Files that are mostly holes (lseek(2), SEEK_DATA), and what of them goes onto a disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from terminal import Failure


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


@dataclass(frozen=True)
class Extent:
    """Bytes of a disk: ``size`` bytes from ``source_offset`` of a file go to ``offset``."""

    source: Path
    source_offset: int
    size: int
    offset: int

    def require(self, source: int) -> None:
        """Is all of it in the opened source? Raises :class:`Failure`."""
        if (there := os.fstat(source).st_size) < self.source_offset + self.size:
            raise Failure(
                f"ended after {there} bytes, {self.source_offset + self.size} were promised", where=str(self.source)
            )

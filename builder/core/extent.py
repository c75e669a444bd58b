"""What of a file goes onto a disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from terminal import Failure


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

"""A partition of a disk, as a value."""

from __future__ import annotations

import uuid
from dataclasses import dataclass


@dataclass(frozen=True)
class Partition:
    """One entry of a GPT: ``start`` and ``size`` in bytes, both whole MiB; ``type`` and ``identifier`` are its two GUIDs."""

    name: str
    type: uuid.UUID
    identifier: uuid.UUID
    start: int
    size: int

    @property
    def end(self) -> int:
        """Where the next one may begin."""
        return self.start + self.size

"""What every target is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Parts:
    """The finished pieces of a node, as files on the host, and the kernel's command line."""

    kernel: Path
    initrd: Path
    root: Path
    command_line: str

"""Targets: what a finished node is delivered as.

A target is one function of (kernel, initrd, root, command line) that writes files into a folder; adding one is adding a file here and a
line to :data:`TARGETS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.targets import iso, qemu, raw
from builder.targets.parts import Parts

__all__ = ["TARGETS", "Parts", "Target"]


@dataclass(frozen=True)
class Target:
    """A way to deliver a node: its name on the command line, what it is for, and the function that writes it."""

    name: str
    summary: str
    write: Callable[[Parts, Path], None]


TARGETS: Final = {
    target.name: target
    for target in (
        Target("qemu", "kernel, initrd and root image for direct boot under QEMU, and disk.qcow2 for UEFI", qemu.write),
        Target("raw", "the disk of an installed node, disk.raw (sparse)", raw.write),
        Target("raw.zst", "the same, compressed", raw.write_compressed),
        Target("iso", "a CD or USB stick that boots a live node and installs it to a disk", iso.write),
    )
}

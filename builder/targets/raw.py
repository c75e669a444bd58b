"""Targets ``raw`` and ``raw.zst``: the plain disk of an installed node, for ``dd`` and other programs."""

from __future__ import annotations

from pathlib import Path

from builder.targets.target import Parts, Target

DISK = "disk.raw"


def write(parts: Parts, folder: Path) -> None:
    """Put the sparse file ``disk.raw`` into ``folder``."""
    parts.raw_disk(folder / DISK)


def write_compressed(parts: Parts, folder: Path) -> None:
    """Put ``disk.raw.zst`` into ``folder``."""
    disk = parts.work / DISK
    parts.raw_disk(disk)
    # Worker mode: its output is the same for every number of workers, but differs from that of no workers.
    parts.tools.run("zstd", "-q", "-T2", "-10", "-o", str(folder / f"{DISK}.zst"), str(disk))
    disk.unlink()


TARGETS = (
    Target("raw", "the disk of an installed node, disk.raw (sparse)", write),
    Target("raw.zst", "the same, compressed", write_compressed),
)

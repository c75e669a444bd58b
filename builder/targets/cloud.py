"""Targets ``gce``, ``vhd`` and ``vmdk``: the disk of an installed node in the upload form of a cloud or hypervisor."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from builder.formats import archive, virtualdisk
from builder.formats.archive import Member
from builder.targets.target import Parts, Target

GIB: Final = 1 << 30


def write_gce(parts: Parts, folder: Path) -> None:
    """Put ``disk.tar.gz`` into ``folder``: in it ``disk.raw``, which must have this name and be whole GiB."""
    disk = parts.installed.write(parts.work / "disk.raw", multiple_of=GIB)
    members = [Member("disk.raw", disk, sparse=True)]
    archive.tar_gz(members, folder / "disk.tar.gz", parts.epoch, parts.tools)
    disk.unlink()


def write_vhd(parts: Parts, folder: Path) -> None:
    """Put ``disk.vhd`` into ``folder``: fixed, and whole MiB, like all our disks."""
    disk = parts.raw_disk(parts.work / "disk.raw")
    virtualdisk.vhd(disk, folder / "disk.vhd", parts.installed.layout.identifier, parts.epoch, parts.tools)
    disk.unlink()


def write_vmdk(parts: Parts, folder: Path) -> None:
    """Put the stream-optimised ``disk.vmdk`` into ``folder``."""
    disk = parts.raw_disk(parts.work / "disk.raw")
    virtualdisk.vmdk(disk, folder / "disk.vmdk", parts.installed.layout.identifier, parts.tools)
    disk.unlink()


TARGETS = (
    Target("gce", "disk.tar.gz for Google Compute Engine", write_gce),
    Target("vhd", "disk.vhd, fixed and of whole MiB, for Azure and Hyper-V", write_vhd),
    Target("vmdk", "disk.vmdk, stream-optimised, for VMware", write_vmdk),
)

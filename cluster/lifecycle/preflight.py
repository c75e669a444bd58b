"""What is checked before a node is started: room in memory and on disk, and an image that is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from terminal import Failure, record

MIB = 1 << 20
OVERHEAD_MIB = {"kvm": 100, "namespaces": 0, "tcg": 350}
"""Memory of a QEMU beside its guest's: the program, buffers, and translated code when emulating."""
MEMORY_MIB_MIN, MEMORY_MIB_MAX = 384, 65536
"""The least memory of a node: docker and etcd do not fit into less."""
DISK_MIB = 512
"""Real room for one node's state disk.

It holds an empty filesystem, etcd's preallocated log, a journal, one or two container images.
"""
IMAGE_FILES = ("vmlinuz", "initrd.img", "root.img", "cmdline")


def free_memory_mib() -> int:
    """Memory that can be had without swapping, as the kernel estimates it (``MemAvailable``; proc(5))."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise Failure("the kernel does not report how much memory is free", where="/proc/meminfo")


def require_memory(size: int, memory_mib: int, accelerator: str, free_mib: int, *, where: str | None = None) -> None:
    """Raise :class:`Failure` unless ``size`` nodes of ``memory_mib`` each fit in ``free_mib``.

    ``where`` names another computer.
    """
    each = memory_mib + OVERHEAD_MIB[accelerator]
    if size * each > free_mib:
        fewer, smaller = free_mib // each, free_mib // size - OVERHEAD_MIB[accelerator]
        ways = [f"fewer nodes (cluster-up {fewer})"] if fewer else []
        ways += [f"smaller ones (--memory {smaller})"] if smaller >= MEMORY_MIB_MIN else []
        raise Failure(
            f"{size} nodes need {size * each} MiB of memory ({each} each), {free_mib} MiB are free",
            where=where,
            hint=", or ".join([*ways, "end something that takes memory"]),
        )


def require_disk(folder: Path, size: int, image_bytes: int, free_bytes: int) -> None:
    """Raise :class:`Failure` unless the state disks of ``size`` nodes and a copy of the image fit in ``free_bytes``."""
    require_room(folder, size * DISK_MIB * MIB + image_bytes, free_bytes)


def require_room(folder: Path, needed_bytes: int, free_bytes: int | None = None) -> None:
    """Raise :class:`Failure` unless ``needed_bytes`` fit on the filesystem of ``folder``.

    If given, ``free_bytes`` is its room.
    """
    free_bytes = free_disk_bytes(folder) if free_bytes is None else free_bytes
    needed = needed_bytes // MIB
    if needed > free_bytes // MIB:
        raise Failure(
            f"the cluster needs {needed} MiB of disk space, {free_bytes // MIB} MiB are free",
            where=str(folder),
            hint="make room, or put clusters elsewhere: XDG_STATE_HOME=/big/disk cluster-up ...",
        )


def free_disk_bytes(folder: Path) -> int:
    """Room that this user can still fill on the filesystem of ``folder``, or of the nearest parent that exists."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_architecture(folder: Path, wanted: str) -> None:
    """Raise :class:`Failure` if the manifest of the image in ``folder`` has another architecture than ``wanted``."""
    try:
        found = record.parse((folder / "manifest.json").read_bytes())["architecture"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # made by hand, or by another program: its maker is responsible
    if found != wanted:
        raise Failure(f"this image is {found}, not {wanted}", where=str(folder), hint=f"--arch {found}")


def require_image(folder: Path) -> int:
    """The bytes of the image in ``folder``. Raises :class:`Failure` naming what is missing."""
    missing = [name for name in IMAGE_FILES if not (folder / name).is_file()]
    if missing:
        raise Failure(
            f"this is no image folder: no {', '.join(missing)}",
            where=str(folder),
            hint="osbuild image --target qemu makes one",
        )
    return sum((folder / name).stat().st_size for name in IMAGE_FILES)

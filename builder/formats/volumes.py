"""Opening containers of file systems.

These are disks in the formats of :mod:`builder.targets`, ISOs, FAT file systems, and compressed forms of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pycdlib

from builder.core.toolbox import Closure
from builder.formats.disk import SECTOR
from terminal import record

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_CONVERTED: Final = (b"QFI\xfb", b"KDMV")
"""The first bytes of qcow2 and VMDK, which qemu-img reads."""
_VHD_FOOTER: Final = b"conectix"
_ISO: Final = (0x8001, b"CD001")
_GPT: Final = (SECTOR, b"EFI PART")
_FAT: Final = ((54, b"FAT1"), (82, b"FAT32"))
_ROOT_HASH: Final = re.compile(r"-(?:[0-9a-f]{16}|[0-9a-f]{8})(?=\.)")
_CHUNK: Final = 1 << 20


def pieces(path: Path, tools: Closure, scratch: Path) -> Iterator[tuple[str, Path]]:
    """(name, file in the folder ``scratch``) of each thing inside ``path``.

    These are the file inside a compression or a disk format, named "", the partitions of a disk, the files of an ISO or
    a FAT file system. Nothing for any other file.

    Raises :class:`builder.core.toolbox.ToolFailure` and pycdlib's ``PyCdlibException`` for damaged files.
    """
    with path.open("rb") as file:
        head = file.read(_ISO[0] + 8)
        file.seek(max(0, path.stat().st_size - SECTOR))
        tail = file.read(len(_VHD_FOOTER))
    inside = scratch / "inside"
    if head.startswith(_ZSTD):
        tools.run("zstd", "-q", "-d", "-o", str(inside), str(path))
        yield "", inside
    elif head.startswith(_CONVERTED):
        tools.run("qemu-img", "convert", "-O", "raw", str(path), str(inside))
        yield "", inside
    elif _has(head, *_ISO):
        yield from _iso(path, scratch)
    elif _has(head, *_GPT):
        yield from _partitions(path, tools, scratch)
        if tail == _VHD_FOOTER:
            yield "footer", _part(path, path.stat().st_size - SECTOR, SECTOR, scratch / "footer")
    elif any(_has(head, *mark) for mark in _FAT):
        yield from _fat(path, tools, scratch)


def _has(head: bytes, offset: int, magic: bytes) -> bool:
    return head[offset:].startswith(magic)


def _plain(path: str) -> str:
    """The path without its root hash, which changes with every difference."""
    return _ROOT_HASH.sub("", path)


def _partitions(path: Path, tools: Closure, scratch: Path) -> Iterator[tuple[str, Path]]:
    table = record.parse(tools.run("sfdisk", "--json", str(path)))["partitiontable"]
    listed = scratch / "table"
    # The path of the file stands in it, before each partition's number.
    listed.write_text(json.dumps(table, sort_keys=True).replace(str(path), ""))
    yield "partition table", listed
    for number, part in enumerate(table["partitions"], start=1):
        target = scratch / f"partition-{number}"
        yield (
            f"{number} {part['name'].partition('-')[0]}",
            _part(path, part["start"] * SECTOR, part["size"] * SECTOR, target),
        )


def _part(path: Path, offset: int, size: int, target: Path) -> Path:
    """The range of ``path`` as the sparse file ``target``."""
    with path.open("rb") as source, target.open("wb") as file:
        source.seek(offset)
        left = size
        while left and (chunk := source.read(min(left, _CHUNK))):
            left -= len(chunk)
            if chunk.count(0) == len(chunk):
                file.seek(len(chunk), 1)
            else:
                file.write(chunk)
        file.truncate(size)
    return target


def _fat(path: Path, tools: Closure, scratch: Path) -> Iterator[tuple[str, Path]]:
    folder = scratch / "fat"
    folder.mkdir()
    tools.run("mcopy", "-s", "-m", "-i", str(path), "::/", str(folder))
    for found in sorted(folder.rglob("*")):
        if found.is_file():
            yield _plain(found.relative_to(folder).as_posix()), found


def _iso(path: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    try:
        for folder, _, names in iso.walk(rr_path="/"):
            for name in names:
                inside = f"{folder.rstrip('/')}/{name}"
                target = scratch / inside.strip("/").replace("/", "_")
                iso.get_file_from_iso(str(target), rr_path=inside)
                yield _plain(inside.lstrip("/")), target
    finally:
        iso.close()

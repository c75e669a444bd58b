"""Corrupt bytes of a state disk whose node is off.

They are found by the path that the node knows the file by, and inverted from here.

The file system is ext4 (``image/initrd/init``), mounted at /var with an overlay for /etc; e2fsprogs, out of the
builder's tools closure, know how to read it. A node whose plug was pulled has left a journal behind, which e2fsck
replays first, as the node's next boot would.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.debian.tools import Tools
from terminal import Failure, UsageFailure

SUPERBLOCK = 1024
BYTES_MAX = 1 << 20
"""To corrupt at once."""
BLOCK_BYTES = 4096
IN_VAR = {
    "/var": "/",
    "/etc": "/lib/flotilla/etc/upper",
    "/home": "/home",
    "/root": "/root",
    "/opt": "/opt",
    "/srv": "/srv",
}
"""Where the node's writable folders are in the state's file system."""
_SIZE = re.compile(r"^Inode: \d+ +Type: (\S.*?) +Mode:.*?\bSize: (\d+)$", re.MULTILINE | re.DOTALL)
_RUN = re.compile(r"\((ETB)?(\d+)(?:-(\d+))?(\[u\])?\):(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class Run:
    """``count`` blocks of a file, from its block ``logical`` on, at the disk's block ``physical``.

    Blocks that are not ``written`` read as zeros.
    """

    logical: int
    physical: int
    count: int
    written: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file of ``size`` bytes, and where its blocks are."""

    size: int
    runs: tuple[Run, ...]


def state_path(path: str) -> str:
    """Where the node's file ``path`` is in its state's file system.

    Raises :class:`UsageFailure` for one that is not there.
    """
    pure = PurePosixPath(path)
    hint = f"a file in one of {', '.join(IN_VAR)}; all else is the image, which all nodes and clusters share"
    if not pure.is_absolute() or ".." in pure.parts or '"' in path or not path.isprintable():
        raise UsageFailure(f"{path!r} is no path on a node's state disk", hint=hint)
    for outside, inside in IN_VAR.items():
        if pure.is_relative_to(outside) and pure != PurePosixPath(outside):
            return str(PurePosixPath(inside) / pure.relative_to(outside))
    raise UsageFailure(f"{path} is not on the node's state disk", hint=hint)


def parse_stat(text: str) -> Found | None:
    """What debugfs' ``stat`` prints for a file; None if it is no regular file.

    (In debugfs of e2fsprogs 1.47: ``dump_inode``, ``dump_extents``.)
    """
    size = _SIZE.search(text)
    if size is None or size[1] != "regular":
        return None
    _, _, blocks = text.partition("\nEXTENTS:\n")
    runs = []
    for tree, first, last, unwritten, physical, _ in _RUN.findall(blocks):
        if not tree:  # else it is a block of the tree of extents itself
            runs.append(Run(int(first), int(physical), int(last or first) - int(first) + 1, not unwritten))
    return Found(int(size[2]), tuple(runs))


def locate(found: Found, begin: int, count: int, block_bytes: int) -> list[tuple[int, int]]:
    """The stretches (offset, length) of the disk that hold bytes ``begin`` to ``begin + count`` of the file.

    Raises :class:`Failure` if the file has no such bytes, or if they are not on disk: a hole, or preallocated space.
    """
    if begin + count > found.size:
        raise Failure(f"the file has {found.size} bytes, not {begin + count}", hint="a smaller --offset")
    stretches = []
    position, end = begin, begin + count
    while position < end:
        block, inside = divmod(position, block_bytes)
        run = next((run for run in found.runs if run.written and run.logical <= block < run.logical + run.count), None)
        if run is None:
            first = next((run.logical * block_bytes for run in found.runs if run.written), None)
            where = "no byte of it was ever" if first is None else f"those from {first} were"
            raise Failure(f"byte {position} of the file is not on the disk: {where} written", hint="another --offset")
        length = min((run.logical + run.count) * block_bytes, end) - position
        stretches.append(((run.physical + block - run.logical) * block_bytes + inside, length))
        position += length
    return stretches


def find(disk: Path, path: str, begin: int, count: int) -> list[tuple[int, int]]:
    """:func:`locate` for the node's file ``path`` on its state disk, the image ``disk``, after replaying the journal.

    Raises :class:`Failure`.
    """
    inside = state_path(path)
    block_bytes = block_size(disk)
    tools = Tools.ours()
    tools.run("e2fsck", "-p", "-E", "journal_only", str(disk))
    said = tools.run("debugfs", "-R", f'stat "{inside}"', str(disk)).decode(errors="replace")
    found = parse_stat(said)
    if found is None:
        kind = "is no regular file" if "Inode:" in said else "does not exist"
        raise Failure(
            f"{path} {kind} on the node's state disk", where=str(disk), hint="cluster ssh NODE sudo ls -l ..."
        )
    return locate(found, begin, count, block_bytes)


def block_size(disk: Path) -> int:
    """Bytes of a block of the file system on ``disk``. Raises :class:`Failure` if it has none yet."""
    with disk.open("rb") as file:
        file.seek(SUPERBLOCK)
        head = file.read(64)
    if len(head) < 64 or head[56:58] != b"\x53\xef":
        raise Failure("the state disk has no file system yet", where=str(disk), hint="the node's first boot makes it")
    shift: int = struct.unpack_from("<I", head, 24)[0]
    return 1024 << shift


def invert(disk: Path, stretches: Sequence[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """Invert every bit of the ``stretches`` (offset, length) of the image ``disk``.

    Returns the resulting blocks (offset, content).

    Raises :class:`Failure`.
    """
    size = disk.stat().st_size
    if any(offset < 0 or offset + length > size for offset, length in stretches):
        raise Failure(f"the state disk has {size} bytes, none beyond", where=str(disk))
    with disk.open("r+b") as file:
        for offset, length in stretches:
            _invert(file.fileno(), offset, length)
        return [_block(file.fileno(), offset, length) for offset, length in stretches]


def restore(disk: Path, stretches: Sequence[tuple[int, int]], left: Sequence[tuple[int, bytes]]) -> None:
    """Undo :func:`invert`, which returned ``left``.

    Blocks that were written since stay as they are: their bytes are new data.
    """
    with disk.open("r+b") as file:
        whole = [_block(file.fileno(), *stretch) == block for stretch, block in zip(stretches, left, strict=True)]
        for (offset, length), is_ours in zip(stretches, whole, strict=True):
            if is_ours:
                _invert(file.fileno(), offset, length)


def _invert(descriptor: int, offset: int, length: int) -> None:
    os.pwrite(descriptor, bytes(byte ^ 0xFF for byte in os.pread(descriptor, length, offset)), offset)


def _block(descriptor: int, offset: int, length: int) -> tuple[int, bytes]:
    """The whole blocks around a stretch: they show later writes better than its few bytes could."""
    begin = offset - offset % BLOCK_BYTES
    return begin, os.pread(descriptor, -(-(offset + length - begin) // BLOCK_BYTES) * BLOCK_BYTES, begin)

"""Writing a cpio archive in the "newc" form, the one that the kernel unpacks as its initramfs.

Format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from builder.core.tree import Entry, Kind, type_bits

_TRAILER: Final = "TRAILER!!!"


def archive(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The archive's bytes, in pieces. Times are zero and inode numbers count up, so equal entries give equal bytes."""
    number = 0
    for number, entry in enumerate(entries, start=1):
        content = entry.target.encode() if entry.kind is Kind.SYMLINK else b""
        if entry.kind is Kind.FILE:
            content = entry.content.read()
        links = 2 if entry.kind is Kind.DIRECTORY else 1
        mode = type_bits(entry.kind) | entry.mode
        yield _record(entry.path, content, number, mode, entry.uid, entry.gid, links)
    yield _record(_TRAILER, b"", number + 1, 0, 0, 0, 1)


def _record(name: str, content: bytes, inode: int, mode: int, uid: int, gid: int, links: int) -> bytes:
    raw = name.encode() + b"\0"
    # magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    numbers = (inode, mode, uid, gid, links, 0, len(content), 0, 0, 0, 0, len(raw), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(header + raw) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)

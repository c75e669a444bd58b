"""dm-verity: a tree of hashes over the root, so that the kernel checks every block it reads against one number.

The root hash is in the kernel's command line; if the command line can be trusted, so can every byte of the root. There
is no salt: the same root must have the same hash, and a public salt does not protect a public image. Format: the
kernel's Documentation/admin-guide/device-mapper/verity.rst; the superblock is that of cryptsetup's veritysetup (its
docs/on-disk-format and lib/verity). This module writes it instead of that program, which would read all blocks of a
root again although most are those of the last build.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from terminal import Failure

BLOCK: Final = 4096
"""Bytes of a block of data and of a block of hashes."""

_DIGEST: Final = 32
_READ_BLOCKS: Final = 256
# Signature, version, type (1: as above, 0 was Chrome OS's), identifier, algorithm, bytes of a data block and of a hash
# block, data blocks, salt.
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s168x")


@dataclass(frozen=True)
class Verity:
    """The data to check a root: its ``root_hash`` (64 hex digits) and its number of data blocks.

    In the file, the superblock follows the data, then the tree of hashes.
    """

    root_hash: str
    data_blocks: int

    @property
    def data_bytes(self) -> int:
        """Length of the root's file system, and offset of the superblock."""
        return self.data_blocks * BLOCK

    @property
    def data_partition(self) -> uuid.UUID:
        """Identifier of the data partition: first half of the root hash (Discoverable Partitions Specification)."""
        return uuid.UUID(self.root_hash[:32])

    @property
    def hash_partition(self) -> uuid.UUID:
        """Identifier of the partition of the tree of hashes: the other half."""
        return uuid.UUID(self.root_hash[32:])

    @property
    def parameter(self) -> str:
        """The kernel parameter that our initrd reads."""
        return f"flotilla.verity={self.data_blocks}:{self.root_hash}"


def hash_bytes(size: int) -> int:
    """Bytes of superblock and tree of hashes for ``size`` bytes of data.

    Each level has 32 bytes for each block of the level below.
    """
    blocks, total = -(-size // BLOCK), 1
    while blocks > 1:
        blocks = -(-blocks * 32 // BLOCK)
        total += blocks
    return total * BLOCK


def protect(root: Path, known: bytes = b"") -> Verity:
    """Fill the last block of the file system in ``root`` with zeros and append superblock and tree of hashes to it.

    ``known`` are the hashes (:func:`hashes`) of its first blocks, which are not read again, except the very first one,
    which differs. Raises :class:`Failure` for a root that is empty.
    """
    size = root.stat().st_size
    if size == 0:
        raise Failure("an empty file has nothing to protect", where=str(root))
    with root.open("r+b") as file:
        file.seek(size)
        size += file.write(bytes(-size % BLOCK))
        blocks, read = size // BLOCK, max(1, len(known) // _DIGEST)
        level = hashes(file, 0, 1) + known[_DIGEST:] + hashes(file, read, blocks - read)
        levels: list[bytes] = []
        while len(level) > _DIGEST:
            levels.append(level + bytes(-len(level) % BLOCK))
            level = _hashes(levels[-1])
        file.seek(size)
        file.write(_superblock(blocks))
        file.writelines(reversed(levels))
    return Verity(level.hex(), blocks)


def hashes(file: IO[bytes], first: int, count: int) -> bytes:
    """The concatenated hashes (32 bytes each) of ``count`` blocks of the open ``file`` from number ``first`` on."""
    file.seek(first * BLOCK)
    parts = []
    while count:
        data = file.read(min(count, _READ_BLOCKS) * BLOCK)
        parts.append(_hashes(data))
        count -= len(data) // BLOCK
    return b"".join(parts)


def _hashes(data: bytes) -> bytes:
    view, sha256 = memoryview(data), hashlib.sha256
    return b"".join([sha256(view[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)])


def _superblock(data_blocks: int) -> bytes:
    """The block before the hashes: ours have no salt."""
    # The superblock needs an identifier; nothing reads it, so it must not be random.
    identifier = hashlib.sha256(b"flotilla verity superblock").digest()[:16]
    return _SUPERBLOCK.pack(b"verity", 1, 1, identifier, b"sha256", BLOCK, BLOCK, data_blocks, 0, b"").ljust(
        BLOCK, b"\0"
    )

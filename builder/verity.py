"""dm-verity: a tree of hashes over the root, so that the kernel checks every block it reads against one number.

The root hash is in the kernel's command line; whoever can be sure of that can be sure of every byte of the root. There is no salt: the same
root must have the same hash, and a salt that everybody can read protects a public image from nothing. Format: the kernel's
Documentation/admin-guide/device-mapper/verity.rst; the superblock is that of cryptsetup's veritysetup, which writes it.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # definitions ask how long hashes are, and need no tools for it
    from builder.tools import Tools

BLOCK: Final = 4096
"""Bytes of a block of data and of a block of hashes."""


@dataclass(frozen=True)
class Verity:
    """What is needed to check a root: its ``root_hash`` (64 hex digits) and how many blocks of data it has.

    In the file the superblock follows the data, then comes the tree of hashes.
    """

    root_hash: str
    data_blocks: int

    @property
    def data_bytes(self) -> int:
        """Length of the root's file system, and offset of the superblock."""
        return self.data_blocks * BLOCK

    @property
    def data_partition(self) -> uuid.UUID:
        """Identifier of a partition that holds the data: first half of the root hash, as the Discoverable Partitions Specification has it."""
        return uuid.UUID(self.root_hash[:32])

    @property
    def hash_partition(self) -> uuid.UUID:
        """Identifier of a partition that holds the tree of hashes: the other half."""
        return uuid.UUID(self.root_hash[32:])

    @property
    def parameter(self) -> str:
        """What our initrd wants to know, as a kernel parameter."""
        return f"flotilla.verity={self.data_blocks}:{self.root_hash}"


def hash_bytes(size: int) -> int:
    """How long superblock and tree of hashes are for ``size`` bytes of data: each level has 32 bytes for each block of the one below."""
    blocks, total = -(-size // BLOCK), 1
    while blocks > 1:
        blocks = -(-blocks * 32 // BLOCK)
        total += blocks
    return total * BLOCK


def protect(root: Path, tools: Tools) -> Verity:
    """Fill the last block of the file system in ``root`` with zeros and append superblock and tree of hashes to it.

    Raises :class:`builder.tools.ToolFailure` if veritysetup fails.
    """
    size = root.stat().st_size
    with root.open("ab") as file:
        size += file.write(b"\0" * (-size % BLOCK))
    # The superblock wants an identifier; nothing reads it, so it may not be chance.
    identifier = uuid.UUID(bytes=hashlib.sha256(b"flotilla verity superblock").digest()[:16])
    said = tools.run(
        "veritysetup",
        *("format", str(root), str(root), f"--hash-offset={size}", f"--data-blocks={size // BLOCK}"),
        *(f"--data-block-size={BLOCK}", f"--hash-block-size={BLOCK}", "--hash=sha256", "--salt=-"),
        f"--uuid={identifier}",
    )
    words = dict(line.split(":", 1) for line in said.decode().splitlines() if ":" in line)
    return Verity(words["Root hash"].strip(), size // BLOCK)

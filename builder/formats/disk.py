"""The disk of a node: partitions, their places, their identifiers, and the sparse image of the disk.

    1 ESP       systemd-boot and the unified kernel images
    2 root A    the root's file system         3 its tree of hashes
    4 root B    empty, for the next version    5 and its tree of hashes
    6 state     empty; grown to the disk and formatted by the node's first boot

No identifier is random: those of root and hashes are the root hash, as the UAPI group's Discoverable Partitions
Specification requires, the others are derived from the contents. sfdisk writes the partition table (GPT; UEFI 5.3).
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.core.extent import Extent
from builder.core.toolbox import Closure
from builder.core.verity import Verity
from builder.definition.definition import Disk
from media.partition import Partition
from media.sparse import data_ranges
from terminal import Failure

SECTOR: Final = 512
MIB: Final = 1 << 20

ESP_TYPE: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
STATE_TYPE: Final = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_ROOT_TYPES: Final = {
    "amd64": uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    "arm64": uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),
}
_VERITY_TYPES: Final = {
    "amd64": uuid.UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    "arm64": uuid.UUID("df3300ce-d69f-4c92-978c-9bfb0f38d820"),
}

EMPTY: Final = "_empty"
"""systemd-sysupdate's name of a partition that waits for a version."""

_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Layout:
    """A disk of ``size`` bytes, and its layout."""

    size: int
    identifier: uuid.UUID
    partitions: tuple[Partition, ...]

    def script(self) -> str:
        """The layout as input for sfdisk(8)."""
        lines = ["label: gpt", f"label-id: {self.identifier}", "unit: sectors", f"first-lba: {MIB // SECTOR}"]
        lines += [
            f"start={part.start // SECTOR}, size={part.size // SECTOR}, type={part.type}, uuid={part.identifier}, "
            f'name="{part.name}"'
            for part in self.partitions
        ]
        return "\n".join(lines) + "\n"


def derived(what: str, *contents: bytes) -> uuid.UUID:
    """The identifier of ``what`` (a name) among things with these contents (or their hashes)."""
    digest = hashlib.sha256(b"\0".join((what.encode(), *contents))).digest()
    # Marked as version 8, "custom", of RFC 9562.
    return uuid.UUID(int=int.from_bytes(digest[:16]) & ~(0xF << 76) & ~(3 << 62) | 8 << 76 | 2 << 62)


def layout(disk: Disk, architecture: str, verity: Verity, esp_digest: bytes) -> Layout:
    """The layout of a disk with the sizes of ``disk``; ``esp_digest`` (SHA-256) represents the contents of the ESP."""

    contents = verity.root_hash.encode(), esp_digest
    root, hashes = _ROOT_TYPES[architecture], _VERITY_TYPES[architecture]
    name = verity.root_hash[:16]  # by which the initrd finds them: this kernel does not provide the identifiers
    rows = (
        ("esp", ESP_TYPE, derived("esp", *contents), disk.esp),
        (f"root-{name}", root, verity.data_partition, disk.root),
        (f"verity-{name}", hashes, verity.hash_partition, disk.verity),
        (EMPTY, root, derived("root b", *contents), disk.root),
        (EMPTY, hashes, derived("verity b", *contents), disk.verity),
        ("state", STATE_TYPE, derived("state", *contents), disk.state),
    )
    partitions, start = [], MIB
    for name, kind, identifier, size in rows:
        partitions.append(Partition(name, kind, identifier, start, size))
        start += size
    # The backup of the table needs 33 sectors at the end.
    return Layout(start + MIB, derived("disk", *contents), tuple(partitions))


def extents(where: Layout, esp: Path, root: Path, verity: Verity) -> tuple[Extent, ...]:
    """The contents of the disk's partitions.

    Raises :class:`Failure` if the root or its hashes do not fit into their partitions.
    """
    esp_part, root_part, hash_part = where.partitions[:3]
    size = root.stat().st_size
    found = (
        ("esp", esp_part, Extent(esp, 0, esp.stat().st_size, esp_part.start)),
        ("root", root_part, Extent(root, 0, verity.data_bytes, root_part.start)),
        ("verity", hash_part, Extent(root, verity.data_bytes, size - verity.data_bytes, hash_part.start)),
    )
    for key, part, extent in found:
        if extent.size > part.size:
            raise Failure(
                f"{extent.size / 1e6:.1f} MB do not fit into the partition '{part.name}' of {part.size / 1e6:.1f} MB",
                where="disk",
                hint=f"a larger '{key}' under 'disk' in the definition, or a smaller image",
            )
    return tuple(extent for _, _, extent in found)


def write(where: Layout, contents: Sequence[Extent], output: Path, tools: Closure) -> None:
    """Write the disk as the new, sparse file ``output``.

    Raises :class:`builder.core.toolbox.ToolFailure` if sfdisk fails.
    """
    write_table(where, output, tools)
    with output.open("r+b") as file:
        for extent in contents:
            with extent.source.open("rb") as source:
                _copy(source.fileno(), file.fileno(), extent)


def write_table(where: Layout, output: Path, tools: Closure) -> None:
    """Write a disk that has only its partition table as the new, sparse file ``output``; raises as :func:`write`."""
    with output.open("wb") as file:
        file.truncate(where.size)
    tools.run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(output), feed=where.script().encode())


def _copy(source: int, target: int, extent: Extent) -> None:
    """Copy the data; holes of the source stay holes."""
    extent.require(source)
    for begin, stop in data_ranges(source, extent.source_offset, extent.source_offset + extent.size):
        position = begin
        while position < stop:
            moved = os.copy_file_range(
                source,
                target,
                min(stop - position, _COPY_BYTES),
                position,
                extent.offset + position - extent.source_offset,
            )
            if moved == 0:
                raise Failure(f"was cut while it was read, after {position} bytes", where=str(extent.source))
            position += moved

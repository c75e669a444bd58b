"""Disks in the formats of other programs, written by qemu-img, without its times and random numbers."""

from __future__ import annotations

import os
import re
import struct
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from builder.core.toolbox import Closure
from builder.formats.disk import SECTOR
from terminal import Failure

_VHD_EPOCH: Final = 946_684_800
"""Midnight of 1 January 2000, UTC, from which a VHD counts its seconds."""
_VHD_FOOTER: Final = struct.Struct(">8sIIQI4sIIQQIII16sB427x")
"""Microsoft's "Virtual Hard Disk Image Format Specification" (2006), "Hard Disk Footer Format".

Cookie, features, version, data offset, time, creator, its version, its system, original size, current size, geometry,
type, checksum, identifier, saved state.
"""
_VHD_TIME, _VHD_CHECKSUM, _VHD_IDENTIFIER = 4, 12, 13

_VMDK_HEADER: Final = struct.Struct("<4sIIQQQQ")
"""The beginning of VMware's "Virtual Disk Format 5.0", "Hosted Sparse Extent Header".

Magic, version, flags, capacity, grain, place and size of the descriptor; sectors.
"""
_CONTENT_ID: Final = re.compile(rb"^CID=[0-9a-f]{1,8}$", re.MULTILINE)


def vhd(raw: Path, output: Path, identifier: uuid.UUID, epoch: int, tools: Closure) -> None:
    """A fixed VHD: the raw bytes and a footer. The size of ``raw``, whole MiB as clouds want it, is kept to the byte.

    ``identifier`` and ``epoch`` (seconds) replace qemu-img's random identifier and current time.
    """
    _convert(raw, "vpc", ("subformat=fixed", "force_size=on"), output, tools)
    with output.open("r+b") as file:
        file.seek(-_VHD_FOOTER.size, os.SEEK_END)
        footer = file.read()
        file.seek(-_VHD_FOOTER.size, os.SEEK_END)
        file.write(vhd_footer(footer, identifier, epoch))


def vhd_footer(footer: bytes, identifier: uuid.UUID, epoch: int) -> bytes:
    """The 512 bytes ``footer`` with another identifier and time. Raises :class:`Failure` if it is not a footer."""
    fields = list(_VHD_FOOTER.unpack(footer)) if len(footer) == _VHD_FOOTER.size else [b""]
    if fields[0] != b"conectix":
        raise Failure("this is no footer of a VHD", hint="qemu-img of another version? See image/tools.lock")
    fields[_VHD_TIME], fields[_VHD_CHECKSUM], fields[_VHD_IDENTIFIER] = max(epoch - _VHD_EPOCH, 0), 0, identifier.bytes
    # One's complement of the sum of all bytes, with the checksum itself taken as zero.
    fields[_VHD_CHECKSUM] = ~sum(_VHD_FOOTER.pack(*fields)) & 0xFFFFFFFF
    return _VHD_FOOTER.pack(*fields)


def vmdk(raw: Path, output: Path, identifier: uuid.UUID, tools: Closure) -> None:
    """VMware's stream-optimised form, to which an OVF refers: compressed, to be read sequentially.

    The content identifier, a number that changes with the contents, comes from ``identifier`` instead of a random
    number.
    """
    _convert(raw, "vmdk", ("subformat=streamOptimized", "adapter_type=lsilogic"), output, tools)
    with output.open("r+b") as file:
        magic, _, _, _, _, place, size = _VMDK_HEADER.unpack(file.read(_VMDK_HEADER.size))
        file.seek(place * SECTOR)
        descriptor = file.read(size * SECTOR)
        if magic != b"KDMV":
            raise _no_content_identifier()
        file.seek(place * SECTOR)
        file.write(vmdk_descriptor(descriptor, identifier))


def vmdk_descriptor(descriptor: bytes, identifier: uuid.UUID) -> bytes:
    """The text ``descriptor``, filled up with NULs, with another content identifier.

    Raises :class:`Failure` if it has none.
    """
    # qemu-img writes the text more than once, without leading zeros in its number: the end of an earlier, longer one
    # may follow the last.
    text = descriptor.partition(b"\0")[0]
    if len(_CONTENT_ID.findall(text)) != 1:
        raise _no_content_identifier()
    number = (identifier.int >> 96) % 0xFFFFFFFE  # the highest two values mean that there is none
    return _CONTENT_ID.sub(b"CID=%08x" % number, text).ljust(len(descriptor), b"\0")


def _no_content_identifier() -> Failure:
    return Failure("this VMDK has no content identifier", hint="qemu-img of another version? See image/tools.lock")


def _convert(raw: Path, form: str, options: Sequence[str], output: Path, tools: Closure) -> None:
    words = [word for option in options for word in ("-o", option)]
    tools.run("qemu-img", "convert", "-f", "raw", "-O", form, *words, str(raw), str(output))

"""Disks in other programs' formats: qemu-img finds the same contents in them, and neither clock nor dice has left a
trace.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.debian.tools import Tools
from builder.formats import virtualdisk
from terminal import Failure

EPOCH = 1_700_000_000
IDENTIFIER = uuid.UUID("f5a31296-0123-8567-89ab-cdef01234567")
MIB = 1 << 20


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A disk of 37 MiB with something at its begin, in its middle and at its end."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        for place in (0, 20 * MIB + 512, 37 * MIB - 512):
            file.seek(place)
            file.write(hashlib.sha256(b"%d" % place).digest() * 16)
    return path


def same(raw: Path, form: str, other: Path, tools: Tools) -> bool:
    return b"identical" in tools.run("qemu-img", "compare", "-f", "raw", "-F", form, str(raw), str(other))


def test_a_vhd_is_the_disk_and_a_footer(raw: Path, tmp_path: Path, closure: Tools) -> None:
    made = tmp_path / "disk.vhd"
    virtualdisk.vhd(raw, made, IDENTIFIER, EPOCH, closure)
    data = made.read_bytes()
    footer = data[37 * MIB :]
    assert data[: 37 * MIB] == raw.read_bytes()
    assert len(footer) == 512
    assert struct.unpack_from(">QQ", footer, 40) == (37 * MIB, 37 * MIB)
    assert struct.unpack_from(">I", footer, 60) == (2,)  # fixed
    assert struct.unpack_from(">I", footer, 24) == (EPOCH - 946_684_800,)
    assert footer[68:84] == IDENTIFIER.bytes
    (checksum,) = struct.unpack_from(">I", footer, 64)
    assert checksum == ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF
    assert same(raw, "vpc", made, closure)


def test_a_vmdk_is_whole_and_has_the_identifier(raw: Path, tmp_path: Path, closure: Tools) -> None:
    made = tmp_path / "disk.vmdk"
    virtualdisk.vmdk(raw, made, IDENTIFIER, closure)
    assert b"\nCID=f5a31296\n" in made.read_bytes()[:4096]
    closure.run("qemu-img", "check", str(made))
    assert b"streamOptimized" in closure.run("qemu-img", "info", str(made))
    assert same(raw, "vmdk", made, closure)


def test_chance_leaves_no_trace(raw: Path, tmp_path: Path, closure: Tools) -> None:
    """qemu-img's own identifier is of another length now and then: often enough to be met here."""
    made = tmp_path / "disk.vmdk"  # its name is in it
    found = set()
    for _ in range(24):
        virtualdisk.vmdk(raw, made, IDENTIFIER, closure)
        found.add(made.read_bytes())
    assert len(found) == 1


@given(st.text("0123456789abcdef", min_size=1, max_size=8), st.sampled_from([b"", b"\n", b'"\n', b"\0\n"]))
def test_neither_does_what_was_behind_the_end_of_the_text(content_id: str, rest: bytes) -> None:
    """qemu-img rewrites the text when it changes the identifier; if that became shorter, the end of the longer one
    stays.
    """
    text = f'# Disk DescriptorFile\nversion=1\nCID={content_id}\nparentCID=ffffffff\nddb.toolsVersion = "2147483647"\n'
    descriptor = (text.encode() + b"\0" + rest).ljust(1024, b"\0")
    after = virtualdisk.vmdk_descriptor(descriptor, IDENTIFIER)
    assert after == text.replace(f"CID={content_id}\np", "CID=f5a31296\np").encode().ljust(1024, b"\0")


@pytest.mark.parametrize("descriptor", [b"", bytes(1024), b"parentCID=ffffffff\n", b"CID=1\nCID=2\n", b"\0CID=1\n"])
def test_a_descriptor_without_identifier_is_reported(descriptor: bytes) -> None:
    with pytest.raises(Failure, match="no content identifier"):
        virtualdisk.vmdk_descriptor(descriptor, IDENTIFIER)


@pytest.mark.parametrize("number", [2**32 - 1, 2**32 - 2])
def test_no_content_identifier_means_that_there_is_none(raw: Path, tmp_path: Path, closure: Tools, number: int) -> None:
    made = tmp_path / "disk.vmdk"
    virtualdisk.vmdk(raw, made, uuid.UUID(int=number << 96), closure)
    assert b"\nCID=ffffff" not in made.read_bytes()[:4096]


@given(st.binary(min_size=496, max_size=496), st.integers(0, 2**31), st.uuids())
def test_of_a_footer_only_time_identifier_and_checksum_change(rest: bytes, epoch: int, identifier: uuid.UUID) -> None:
    before = (b"conectix" + rest[:76] + rest[76:77] + bytes(427)).ljust(512, b"\0")
    after = virtualdisk.vhd_footer(before, identifier, epoch)
    changed = {number for number in range(512) if before[number] != after[number]}
    assert changed <= {*range(24, 28), *range(64, 84)}
    assert after == virtualdisk.vhd_footer(after, identifier, epoch)


@pytest.mark.parametrize("footer", [b"", b"conectix", bytes(512), b"conectix" + bytes(505)])
def test_what_is_no_footer_is_reported(footer: bytes) -> None:
    with pytest.raises(Failure, match="no footer of a VHD"):
        virtualdisk.vhd_footer(footer, IDENTIFIER, EPOCH)

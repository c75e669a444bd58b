"""Sections of ELF objects, whole and broken. (Shared libraries: see test_ldconfig.)"""

from __future__ import annotations

import struct

import pytest

from builder.finish.elf import ElfFailure, section


def relocatable(sections: dict[str, bytes]) -> bytes:
    """An ELF object with just these sections, as a kernel module has them."""
    names = b"\0"
    body = bytearray(64)
    rows = [struct.pack("<IIQQQQIIQQ", *[0] * 10)]
    for name, data in sections.items():
        rows.append(struct.pack("<IIQQQQIIQQ", len(names), 1, 0, 0, len(body), len(data), 0, 0, 1, 0))
        names += name.encode() + b"\0"
        body += data
    own = len(names)
    names += b".shstrtab\0"
    rows.append(struct.pack("<IIQQQQIIQQ", own, 3, 0, 0, len(body), len(names), 0, 0, 1, 0))
    body += names
    header = (b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, len(body), 0, 64, 0, 0, 64, len(rows), len(rows) - 1)
    body[:64] = struct.pack("<16sHHIQQQIHHHHHH", *header)
    return bytes(body) + b"".join(rows)


def test_a_section_is_found_by_name() -> None:
    data = relocatable({".text": b"code", ".modinfo": b"name=x\0"})
    assert section(data, ".modinfo", "/x") == b"name=x\0"
    assert section(data, ".nothing", "/x") == b""


@pytest.mark.parametrize("length", [0, 5, 6, 63, 64, 80, 200])
def test_what_is_cut_short_is_told(length: int) -> None:
    with pytest.raises(ElfFailure) as caught:
        section(relocatable({".modinfo": b"name=x\0"})[:length], ".modinfo", "/lib/x.ko")
    assert caught.value.where == "/lib/x.ko"


def test_no_elf() -> None:
    with pytest.raises(ElfFailure, match="not a 64-bit ELF object"):
        section(b"\x7fELF\x01\x01" + bytes(100), ".modinfo", "/x")

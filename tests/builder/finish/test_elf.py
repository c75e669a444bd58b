"""Sections of ELF objects, and what a program needs; whole and broken. (Shared libraries: see test_ldconfig.)"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.debian.tools import Tools
from builder.finish.elf import ElfFailure, needed, section


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


def dynamic(loader: str, libraries: Sequence[str]) -> bytes:
    """An ELF program or library that asks for ``loader`` (none if empty) and ``libraries``."""
    strings, tags = b"\0", list[tuple[int, int]]()
    for name in libraries:
        tags.append((1, len(strings)))
        strings += name.encode() + b"\0"
    interpreter = loader.encode() + b"\0"
    segments = 2 + bool(loader)
    text = 64 + segments * 56
    at = text + len(interpreter)
    tags += [(5, at), (0, 0)]  # of DT_STRTAB; then the end
    table = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    data = interpreter + strings + table
    rows = [
        (1, 4, 0, 0, 0, text + len(data), text + len(data), 4096),
        (2, 4, at + len(strings), at + len(strings), 0, len(table), len(table), 8),
    ]
    if loader:
        rows.append((3, 4, text, text, 0, len(interpreter), len(interpreter), 1))
    header = (b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, 0, 0, 64, 56, segments, 64, 0, 0)
    head = struct.pack("<16sHHIQQQIHHHHHH", *header)
    return head + b"".join(struct.pack("<IIQQQQQQ", *row) for row in rows) + data


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@given(loader=st.just("") | NAMES, libraries=st.lists(NAMES, max_size=5))
def test_the_loader_comes_first_then_the_libraries(loader: str, libraries: list[str]) -> None:
    assert needed(dynamic(loader, libraries), "/x") == (*([loader] if loader else []), *libraries)


@given(st.data())
def test_a_program_cut_short_is_refused_or_needs_less(data: st.DataObject) -> None:
    whole = dynamic("/lib/ld.so", ["libc.so.6", "libm.so.6"])
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        assert set(needed(cut, "/bin/x")) <= set(needed(whole, "/bin/x"))
    except ElfFailure as failure:
        assert failure.where == "/bin/x"


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_program_for_us_needs_nothing(data: bytes) -> None:
    assert needed(data, "/x") == ()


def test_a_real_program(closure: Tools) -> None:
    data = (closure.root / "usr/sbin/veritysetup").read_bytes()
    found = needed(data, "/usr/sbin/veritysetup")
    assert found[0] == "/lib64/ld-linux-x86-64.so.2"
    assert {"libcryptsetup.so.12", "libc.so.6"} <= set(found[1:])


def test_a_section_is_found_by_name() -> None:
    data = relocatable({".text": b"code", ".modinfo": b"name=x\0"})
    assert section(data, ".modinfo", "/x") == b"name=x\0"
    assert section(data, ".nothing", "/x") == b""


@pytest.mark.parametrize("length", [0, 5, 6, 63, 64, 80, 200])
def test_what_is_cut_short_is_reported(length: int) -> None:
    with pytest.raises(ElfFailure) as caught:
        section(relocatable({".modinfo": b"name=x\0"})[:length], ".modinfo", "/lib/x.ko")
    assert caught.value.where == "/lib/x.ko"


def test_no_elf() -> None:
    with pytest.raises(ElfFailure, match="not a 64-bit ELF object"):
        section(b"\x7fELF\x01\x01" + bytes(100), ".modinfo", "/x")

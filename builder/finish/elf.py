"""A reader of ELF for the name of a shared library, the libraries of a program, and the metadata of a kernel module.

Source of the format: the System V ABI, "Object Files" and "Dynamic Linking"; 64-bit little-endian only, like all our
targets.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from terminal import Failure

TYPE_DYNAMIC: Final = 3

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_DYNAMIC: Final = struct.Struct("<QQ")

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_FLAGS_1 = 0, 1, 5, 14, 0x6FFFFFFB
_DF_1_PIE = 0x08000000


class ElfFailure(Failure):
    """A file that begins like an ELF object but is broken (usually truncated)."""


@dataclass(frozen=True, slots=True)
class Library:
    """The data of a shared library for the loader's cache. ``soname`` is empty if the library has none."""

    machine: int
    soname: str


def is_elf(data: bytes) -> bool:
    """Whether ``data`` begins like a 64-bit little-endian ELF object; others (linker scripts, 32-bit) are ignored."""
    return data[:6] == b"\x7fELF\x02\x01"


def library(data: bytes, where: str) -> Library | None:
    """The machine and SONAME of a shared library; None for any other file, also a position-independent executable.

    Raises :class:`ElfFailure` at ``where`` if the object is broken.
    """
    if not is_elf(data):
        return None
    try:
        return _library(data)
    except (struct.error, ValueError) as error:
        raise ElfFailure(f"a broken ELF object ({error})", where=where) from None


def needed(data: bytes, where: str) -> tuple[str, ...]:
    """What the program or library ``data`` needs to start: its dynamic loader (a path), then SONAMEs.

    Nothing for any other file.

    Raises :class:`ElfFailure` at ``where`` if the object is broken.
    """
    if not is_elf(data):
        return ()
    try:
        segments = _segments(data)
        loader = [_text(data, segment[2]) for segment in segments if segment[0] == _PT_INTERP]
        tags = _dynamic(data, segments)
        strings = _file_offset(segments, dict(tags).get(_DT_STRTAB, 0)) if tags else 0
        return (*loader, *(_text(data, strings + value) for tag, value in tags if tag == _DT_NEEDED))
    except (struct.error, ValueError) as error:
        raise ElfFailure(f"a broken ELF object ({error})", where=where) from None


def _library(data: bytes) -> Library | None:
    header = _HEADER.unpack_from(data)
    kind, machine = header[1], header[2]
    if kind != TYPE_DYNAMIC:
        return None
    segments = _segments(data)
    tags = dict(_dynamic(data, segments))
    if not tags or tags.get(_DT_FLAGS_1, 0) & _DF_1_PIE:
        return None
    if _DT_SONAME not in tags:
        return Library(machine, "")
    strings = _file_offset(segments, tags.get(_DT_STRTAB, 0))
    return Library(machine, _text(data, strings + tags[_DT_SONAME]))


def _segments(data: bytes) -> list[tuple[int, ...]]:
    header = _HEADER.unpack_from(data)
    offset, size, count = header[5], header[9], header[10]
    return [_PROGRAM.unpack_from(data, offset + index * size) for index in range(count)]


def _dynamic(data: bytes, segments: list[tuple[int, ...]]) -> list[tuple[int, int]]:
    """The dynamic section's (tag, value) pairs; empty for statically linked objects."""
    found = []
    for offset, size in [(segment[2], segment[5]) for segment in segments if segment[0] == _PT_DYNAMIC]:
        for position in range(offset, offset + size, _DYNAMIC.size):
            tag, value = _DYNAMIC.unpack_from(data, position)
            if tag == _DT_NULL:
                break
            found.append((tag, value))
    return found


def _file_offset(segments: list[tuple[int, ...]], address: int) -> int:
    for kind, _, offset, virtual, _, size, _, _ in segments:
        if kind == _PT_LOAD and virtual <= address < virtual + size:
            return offset + address - virtual
    raise ValueError(f"address {address:#x} is in no segment")


def _text(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    if end < 0 or offset >= len(data):
        raise ValueError(f"no string at {offset}")
    return data[offset:end].decode()


def section(data: bytes, name: str, where: str) -> bytes:
    """The bytes of the section ``name``, empty if the object has none.

    Raises :class:`ElfFailure` at ``where`` if ``data`` is not an ELF object or is broken.
    """
    if not is_elf(data):
        raise ElfFailure("not a 64-bit ELF object", where=where)
    try:
        header = _HEADER.unpack_from(data)
        offset, size, count, names_index = header[6], header[11], header[12], header[13]
        sections = [_SECTION.unpack_from(data, offset + index * size) for index in range(count)]
        if names_index >= count:
            raise ValueError("no table of section names")
        names = sections[names_index][4]
        for each in sections:
            if _text(data, names + each[0]) == name:
                found = data[each[4] : each[4] + each[5]]
                if len(found) != each[5]:
                    raise ValueError(f"section {name} is cut short")
                return found
    except (struct.error, ValueError) as error:
        raise ElfFailure(f"a broken ELF object ({error})", where=where) from None
    return b""

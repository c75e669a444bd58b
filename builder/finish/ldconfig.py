"""The loader's cache, /etc/ld.so.cache, and the links by SONAME.

Replaces the work of: libc-bin's trigger (ldconfig), which about 90 packages activate.

Source of the format: glibc's ``cache_file_new`` (magic ``glibc-ld.so.cache``, version 1.1), little-endian: a header of
48 bytes, entries of 24 bytes sorted downwards, then their strings at offsets counted from the start of the file.
Subdirectories glibc-hwcaps (libraries for newer processors) are skipped; the loader then takes the baseline library,
which always works.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Final

from builder.core.architecture import Architecture
from builder.core.tree import Kind, Patch, Tree, file, symlink
from builder.finish.elf import library

_MAGIC: Final = b"glibc-ld.so.cache1.1"
_HEADER: Final = struct.Struct("<20sIIB3xI12x")
_ENTRY: Final = struct.Struct("<iIIIQ")
_LITTLE_ENDIAN: Final = 2
_LIBRARY_NAME: Final = re.compile(r"(lib|ld-).*\.so")
_PARTS: Final = re.compile(r"\d+|\D")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One line of the cache: the name that a program requests, and the absolute path for it."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    file: str
    is_link: bool


def compare_names(left: str, right: str) -> int:
    """Order names like glibc's ``_dl_cache_libcmp``: runs of digits by value, and a digit above any other character."""
    for one, two in itertools.zip_longest(_PARTS.findall(left), _PARTS.findall(right), fillvalue=""):
        if one == two:
            continue
        if one.isdigit() and two.isdigit():
            if int(one) != int(two):
                return -1 if int(one) < int(two) else 1
        elif one.isdigit() or two.isdigit():
            return 1 if one.isdigit() else -1
        else:
            return -1 if one < two else 1
    return 0


def _compare_downwards(left: CacheEntry, right: CacheEntry) -> int:
    return compare_names(right.name, left.name)


_downwards: Final = cmp_to_key(_compare_downwards)


def ldconfig(tree: Tree, architecture: Architecture) -> Patch:
    """The cache of the tree's libraries for ``architecture``, and SONAME links that are missing or outdated.

    Directories come from /etc/ld.so.conf (with its includes), then the loader's own. Raises
    :class:`~builder.finish.elf.ElfFailure` for a broken library.
    """
    links: list[tuple[str, str]] = []
    entries: list[CacheEntry] = []
    seen: set[str] = set()
    for folder in [*_configured(tree, "etc/ld.so.conf"), *_system(architecture)]:
        real = tree.resolve(folder)
        if real in seen:
            continue
        seen.add(real)
        for soname, best in sorted(_libraries(tree, real, architecture.elf_machine).items()):
            if not best.is_link and best.file != soname:
                links.append((f"{real}/{soname}", best.file))
            entries.append(CacheEntry(soname, f"/{folder}/{soname}"))
    put = [symlink(path, target) for path, target in links if not _points_to(tree, path, target)]
    return Patch((*put, file("etc/ld.so.cache", render(entries, architecture.loader_flags))))


def render(entries: list[CacheEntry], flags: int) -> bytes:
    """The bytes of a cache file with ``entries``; of two with the same name the first wins."""
    ordered = sorted(entries, key=_downwards)
    start = _HEADER.size + _ENTRY.size * len(ordered)
    strings = bytearray()
    table = bytearray()
    for entry in ordered:
        path = start + len(strings)
        name = path + entry.path.rindex("/") + 1  # the name is the end of the path, as ldconfig shares them
        strings += entry.path.encode() + b"\0"
        table += _ENTRY.pack(flags, name, path, 0, 0)
    return _HEADER.pack(_MAGIC, len(ordered), len(strings), _LITTLE_ENDIAN, 0) + bytes(table) + bytes(strings)


def _configured(tree: Tree, path: str) -> Iterator[str]:
    """Directories of an ld.so.conf, in order, without leading slash."""
    if path not in tree:
        return
    for line in tree.read(path).decode().splitlines():
        text = line.partition("#")[0].strip()
        word, _, pattern = text.partition(" ")
        if word == "include":
            base = "" if pattern.startswith("/") else path.rpartition("/")[0] + "/"
            for entry in tree.glob(base + pattern.strip().lstrip("/")):
                yield from _configured(tree, entry.path)
        elif text:
            yield text.strip("/")


def _system(architecture: Architecture) -> tuple[str, ...]:
    return (f"lib/{architecture.triplet}", f"usr/lib/{architecture.triplet}", "lib", "usr/lib")


def _libraries(tree: Tree, folder: str, machine: int) -> dict[str, _Candidate]:
    """SONAME -> best file or link of ``folder`` by ldconfig's rules: a file before a link, then the highest name."""
    found: dict[str, _Candidate] = {}
    for entry in tree.below(folder):
        name = entry.path.removeprefix(folder + "/")
        if "/" in name or entry.kind is Kind.DIRECTORY or not _LIBRARY_NAME.match(name) or name.endswith(".py"):
            continue
        real = tree.get(tree.resolve(entry.path))
        if real is None or real.kind is not Kind.FILE:
            continue
        about = library(real.content.read(), "/" + real.path)
        if about is None or about.machine != machine:
            continue
        soname = about.soname or name
        base = real.path.rpartition("/")[2]
        is_link = entry.kind is Kind.SYMLINK
        # A link counts as such only if it leads to the library's proper name, or is the name without version that
        # ld(1) uses.
        if is_link and base != soname and not (base.endswith(".so") and soname.startswith(base)):
            is_link = False
        if is_link:
            soname = name
        present = found.get(soname)
        if present is None or _better(_Candidate(name, is_link), present):
            found[soname] = _Candidate(name, is_link)
    return found


def _better(new: _Candidate, old: _Candidate) -> bool:
    if new.is_link != old.is_link:
        return old.is_link
    return compare_names(old.file, new.file) < 0


def _points_to(tree: Tree, path: str, target: str) -> bool:
    """Whether the link ``path`` finally leads to where ``target`` beside it leads.

    A plain file of that name is kept.
    """
    entry = tree.get(path)
    if entry is None:
        return False
    beside = f"{path.rpartition('/')[0]}/{target}"
    return entry.kind is not Kind.SYMLINK or tree.resolve(path) == tree.resolve(beside)

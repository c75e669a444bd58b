"""The squashfs format, as far as needed to reuse the compressed blocks of mksquashfs in another image.

This module reads where mksquashfs put contents, and writes another image around the same blocks.

It does not compress the tables and new contents that it writes, so it needs no compressor that could differ between
hosts.

Format: the kernel's Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h, version 4.0. All numbers are
little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Final

from builder.core.tree import Content, Entry, Kind, Slice, Tree
from builder.formats.filesystem import modified

# The superblock: magic, inodes, time, block size, fragments, compressor, log2 of the block size, flags, ids, version;
_COUNTS: Final = struct.Struct("<IIIIIHHHHHH")
# the root's inode, the bytes used, and where the tables begin: of ids, attributes, inodes, directories, fragments,
# exports.
_PLACES: Final = struct.Struct("<8Q")
_MAGIC: Final = 0x73717368
_VERSION: Final = (4, 0)
_NO_TABLE: Final = (1 << 64) - 1
_NONE: Final = (1 << 32) - 1
"""No fragment, or no attributes."""
_COMPRESSOR_OPTIONS: Final = 0x400
_PLAIN_TABLES: Final = 0x1 | 0x800  # of inodes (and directories), of ids
_EXPORTABLE: Final = 0x80
_PAD: Final = 4096

_METADATA: Final = 8192
"""Bytes of a block of a table, before its header."""
_PLAIN_METADATA: Final = 1 << 15
_PLAIN_BLOCK: Final = 1 << 24
"""Flags for uncompressed blocks, in the length of a block of a table and of data."""

_HEAD: Final = struct.Struct("<HHHHII")
"""Of every inode: type, mode, numbers of its owner's id and of its group's, time, number."""
_TYPES: Final = {Kind.DIRECTORY: 1, Kind.FILE: 2, Kind.SYMLINK: 3}
_EXTENDED: Final = 7
"""Offset of the types of extended inodes."""
_DIRECTORY: Final = struct.Struct("<IIHHI")  # block of the listing, links, length, offset in the block, parent
_LARGE_DIRECTORY: Final = struct.Struct(
    "<IIIIHHI"
)  # links, length, block, parent, rows of the index, offset, attributes
_FILE: Final = struct.Struct("<IIII")  # start, fragment, offset in it, size
_LARGE_FILE: Final = struct.Struct("<QQQIIII")  # start, size, bytes of holes, links, fragment, offset in it, attributes
_RUN: Final = struct.Struct("<III")
"""In a listing, before a run of names: their count less one, the block of their inodes, the number of one of them."""
_NAME: Final = struct.Struct(
    "<HhHH"
)  # offset of the inode in its block, its number less the run's, type, length less one
_RUN_NAMES: Final = 256
_LENGTH_MORE: Final = 3
"""What the length of a listing includes besides its bytes."""
_INDEX: Final = struct.Struct(
    "<III"
)  # offset in the listing, block of the table, length less one of the name that follows

_XATTR_PREFIXES: Final = ("user.", "trusted.", "security.")
"""In the order of their numbers."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """The place of a content: blocks from ``start`` on, and its end perhaps at ``offset`` in a fragment.

    The blocks have these ``sizes``, in the form of an inode.
    """

    start: int
    fragment: int
    offset: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Superblock:
    """The superblock of an image."""

    inodes: int
    time: int
    block_size: int
    fragments: int
    compressor: int
    block_log: int
    flags: int
    ids: int
    root: int
    used: int
    ids_at: int
    attributes_at: int
    inodes_at: int
    directories_at: int
    fragments_at: int
    exports_at: int

    @classmethod
    def of(cls, image: Path) -> _Superblock:
        raw = _span(image, 0, _COUNTS.size + _PLACES.size).read()
        magic, *before, major, minor = _COUNTS.unpack_from(raw)
        assert (magic, major, minor) == (_MAGIC, *_VERSION)
        return cls(*before, *_PLACES.unpack_from(raw, _COUNTS.size))

    def packed(self) -> bytes:
        counts = (self.inodes, self.time, self.block_size, self.fragments, self.compressor, self.block_log)
        places = (self.ids_at, self.attributes_at, self.inodes_at, self.directories_at, self.fragments_at)
        return _COUNTS.pack(_MAGIC, *counts, self.flags, self.ids, *_VERSION) + _PLACES.pack(
            self.root, self.used, *places, self.exports_at
        )


def read(image: Path) -> tuple[dict[bytes, Blocks], int]:
    """The places of the contents of the files in the root of ``image``, by name; and the end of its data.

    For an image that was written with ``-noI``: tables that are compressed are not understood.
    """
    about = _Superblock.of(image)
    return dict(_files(image, about)), about.inodes_at


def assemble(
    tree: Tree, contents: Iterable[Content], image: Path, blocks: Mapping[str, Blocks], output: Path, epoch: int
) -> None:
    """Write ``tree``, which has these ``contents``, as the new file ``output``.

    Times are those of :func:`builder.formats.filesystem.modified`.

    Its data is that of ``image``, which has ``blocks`` (by the SHA-256 of their contents), followed by the ``contents``
    that are missing there. Raises :class:`terminal.Failure` if the image, or a file of the store with a content, is
    truncated.
    """
    old = _Superblock.of(image)
    if len(tree) < old.fragments:
        # unsquashfs takes an image with more fragments than inodes for a broken one.
        blocks = {name: lies for name, lies in blocks.items() if lies.fragment == _NONE}
        old = replace(old, fragments=0)
    with image.open("rb") as source, output.open("w+b") as file:
        _span(image, 0, old.inodes_at).send(source.fileno(), file.fileno())
        file.seek(old.inodes_at)
        new = {each.sha256: _put(file, each, old.block_size) for each in contents if each.sha256 not in blocks}
        tables = _Tables(tree, {**blocks, **new}, old.block_size, epoch)
        inodes_at = file.tell()
        file.write(tables.inodes.packed())
        directories_at = file.tell()
        file.write(tables.listings.packed())
        fragments_at = _copy_fragments(image, old, file)
        exports_at = _write_table(file, struct.pack(f"<{len(tables.references)}Q", *tables.references))
        ids_at = _write_table(file, struct.pack(f"<{len(tables.ids)}I", *tables.ids))
        attributes_at = tables.attributes.write(file)
        used = file.tell()
        file.write(bytes(-used % _PAD))
        about = replace(
            old,
            inodes=len(tables.references),
            time=epoch,
            flags=old.flags & _COMPRESSOR_OPTIONS | _PLAIN_TABLES | _EXPORTABLE,
            ids=len(tables.ids),
            root=tables.references[0],
            used=used,
            ids_at=ids_at,
            attributes_at=attributes_at,
            inodes_at=inodes_at,
            directories_at=directories_at,
            fragments_at=fragments_at,
            exports_at=exports_at,
        )
        file.seek(0)
        file.write(about.packed())


def _span(image: Path, begin: int, end: int) -> Slice:
    """A part of ``image``; raises a failure if the image is truncated."""
    return Slice(image, begin, end - begin, "")


def _files(image: Path, about: _Superblock) -> Iterator[tuple[bytes, Blocks]]:
    inodes, inode_blocks = _joined(_span(image, about.inodes_at, about.directories_at).read())
    end = _first_place(image, about.fragments_at) if about.fragments else about.fragments_at
    listings, listing_blocks = _joined(_span(image, about.directories_at, end).read())
    at = inode_blocks[about.root >> 16] + (about.root & 0xFFFF)
    (kind, *_), at = _HEAD.unpack_from(inodes, at), at + _HEAD.size
    if kind == _TYPES[Kind.DIRECTORY]:
        block, _, length, offset, _ = _DIRECTORY.unpack_from(inodes, at)
    else:
        _, length, block, _, _, offset, _ = _LARGE_DIRECTORY.unpack_from(inodes, at)
    if length == _LENGTH_MORE:  # an empty directory has no listing
        return
    at = listing_blocks[block] + offset
    end = at + length - _LENGTH_MORE
    while at < end:
        (count, block, _), at = _RUN.unpack_from(listings, at), at + _RUN.size
        for _ in range(count + 1):
            (offset, _, _, size), at = _NAME.unpack_from(listings, at), at + _NAME.size
            yield listings[at : at + size + 1], _blocks(inodes, inode_blocks[block] + offset, about.block_size)
            at += size + 1


def _blocks(inodes: bytes, at: int, block_size: int) -> Blocks:
    """The place of the content of the file with the inode at ``at``."""
    (kind, *_), at = _HEAD.unpack_from(inodes, at), at + _HEAD.size
    if kind == _TYPES[Kind.FILE]:
        (start, fragment, offset, size), at = _FILE.unpack_from(inodes, at), at + _FILE.size
    else:
        assert kind == _TYPES[Kind.FILE] + _EXTENDED
        (start, size, _, _, fragment, offset, _), at = _LARGE_FILE.unpack_from(inodes, at), at + _LARGE_FILE.size
    count = -(-size // block_size) if fragment == _NONE else size // block_size
    return Blocks(start, fragment, offset, struct.unpack_from(f"<{count}I", inodes, at))


def _joined(raw: bytes) -> tuple[bytes, dict[int, int]]:
    """The joined blocks of a table; and the offset of each in them, by its place in the table."""
    joined = bytearray()
    starts: dict[int, int] = {}
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("<H", raw, at)
        assert length & _PLAIN_METADATA
        starts[at] = len(joined)
        after = at + 2 + (length & ~_PLAIN_METADATA)
        joined += raw[at + 2 : after]
        at = after
    return bytes(joined), starts


def _first_place(image: Path, index_at: int) -> int:
    return int.from_bytes(_span(image, index_at, index_at + 8).read(), "little")


def _put(file: IO[bytes], content: Content, block_size: int) -> Blocks:
    """Write ``content`` as it is; blocks of zeros are holes."""
    start, data = file.tell(), content.read()
    sizes = []
    for at in range(0, len(data), block_size):
        block = data[at : at + block_size]
        is_hole = not block.strip(b"\0")
        if not is_hole:
            file.write(block)
        sizes.append(0 if is_hole else len(block) | _PLAIN_BLOCK)
    return Blocks(start, _NONE, 0, tuple(sizes))


def _copy_fragments(image: Path, old: _Superblock, file: IO[bytes]) -> int:
    """Write the table of fragments: only the table moves, fragments stay in place. Returns the place of its index."""
    if not old.fragments:
        return file.tell()
    first = _first_place(image, old.fragments_at)
    moved = file.tell() - first
    file.write(_span(image, first, old.fragments_at).read())
    count = -(-old.fragments * 16 // _METADATA)
    index = _span(image, old.fragments_at, old.fragments_at + 8 * count).read()
    return _write_index(file, [place + moved for place in struct.unpack(f"<{count}Q", index)])


def _write_table(file: IO[bytes], data: bytes) -> int:
    """Write ``data`` as blocks, and an index of them; return the place of the index."""
    table, begin = _Table(data), file.tell()
    file.write(table.packed())
    return _write_index(file, [begin + place for place in table.places()])


def _write_index(file: IO[bytes], places: Sequence[int]) -> int:
    begin = file.tell()
    file.write(struct.pack(f"<{len(places)}Q", *places))
    return begin


class _Table:
    """A table, in blocks that are not compressed."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)

    def add(self, data: bytes) -> int:
        """Append it, and return its reference: the place of its block in the table, and the offset in the block."""
        at = len(self.data)
        self.data += data
        return self.place(at) << 16 | at % _METADATA

    @staticmethod
    def place(at: int) -> int:
        """Of the block with the byte ``at``."""
        return at // _METADATA * (_METADATA + 2)

    def places(self) -> range:
        """Of all blocks."""
        return range(0, -(-len(self.data) // _METADATA) * (_METADATA + 2), _METADATA + 2)

    def packed(self) -> bytes:
        """The bytes for the file."""
        parts = (self.data[at : at + _METADATA] for at in range(0, len(self.data), _METADATA))
        return b"".join(struct.pack("<H", len(part) | _PLAIN_METADATA) + part for part in parts)


class _Attributes:
    """Extended attributes: each set is stored once."""

    def __init__(self) -> None:
        self._sets = _Table()
        self._rows: dict[bytes, bytes] = {}
        self._numbers: dict[bytes, int] = {}

    def number(self, entry: Entry) -> int:
        """Of the entry's set."""
        if not entry.xattrs:
            return _NONE
        data, size = b"", 0
        for name, value in sorted(entry.xattrs.items()):
            kind = next(number for number, prefix in enumerate(_XATTR_PREFIXES) if name.startswith(prefix))
            rest = _encoded(name.removeprefix(_XATTR_PREFIXES[kind]))
            data += struct.pack("<HH", kind, len(rest)) + rest + struct.pack("<I", len(value)) + value
            size += len(_encoded(name)) + 1 + len(value)
        if data not in self._numbers:
            self._numbers[data] = len(self._numbers)
            self._rows[data] = struct.pack("<QII", self._sets.add(data), len(entry.xattrs), size)
        return self._numbers[data]

    def write(self, file: IO[bytes]) -> int:
        """Write all sets, their table, and its index; return the place of the index."""
        if not self._rows:
            return _NO_TABLE
        sets_at = file.tell()
        file.write(self._sets.packed())
        rows, rows_at = _Table(b"".join(self._rows.values())), file.tell()
        file.write(rows.packed())
        about_at = file.tell()
        file.write(struct.pack("<QII", sets_at, len(self._rows), 0))
        _write_index(file, [rows_at + place for place in rows.places()])
        return about_at


class _Tables:
    """The inodes and listings of a tree whose contents lie at ``blocks`` (by hash)."""

    def __init__(self, tree: Tree, blocks: Mapping[str, Blocks], block_size: int, epoch: int) -> None:
        self.inodes, self.listings, self.attributes = _Table(), _Table(), _Attributes()
        self._ids: dict[int, int] = {}
        self._blocks, self._block_size, self._epoch = blocks, block_size, epoch
        directories = {"": Entry("", Kind.DIRECTORY)}
        inside: dict[str, list[Entry]] = {"": []}
        for entry in tree:
            if entry.kind is Kind.DIRECTORY:
                directories[entry.path], inside[entry.path] = entry, []
            inside[entry.path.rpartition("/")[0]].append(entry)
        for entries in inside.values():
            entries.sort(key=_name)  # by bytes, as the kernel looks for them
        # The entries of a directory have adjacent numbers, and so adjacent inodes.
        self._numbers = {path: number for number, path in enumerate(("", *_paths(inside)), 1)}
        self.references = [0] * len(self._numbers)
        """Of the inodes, in the order of their numbers: that of the root comes first."""
        # A directory comes after its entries, since it contains their places.
        for path in sorted(inside, reverse=True):
            for entry in inside[path]:
                if entry.kind is not Kind.DIRECTORY:
                    self._write_file(entry) if entry.kind is Kind.FILE else self._write_symlink(entry)
            self._write_directory(directories[path], inside[path])

    @property
    def ids(self) -> list[int]:
        """Of owners and groups, by their numbers."""
        return list(self._ids)

    def _write_inode(self, entry: Entry, rest: bytes, *, extended: bool) -> None:
        kind = _TYPES[entry.kind] + (_EXTENDED if extended else 0)
        user, group = (self._ids.setdefault(number, len(self._ids)) for number in (entry.uid, entry.gid))
        number, time = self._numbers[entry.path], modified(entry, self._epoch)
        head = _HEAD.pack(kind, entry.mode, user, group, time, number)
        self.references[number - 1] = self.inodes.add(head + rest)

    def _write_file(self, entry: Entry) -> None:
        lies = self._blocks[entry.content.sha256] if entry.size else Blocks(0, _NONE, 0, ())
        attributes = self.attributes.number(entry)
        # As in mksquashfs, never the whole file: some programs do not read files without blocks.
        holes = min(max(entry.size - 1, 0), lies.sizes.count(0) * self._block_size)
        sizes = struct.pack(f"<{len(lies.sizes)}I", *lies.sizes)
        if attributes != _NONE or holes or max(lies.start, entry.size) > _NONE:
            row = _LARGE_FILE.pack(lies.start, entry.size, holes, 1, lies.fragment, lies.offset, attributes)
            self._write_inode(entry, row + sizes, extended=True)
        else:
            row = _FILE.pack(lies.start, lies.fragment, lies.offset, entry.size)
            self._write_inode(entry, row + sizes, extended=False)

    def _write_symlink(self, entry: Entry) -> None:
        target, attributes = _encoded(entry.target), self.attributes.number(entry)
        row = struct.pack("<II", 1, len(target)) + target
        if attributes != _NONE:
            row += struct.pack("<I", attributes)
        self._write_inode(entry, row, extended=attributes != _NONE)

    def _write_directory(self, entry: Entry, inside: Sequence[Entry]) -> None:
        begin = len(self.listings.data)
        index = self._write_listing(inside)
        length = len(self.listings.data) - begin + _LENGTH_MORE
        links = 2 + sum(each.kind is Kind.DIRECTORY for each in inside)
        # The root's parent is a number that no inode has.
        parent = self._numbers[entry.path.rpartition("/")[0]] if entry.path else len(self._numbers) + 1
        block, offset = self.listings.place(begin), begin % _METADATA
        attributes = self.attributes.number(entry)
        if attributes != _NONE or index or length > 0xFFFF:
            row = _LARGE_DIRECTORY.pack(links, length, block, parent, len(index), offset, attributes)
            self._write_inode(entry, row + b"".join(index), extended=True)
        else:
            self._write_inode(entry, _DIRECTORY.pack(block, links, length, offset, parent), extended=False)

    def _write_listing(self, inside: Iterable[Entry]) -> list[bytes]:
        """Append the listing of a directory; return its index, the first run in each further block of the table.

        With that the kernel reads one block to find a name.
        """
        table = self.listings.data
        begin = len(table)
        index: list[bytes] = []
        run_at, run_names, run_block, run_number = begin, 0, 0, 0
        for entry in inside:
            name, number = _name(entry), self._numbers[entry.path]
            reference = self.references[number - 1]
            is_further = len(table) // _METADATA > run_at // _METADATA
            if is_further:
                index.append(_INDEX.pack(len(table) - begin, _Table.place(len(table)), len(name) - 1) + name)
            if is_further or run_names in (0, _RUN_NAMES) or reference >> 16 != run_block:
                run_at, run_names, run_block, run_number = len(table), 0, reference >> 16, number
                table += _RUN.pack(0, run_block, run_number)
            _RUN.pack_into(table, run_at, run_names, run_block, run_number)
            run_names += 1
            table += _NAME.pack(reference & 0xFFFF, number - run_number, _TYPES[entry.kind], len(name) - 1) + name
        return index


def _paths(inside: Mapping[str, Sequence[Entry]]) -> Iterator[str]:
    """Of all entries but the root, directory by directory."""
    return (entry.path for path in sorted(inside) for entry in inside[path])


def _name(entry: Entry) -> bytes:
    return _encoded(entry.path.rpartition("/")[2])


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

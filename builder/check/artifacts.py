"""The differences inside two artifacts that should be the same file.

Archives are opened, and their members compared by name, attributes and content.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pycdlib.pycdlibexception import PyCdlibException

from builder.about import filelist
from builder.core.toolbox import ToolFailure
from builder.debian.tools import Tools
from builder.formats import volumes
from terminal import Failure

_CPIO_MAGIC: Final = b"070701"
_CPIO_HEADER_BYTES: Final = 110
_GZIP_MAGIC: Final = b"\x1f\x8b"
_OCI_BLOBS: Final = "blobs/sha256/"
_SQUASHFS_MAGIC: Final = b"hsqs"
_TAR_MAGIC: Final = (257, b"ustar")
_CHUNK: Final = 1 << 20
_DISKS: Final = (".img", ".raw", ".vmdk", ".vhd")


@dataclass(frozen=True, slots=True)
class Member:
    """A file, folder or link in an archive: its attributes as text, and the hash of its content.

    Attributes are kind, mode, owner, time and target.
    """

    attributes: str
    sha256: str = ""


Members = Mapping[str, Member]


class Unreadable(Exception):  # noqa: N818 - reported as a difference, never on its own
    """The artifact is of a kind that is not opened, or is damaged; the text has the reason."""


def differences(ours: Path, theirs: Path, tools: Tools, scratch: Path) -> list[str]:
    """One line for each member in which two artifacts differ, sorted; never empty for files that differ.

    ``ours`` is what was built, ``theirs`` the rebuild; ``scratch`` is an empty folder for unpacking, left empty.
    """
    try:
        built, rebuilt = members(ours, tools, scratch), members(theirs, tools, scratch)
    except Unreadable as error:
        return [str(error)]
    found = [line for name in sorted(built.keys() | rebuilt.keys()) for line in _changes(name, built, rebuilt)]
    return found or ["all files in it are the same: their order, the compression or the padding differs"]


def _changes(name: str, built: Members, rebuilt: Members) -> Iterator[str]:
    one, other = built.get(name), rebuilt.get(name)
    if one is None or other is None:
        yield f"{name}: only in the {'rebuild' if one is None else 'built one'}"
        return
    if one.sha256 != other.sha256:
        yield f"{name}: contents differ"
    if one.attributes != other.attributes:
        yield f"{name}: built as {one.attributes}, rebuilt as {other.attributes}"


def members(path: Path, tools: Tools, scratch: Path) -> Members:
    """The contents of the archive at ``path``, by name. Raises :class:`Unreadable`."""
    if path.name == filelist.NAME:
        return _list(path)
    with path.open("rb") as file:
        head = file.read(512)
        file.seek(0)
        if head.startswith(_CPIO_MAGIC):
            return dict(_cpio(file.read()))
        try:
            if _is_tar(head):
                return {**dict(_tar(file, "")), **_disks(path, tools, scratch)}
            if head.startswith(_GZIP_MAGIC):
                with gzip.open(file) as inflated:
                    return {**dict(_tar(inflated, "")), **_disks(path, tools, scratch)}
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise Unreadable(f"it is damaged: {error}") from error
    if head.startswith(_SQUASHFS_MAGIC):
        listing = scratch / "squashfs"
        try:
            # A pseudo file: one line per member, then the contents of all.
            tools.run("unsquashfs", "-pf", str(listing), str(path))
            return dict(_squashfs(listing))
        except ToolFailure as error:
            raise Unreadable(f"it is damaged: {error}") from error
        finally:
            listing.unlink(missing_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            found = dict(_nested(path, tools, Path(folder)))
    except (ToolFailure, PyCdlibException) as error:
        raise Unreadable(f"it is damaged: {error}") from error
    if not found:
        raise Unreadable("its contents differ")
    return found


def _disks(path: Path, tools: Tools, scratch: Path) -> dict[str, Member]:
    """The contents of the disks in the tar ``path`` (compressed or not), such as a box or a cloud's archive."""
    found: dict[str, Member] = {}
    with tarfile.open(path) as archive:
        for entry in archive:
            opened = archive.extractfile(entry) if entry.isreg() and entry.name.endswith(_DISKS) else None
            if opened is not None:
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    disk = Path(folder) / "disk"
                    with disk.open("wb") as file:
                        shutil.copyfileobj(opened, file, _CHUNK)
                    with suppress(Unreadable):
                        inside = members(disk, tools, Path(folder))
                        found |= {f"{entry.name}/{name}": member for name, member in inside.items()}
    return found


def _nested(path: Path, tools: Tools, scratch: Path) -> Iterator[tuple[str, Member]]:
    """The contents of the file systems of a disk or an ISO, below the name of the partition or file of each."""
    for name, piece in volumes.pieces(path, tools, scratch):
        prefix = f"{name}/" if name else ""
        try:
            for inner, member in members(piece, tools, scratch).items():
                yield prefix + inner, member
        except Unreadable:
            with piece.open("rb") as file:
                yield name or piece.name, Member("", hashlib.file_digest(file, "sha256").hexdigest())


def _list(path: Path) -> Members:
    """A build's own list of the tree, for roots whose file system is not opened, too."""
    try:
        found = filelist.load(path.parent)
    except Failure as failure:
        raise Unreadable(f"it is damaged: {failure.message}") from failure
    return {
        name: Member(
            f"{each.kind} {each.mode} {each.uid}:{each.gid} {each.mtime} {each.package} {each.target} {dict(each.xattrs) or ''}".strip(),
            each.sha256,
        )
        for name, each in found.items()
    }


def _cpio(data: bytes) -> Iterator[tuple[str, Member]]:
    """Format: the kernel's buffer-format.rst, as :mod:`builder.formats.cpio` writes it.

    Archives may follow each other.
    """
    at = 0
    while True:
        try:
            fields = [int(data[at + start : at + start + 8], 16) for start in range(6, _CPIO_HEADER_BYTES, 8)]
        except ValueError as error:
            raise Unreadable("it is damaged: no cpio record where one should be") from error
        _, mode, uid, gid, _, mtime, size, *_, name_size, _ = fields
        begin = at + _CPIO_HEADER_BYTES
        name = data[begin : begin + name_size - 1].decode("utf-8", "backslashreplace")
        body = -(-(begin + name_size) // 4) * 4
        at = -(-(body + size) // 4) * 4
        if name != "TRAILER!!!":
            yield name, Member(f"{mode:o} {uid}:{gid} {mtime}", hashlib.sha256(data[body : body + size]).hexdigest())
        elif not data[at:].strip(b"\0"):
            return


def _is_tar(head: bytes) -> bool:
    at, magic = _TAR_MAGIC
    return head[at:].startswith(magic)


def _tar(file: IO[bytes] | gzip.GzipFile, prefix: str) -> Iterator[tuple[str, Member]]:
    """The members of a tar, and of the tars in it (layers)."""
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
        for entry in archive:
            name = prefix + entry.name
            attributes = f"{entry.type.decode()} {entry.mode:o} {entry.uid}:{entry.gid} {entry.mtime} {entry.linkname}"
            more = {key: value for key, value in entry.pax_headers.items() if key.startswith("SCHILY.xattr.")}
            opened = archive.extractfile(entry) if entry.isreg() else None
            if opened is None:
                yield name, Member(f"{attributes} {more or ''}".strip())
            elif not prefix and name.endswith(".tar"):
                yield from _tar(opened, f"{name}/")
            elif not prefix and name.startswith(_OCI_BLOBS) and _is_tar(opened.read(512)):
                # Its name is its own hash, which changes with every difference.
                opened.seek(0)
                yield from _tar(opened, "layer/")
            else:
                opened.seek(0)
                yield (
                    name,
                    Member(f"{attributes} {more or ''}".strip(), _digest(opened, entry.size)),
                )


# A name (spaces and backslashes in it are escaped), a letter for the kind, and what belongs to it.
_PSEUDO_LINE: Final = re.compile(rb"((?:[^\\ ]|\\.)+) (.*)", re.DOTALL)
# R time mode uid gid size offset sparse: the offset depends on all files before it.
_PSEUDO_FILE: Final = re.compile(rb"(R .*) (\d+) (\d+) \d+")


def _squashfs(listing: Path) -> Iterator[tuple[str, Member]]:
    """Format: squashfs-tools' "Pseudo file definition", with the files of kind R that ``unsquashfs -pf`` writes."""
    found: dict[str, Member] = {}
    places: dict[str, tuple[int, int]] = {}
    with listing.open("rb") as file:
        for line in file:
            if line.startswith(b"# START OF DATA"):
                file.readline()
                break
            match = _PSEUDO_LINE.fullmatch(line.rstrip(b"\n"))
            if line.startswith(b"#") or match is None:
                continue
            name, attributes = match[1].decode("utf-8", "backslashreplace"), match[2]
            if content := _PSEUDO_FILE.fullmatch(attributes):
                attributes, places[name] = content[1], (int(content[3]), int(content[2]))
            # An extended attribute is one more line for the same name.
            before = f"{found[name].attributes}, " if name in found else ""
            found[name] = Member(before + attributes.decode("utf-8", "backslashreplace"))
        begin = file.tell()
        for name, member in found.items():
            if name not in places:
                yield name, member
                continue
            offset, size = places[name]
            file.seek(begin + offset)
            yield name, Member(member.attributes, _digest(file, size))


def _digest(file: IO[bytes], size: int) -> str:
    """The hash of the next ``size`` bytes."""
    total = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(size, _CHUNK))):
        total.update(chunk)
        size -= len(chunk)
    return total.hexdigest()

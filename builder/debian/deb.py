"""Reading a ``.deb`` without dpkg: an ``ar`` archive that holds a control tar and a data tar (deb(5)).

Nothing in it is trusted except its hash, which the caller has checked: names and links must not lead out of the root,
only files, directories and links are accepted, and sizes are capped. A package is unpacked *once*, into one
uncompressed tar in the store plus an index of where each file lies in it; building an image then reads slices of that
tar and never writes a tree of small files.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Final

from builder.core import bundle, inflate
from builder.core.store import Store
from builder.core.toolbox import Toolbox
from builder.core.tree import Entry, Kind
from builder.debian import xz
from terminal import Failure, record

VERSION: Final = 3
"""Version of the unpacked form; part of its id."""

DATA_BYTES_MAX: Final = 4 << 30
"""Cap of one data tar; the largest package of Debian is below 2 GiB, and more is an attack or an error."""

CONTROL_BYTES_MAX: Final = 64 << 20

SCRIPTS: Final = ("preinst", "postinst", "prerm", "postrm", "config", "triggers")

_AR_MAGIC: Final = b"!<arch>\n"
_CHUNK: Final = 1 << 20
_CONTROL: Final = re.compile(r"[\0-\x1f]")
_SIZE: Final = re.compile(rb"[0-9]+ *")
_MERGED: Final = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


class BadPackage(Failure):
    """The ``.deb`` is broken or hostile."""


@dataclass(frozen=True)
class Package:
    """One unpacked package: control paragraph, maintainer scripts (never run), files as index ``rows`` of ``data``."""

    name: str
    control: str
    scripts: dict[str, str]
    conffiles: tuple[str, ...]
    rows: Sequence[bundle.Row]
    data: Path

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """All files, folders and links, in the package's order."""
        return tuple(self.below(""))

    def below(self, prefix: str) -> Iterator[Entry]:
        """Those whose path begins with ``prefix``."""
        return (bundle.entry(row, self.data, self.name) for row in self.rows if row[0].startswith(prefix))


def unpack(deb: Path, sha256: str, store: Store, toolbox: Toolbox | None = None) -> Package:
    """The package in the file ``deb``, unpacked into ``store`` at most once; the caller has verified its ``sha256``.

    With a ``toolbox``, its xz unpacks a large one. Raises :class:`BadPackage` if it is truncated, not a package, or
    leads out of its root.
    """
    final = folder(sha256, store)
    if not final.exists():
        with store.making("packages", final.name) as work:
            _unpack_into(deb, work, toolbox)
    return load(final)


def folder(sha256: str, store: Store) -> Path:
    """Where the package with this hash is unpacked, or would be."""
    return store.path("packages", f"{sha256[:40]}-{VERSION}")


def is_unpacked(sha256: str, store: Store) -> bool:
    """Is it there, complete?"""
    return folder(sha256, store).exists()


def load(folder: Path) -> Package:
    """Read an unpacked package back from the store."""
    index = record.parse((folder / "index.json").read_text())
    conffiles, rows = tuple(index["conffiles"]), index["entries"]
    return Package(index["name"], index["control"], index["scripts"], conffiles, rows, folder / "data.tar")


def _unpack_into(deb: Path, work: Path, toolbox: Toolbox | None) -> None:
    is_large = deb.stat().st_size >= xz.WORTHWHILE
    try:
        with deb.open("rb") as file:
            members = _members(file, deb)
            control = _read_control(members, deb)
            part, chunks = _data(members, deb)
            with (work / "data.tar").open("wb") as out:
                if toolbox is not None and is_large and part.endswith(".xz"):
                    xz.decompress(file, out, DATA_BYTES_MAX, toolbox)
                else:
                    out.writelines(_decompressed(part, chunks, DATA_BYTES_MAX, deb))
    except (EOFError, lzma.LZMAError, zlib.error, tarfile.TarError, gzip.BadGzipFile, ValueError) as error:
        raise BadPackage(
            "the package is damaged or cut short", where=str(deb), hint="delete the file and build again"
        ) from error
    name = fields(control.get("control", "")).get("Package")
    if not name:
        raise BadPackage("its control part names no package", where=str(deb), hint="do not use this package")
    index = {
        "name": name,
        "control": control["control"],
        "scripts": {name: control[name] for name in SCRIPTS if name in control},
        "conffiles": control.get("conffiles", "").split("\n")[:-1],
        "entries": _index(work / "data.tar", deb),
    }
    (work / "index.json").write_text(json.dumps(index))


def _members(file: IO[bytes], deb: Path) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The ar members of an open package, as (name, chunks); each must be read before the next one."""
    if file.read(8) != _AR_MAGIC:
        raise BadPackage("this is not a Debian package (no ar header)", where=str(deb))
    while header := file.read(60):
        if len(header) != 60 or header[58:60] != b"`\n":
            raise BadPackage("the package is damaged or cut short", where=str(deb), hint="delete it and build again")
        if not _SIZE.fullmatch(header, 48, 58):  # int() accepts "-60", which would lead back to this header for ever
            raise BadPackage("a size in the package is no number", where=str(deb), hint="do not use this package")
        size = int(header[48:58])
        end = file.tell() + size + size % 2
        yield header[:16].decode("ascii").rstrip().rstrip("/"), _chunks(file, size, deb)
        file.seek(end)


def _chunks(file: IO[bytes], size: int, deb: Path) -> Iterator[bytes]:
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise BadPackage("the package is cut short", where=str(deb), hint="delete the file and build again")
        size -= len(chunk)
        yield chunk


def _decompressed(name: str, chunks: Iterator[bytes], limit: int, deb: Path) -> Iterator[bytes]:
    suffix = name.rpartition(".")[2]
    if suffix not in inflate.KINDS:
        raise BadPackage(
            f"its part {name} is compressed in a way this builder cannot read",
            where=str(deb),
            hint="Debian's own packages use xz; was this one made for another distribution?",
        )
    total = 0
    for data in inflate.inflated(suffix, chunks):
        total += len(data)
        if total > limit:
            raise BadPackage(f"its part {name} unpacks to more than {limit} bytes", where=str(deb))
        yield data


def _read_control(members: Iterator[tuple[str, Iterator[bytes]]], deb: Path) -> dict[str, str]:
    for name, chunks in members:
        if name.startswith("control.tar"):
            raw = b"".join(_decompressed(name, chunks, CONTROL_BYTES_MAX, deb))
            with tarfile.open(fileobj=io.BytesIO(raw), encoding="utf-8") as tar:
                return {
                    member.name.removeprefix("./"): file.read().decode("utf-8", "surrogateescape")
                    for member in tar
                    if member.isreg() and (file := tar.extractfile(member)) is not None
                }
        if name != "debian-binary":
            break
    raise BadPackage("it has no control part", where=str(deb))


def _data(members: Iterator[tuple[str, Iterator[bytes]]], deb: Path) -> tuple[str, Iterator[bytes]]:
    for name, chunks in members:
        if name.startswith("data.tar"):
            return name, chunks
    raise BadPackage("it has no data part", where=str(deb), hint="delete the file and build again")


def _index(data: Path, deb: Path) -> list[bundle.Row]:
    """The index rows of a package's data tar."""
    try:
        # Names in it are UTF-8, whatever the locale of this process.
        with data.open("rb", buffering=0) as contents, tarfile.open(data, "r:", encoding="utf-8") as tar:
            return list(_rows(tar, contents, deb))
    except tarfile.TarError as error:
        raise BadPackage("its data part is damaged", where=str(deb), hint="delete it and build again") from error


def _digest(contents: io.FileIO, offset: int, size: int, room: memoryview) -> str:
    """The hash of ``size`` bytes at ``offset``, as far as they exist; ``room`` is the buffer."""
    total = hashlib.sha256()
    contents.seek(offset)
    while size > 0 and (count := contents.readinto(room[:size])):
        total.update(room[:count])
        size -= count
    return total.hexdigest()


_XATTR: Final = "SCHILY.xattr."


def _rows(members: Iterable[tarfile.TarInfo], contents: io.FileIO, deb: Path) -> Iterator[bundle.Row]:
    """Index rows of the tar's ``members``; ``contents`` is the tar itself."""
    # One buffer for all: memory that is touched for the first time costs more than hashing.
    room = memoryview(bytearray(_CHUNK))
    places: dict[str, tuple[int, int, str]] = {}
    for member in members:
        path = checked_path(member.name, deb)
        if not path or path in _MERGED:
            continue
        offset, size, sha256, target = 0, 0, "", ""
        if member.isdir():
            kind = Kind.DIRECTORY
        elif member.issym():
            kind, target = Kind.SYMLINK, checked_target(path, member.linkname, deb)
        elif member.isreg():
            kind, offset, size = Kind.FILE, member.offset_data, member.size
            sha256 = _digest(contents, offset, size, room)
            places[path] = (offset, size, sha256)
        elif member.islnk():
            # A hard link is another name for an earlier file of the same tar.
            kind = Kind.FILE
            try:
                offset, size, sha256 = places[checked_path(member.linkname, deb)]
            except KeyError:
                raise BadPackage("a hard link leads nowhere", where=f"{deb}: {member.name}") from None
            places[path] = (offset, size, sha256)
        else:
            raise BadPackage("it holds a device, a pipe or something stranger", where=f"{deb}: {member.name}")
        xattrs = {
            name.removeprefix(_XATTR): base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
            for name, value in member.pax_headers.items()
            if name.startswith(_XATTR)
        }
        attributes = member.mode & 0o7777, member.uid, member.gid, int(member.mtime)
        yield path, kind, *attributes, offset, size, sha256, target, xattrs


def checked_path(name: str, where: Path) -> str:
    """The tree path of an archive member: relative, clean, with ``/usr`` merged.

    Raises :class:`BadPackage` for absolute names, ``..`` and control characters.
    """
    if name.startswith("/") or _CONTROL.search(name):
        raise BadPackage("a name in it is not a clean relative path", where=f"{where}: {name!r}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadPackage(
            "a name in it climbs out of the root", where=f"{where}: {name!r}", hint="do not use this package"
        )
    if len(parts) > 1 and parts[0] in _MERGED:
        parts[:1] = _MERGED[parts[0]].split("/")
    return "/".join(parts)


def checked_target(path: str, target: str, where: Path) -> str:
    """A link's target, if it stays below its root.

    Absolute targets are accepted: they are read relative to the image's root, and nothing is ever written *through* a
    link (:meth:`Tree.add` refuses that). Raises :class:`BadPackage` for a relative target that climbs above the root.
    """
    depth = path.count("/")
    for part in [] if target.startswith("/") else target.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            raise BadPackage(
                f"a link in it points above the root: {target!r}",
                where=f"{where}: {path}",
                hint="do not use this package",
            )
    if not target or "\0" in target:
        raise BadPackage("a link in it has no usable target", where=f"{where}: {path}")
    return target


def fields(control: str) -> dict[str, str]:
    """The one-line fields of a control paragraph."""
    pairs = (line.partition(":") for line in control.splitlines() if line[:1] not in ("", " ", "\t"))
    return {name: value.strip() for name, _, value in pairs}

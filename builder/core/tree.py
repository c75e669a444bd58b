"""A file system in memory: the contents of an image before any of it is written.

A :class:`Tree` maps paths to :class:`Entry` values. Contents are references (:class:`Inline` bytes, or a :class:`Slice`
of a file in the store), so that a tree of half a gigabyte costs a few megabytes and merging trees moves no data. Owners
and modes are numbers in the entry, never those of a file on the host: nothing here needs root.

Paths are relative, without a leading slash, ``usr/bin/env``; the root itself is the empty path and is always there.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from terminal import Failure

OWNER_BUILDER: Final = "flotilla"


class Kind(StrEnum):
    """The kind of an entry. Images hold no devices, sockets and fifos: the kernel makes them."""

    FILE = "file"
    DIRECTORY = "dir"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class Inline:
    """Content held in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)

    @property
    def sha256(self) -> str:
        """Its hash, in hex."""
        return hashlib.sha256(self.data).hexdigest()

    def read(self) -> bytes:
        """All of it."""
        return self.data


@dataclass(frozen=True, slots=True)
class Slice:
    """Content that is ``size`` bytes at ``offset`` of the file ``path``, a file of the store that does not change.

    ``sha256`` (hex) was computed when the content was stored: a build lists the hash of every file without reading half
    a gigabyte for it.
    """

    path: Path
    offset: int
    size: int
    sha256: str

    def read(self) -> bytes:
        """All of it.

        Raises :class:`Failure` if the store's file is shorter than it was.
        """
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise self._cut_short(len(data))
        return data

    def send(self, source: int, target: int) -> None:
        """Write all of it to the descriptor ``target`` from ``source``, a descriptor of the opened file.

        It does not pass through this process.

        Raises as :meth:`read`, and ``OSError`` if ``target`` accepts no more.
        """
        done = 0
        while done < self.size:
            sent = os.sendfile(target, source, self.offset + done, self.size - done)
            if sent == 0:
                raise self._cut_short(done)
            done += sent

    def _cut_short(self, found: int) -> Failure:
        return Failure(
            f"a stored file is cut short ({found} of {self.size} bytes)",
            where=str(self.path),
            hint="run 'osbuild cache --prune' and build again",
        )


Content = Inline | Slice


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a tree.

    ``mode`` holds the permission bits only (with setuid, setgid, sticky); ``target`` is a link's text; ``owner`` is the
    package that brought the path, or ``flotilla`` for our own; ``xattrs`` are raw values by full name
    (``security.capability``).
    """

    path: str
    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    content: Content = Inline(b"")
    target: str = ""
    owner: str = OWNER_BUILDER
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of content; zero for all but files."""
        return self.content.size if self.kind is Kind.FILE else 0


class PathConflict(Failure):
    """Two owners claim one path with different things in it."""


def file(path: str, data: bytes | str, mode: int = 0o644, *, uid: int = 0, gid: int = 0) -> Entry:
    """A file of our own."""
    raw = data.encode() if isinstance(data, str) else data
    return Entry(path, Kind.FILE, mode, uid, gid, content=Inline(raw))


def directory(path: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0) -> Entry:
    """A directory of our own."""
    return Entry(path, Kind.DIRECTORY, mode, uid, gid)


def symlink(path: str, target: str) -> Entry:
    """A symbolic link of our own; ``target`` is written unchanged."""
    return Entry(path, Kind.SYMLINK, 0o777, target=target)


def parents(path: str) -> Iterator[str]:
    """The directories above ``path``, outermost first, without the root."""
    parts = path.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])


@dataclass(frozen=True)
class Patch:
    """What one step does to a tree: paths to remove (with all below them), then entries to put."""

    put: tuple[Entry, ...] = ()
    remove: tuple[str, ...] = ()


class Tree:
    """Paths to entries, with explicit merge rules.

    * A directory that occurs twice is one directory; the first owner's mode stays.
    * :meth:`add` refuses a path that is taken by anything else, and names both owners.
    * :meth:`put` replaces on purpose (overlays, finishing steps).
    * Missing parents are made, 0755 root, so that every entry has its parents.
    """

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            self.add(entry)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Tree:
        """The tree of ``entries`` that were a tree before: nothing is checked."""
        tree = cls()
        tree._entries = {entry.path: entry for entry in entries}
        return tree

    def __contains__(self, path: str) -> bool:
        return path in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        """Entries sorted by path, so that a directory comes before what is in it."""
        return (self._entries[path] for path in sorted(self._entries))

    def __getitem__(self, path: str) -> Entry:
        return self._entries[path]

    def get(self, path: str) -> Entry | None:
        """The entry at ``path`` itself (links are not followed), or None."""
        return self._entries.get(path)

    def add(self, entry: Entry) -> None:
        """Put ``entry`` where there is nothing, an equal directory, or an identical file of the same owner.

        Raises :class:`PathConflict` naming the path and both owners.
        """
        present = self._entries.get(entry.path)
        if present is None:
            self._open_parents(entry)
            self._entries[entry.path] = entry
            return
        if present.kind is Kind.DIRECTORY and entry.kind is Kind.DIRECTORY:
            return
        if present.kind is entry.kind and present.target == entry.target and present.owner == entry.owner:
            self._entries[entry.path] = entry
            return
        raise PathConflict(
            f"both {present.owner} ({present.kind}) and {entry.owner} ({entry.kind}) bring this path",
            where="/" + entry.path,
            hint="drop one of the two packages, or name the path under 'remove' of the definition",
        )

    def put(self, entry: Entry) -> None:
        """Put ``entry``, replacing what is there; a directory is only replaced by a non-directory when it is empty."""
        present = self._entries.get(entry.path)
        replaces_directory = present is not None and present.kind is Kind.DIRECTORY and entry.kind is not Kind.DIRECTORY
        if present is not None and replaces_directory and any(True for _ in self.below(entry.path)):
            raise PathConflict(
                f"a directory with contents ({present.owner}) cannot become a {entry.kind} ({entry.owner})",
                where="/" + entry.path,
            )
        self._open_parents(entry)
        self._entries[entry.path] = entry

    def remove(self, path: str) -> None:
        """Remove ``path`` and all below it; a path that is not there is no error."""
        self._entries.pop(path, None)
        for name in [entry.path for entry in self.below(path)]:
            del self._entries[name]

    def apply(self, patch: Patch) -> None:
        """Carry out the patch of a finishing step."""
        # One pass for all paths: a step may drop thousands, and a search below each would read the whole tree every
        # time.
        gone = set(patch.remove)
        if gone:
            self._entries = {
                path: entry
                for path, entry in self._entries.items()
                if path not in gone and gone.isdisjoint(parents(path))
            }
        for entry in patch.put:
            self.put(entry)

    def change(self, path: str, **fields: object) -> None:
        """Replace single fields of the entry at ``path`` (mode, uid, ...)."""
        self._entries[path] = replace(self._entries[path], **fields)  # type: ignore[arg-type]

    def below(self, path: str) -> Iterator[Entry]:
        """Entries under the directory ``path``, sorted; not the directory itself."""
        prefix = path + "/" if path else ""
        names = sorted(name for name in self._entries if name.startswith(prefix) and name != path)
        return (self._entries[name] for name in names)

    def glob(self, *patterns: str) -> Iterator[Entry]:
        """Entries whose whole path matches one of the shell patterns, sorted.

        ``*`` crosses slashes, as in ``fnmatch``.
        """
        # One expression for all of them: a definition has a hundred, and a tree ten thousand paths.
        matches = re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)").match
        return (self._entries[name] for name in sorted(filter(matches, self._entries)))

    def read(self, path: str) -> bytes:
        """The content of the file at ``path``, following links inside the tree.

        Raises ``KeyError`` if there is no such file.
        """
        entry = self._entries[self.resolve(path)]
        if entry.kind is not Kind.FILE:
            raise KeyError(path)
        return entry.content.read()

    def resolve(self, path: str) -> str:
        """The path that ``path`` leads to once every link on the way is followed, inside this tree only.

        A link that climbs above the root stays at the root, as in a ``chroot``. Raises ``KeyError`` for a loop.
        """
        done: list[str] = []
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        for _ in range(256):
            if not todo:
                return "/".join(done)
            part = todo.pop()
            if part == "..":
                del done[-1:]
                continue
            entry = self._entries.get("/".join([*done, part]))
            if entry is None or entry.kind is not Kind.SYMLINK:
                done.append(part)
                continue
            if entry.target.startswith("/"):
                done.clear()
            todo.extend(part for part in reversed(entry.target.split("/")) if part not in ("", "."))
        raise KeyError(path)

    def copy(self) -> Tree:
        """An independent tree with the same (immutable) entries."""
        twin = Tree()
        twin._entries = dict(self._entries)
        return twin

    @property
    def size(self) -> int:
        """Bytes of all contents together."""
        return sum(entry.size for entry in self._entries.values())

    def _open_parents(self, entry: Entry) -> None:
        for path in parents(entry.path):
            present = self._entries.get(path)
            if present is None:
                self._entries[path] = Entry(path, Kind.DIRECTORY, owner=entry.owner)
            elif present.kind is not Kind.DIRECTORY:
                raise PathConflict(
                    f"{entry.owner} needs a directory where {present.owner} has a {present.kind}",
                    where="/" + path,
                    hint=f"it wants to put /{entry.path} below it",
                )


def type_bits(kind: Kind) -> int:
    """The ``st_mode`` type bits of ``kind``."""
    return {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.SYMLINK: stat.S_IFLNK}[kind]

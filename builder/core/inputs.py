"""The inputs of a build, as ids: folders of ours, our own code, locks. Equal ids, equal bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from builder.core import data
from builder.core.tree import Entry, Inline, Kind, symlink
from terminal import Failure

_LEFT_OUT: Final = ("__pycache__",)
_CODE: Final = (".py", ".css", ".js")


def folder_entries(folder: Path, prefix: str) -> Iterator[Entry]:
    """The files and links of a host ``folder`` as entries under ``prefix``, sorted.

    Only the executable bit of the host's mode counts (0644 or 0755, so that a umask changes nothing); ``sudoers.d``
    files are 0440, as sudo demands, which git cannot store. Owners are root. Empty folders are skipped, since git has
    none. Raises :class:`Failure` for a missing folder, and for devices, sockets and pipes.
    """
    if not folder.is_dir():
        raise Failure("there is no such folder", where=str(folder), hint="check its path in the definition")
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if any(part in _LEFT_OUT for part in inside.parts):
            continue
        name = prefix + inside.as_posix()
        if path.is_symlink():
            yield symlink(name, str(path.readlink()))
        elif path.is_file():
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            if "/sudoers.d/" in name:
                mode = 0o440
            yield Entry(name, Kind.FILE, mode, content=Inline(_read(path)))
        elif not path.is_dir():
            raise Failure("an image holds files, folders and links; this is none of them", where=str(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failure(f"cannot read it: {error.strerror}", where=str(path)) from error


def digest(folder: Path) -> str:
    """The id of a folder's contents: paths, modes, bytes."""
    total = hashlib.sha256()
    for entry in folder_entries(folder, ""):
        content = hashlib.sha256(entry.content.read()).hexdigest()
        total.update(f"{entry.path}\0{entry.mode:o}\0{entry.target}\0{content}\n".encode())
    return total.hexdigest()


@cache
def code() -> str:
    """The id of the builder's own code, of its reader of units, and of media: a step whose code changed is another step."""
    total = hashlib.sha256()
    for package in ("builder", "media", "unitfile"):
        here = data.packages(package)
        for path in sorted(path for path in here.rglob("*") if path.suffix in _CODE):
            total.update(f"{package}/{path.relative_to(here)}\0".encode() + path.read_bytes())
    return total.hexdigest()


def node_code(packages: tuple[str, ...], prefix: str = "usr/lib/flotilla/") -> Iterator[Entry]:
    """The Python files (and templates beside them) of our ``packages`` as entries of the node."""
    for name in packages:
        yield from folder_entries(data.packages(name), f"{prefix}{name}/")

"""Entries kept in the store: an index beside one file that holds every content.

Used for unpacked packages (whose contents lie in ``data.tar``) and for what a build step made (``data``), so that both
read back as entries with :class:`Slice` contents, without one file on the host for each file of the image.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from builder.core.store import Store
from builder.core.tree import Entry, Inline, Kind, Patch, Slice, Tree
from terminal import record

Row = tuple[str, str, int, int, int, int, int, int, str, str, dict[str, str]]
"""path, kind, mode, uid, gid, mtime, offset, size, sha256 (of files, else empty), target, xattrs (base64)."""


def row(entry: Entry, offset: int) -> Row:
    """The index row of ``entry`` whose content is at ``offset`` of the data file."""
    xattrs = {name: base64.b64encode(value).decode() for name, value in entry.xattrs.items()}
    return (
        entry.path,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime,
        offset,
        entry.size,
        entry.content.sha256 if entry.kind is Kind.FILE else "",
        entry.target,
        xattrs,
    )


def entry(fields: Row, data: Path, owner: str) -> Entry:
    """The entry of an index row; its content is a slice of the file ``data``."""
    path, kind, mode, uid, gid, mtime, offset, size, sha256, target, xattrs = fields
    return Entry(
        path,
        Kind(kind),
        mode,
        uid,
        gid,
        mtime,
        Slice(data, offset, size, sha256) if kind == Kind.FILE else Inline(b""),
        target,
        owner,
        {name: base64.b64decode(value) for name, value in xattrs.items()},
    )


def save_patch(patch: Patch, folder: Path) -> None:
    """Write a patch into ``folder`` as ``patch.json`` and ``data``."""
    rows: list[list[Any]] = []
    with (folder / "data").open("wb") as data:
        for item in patch.put:
            rows.append([item.owner, row(item, data.tell())])
            if item.kind is Kind.FILE:
                data.write(item.content.read())
    (folder / "patch.json").write_text(json.dumps({"put": rows, "remove": patch.remove}))


def load_patch(folder: Path) -> Patch:
    """Read back what :func:`save_patch` wrote; contents are slices of the stored file."""
    stored = record.parse((folder / "patch.json").read_text())
    data = folder / "data"
    return Patch(
        put=tuple(entry(tuple(fields), data, owner) for owner, fields in stored["put"]),
        remove=tuple(stored["remove"]),
    )


def save_tree(tree: Tree, folder: Path, store: Store) -> None:
    """Write a tree into ``folder`` as ``tree.json`` and ``data``.

    Contents of unpacked packages of ``store`` are referred to by the package's name and not copied.
    """
    packages = store.path("packages", "")
    rows: list[list[Any]] = []
    with (folder / "data").open("wb") as data:
        for item in tree:
            match item.content:
                case Slice(path, offset) if path.parent.parent == packages:
                    rows.append([item.owner, path.relative_to(packages).as_posix(), row(item, offset)])
                case content:
                    rows.append([item.owner, "", row(item, data.tell())])
                    data.write(content.read() if item.kind is Kind.FILE else b"")
    (folder / "tree.json").write_text(json.dumps(rows))


def load_tree(folder: Path, store: Store) -> Tree:
    """Read back what :func:`save_tree` wrote, for a store that has the same packages."""
    rows = record.parse((folder / "tree.json").read_text())
    files = {name: store.path("packages", name) if name else folder / "data" for name in {row[1] for row in rows}}
    return Tree.of(entry(fields, files[name], owner) for owner, name, fields in rows)

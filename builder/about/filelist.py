"""``files.jsonl``: every path of a tree, one JSON object per line, for ``grep``, ``jq`` and ``diff``.

The hashes were computed when the contents were stored, so writing the list reads no file of the tree. The same tree
gives the same bytes; the list is not compressed, since versions of zlib write different bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from builder.core.tree import Kind, Tree
from builder.formats.filesystem import modified
from terminal import Failure, record

NAME: Final = "files.jsonl"

_HASH_DIGITS: Final = 64


@dataclass(frozen=True, slots=True)
class Listed:
    """One path of a build, as it is in the image.

    ``path`` is absolute, ``mode`` four octal digits, ``mtime`` seconds, ``package`` its origin (``flotilla`` for our
    own). Files have ``size`` (bytes) and ``sha256`` (hex), links ``target``; ``xattrs`` are raw values in base64.
    """

    path: str
    kind: Kind
    mode: str
    uid: int
    gid: int
    mtime: int
    package: str
    size: int = 0
    sha256: str = ""
    target: str = ""
    xattrs: Mapping[str, str] = field(default_factory=dict)


def listed(tree: Tree, epoch: int) -> Iterator[Listed]:
    """The paths of the image that is made of ``tree``, sorted; ``epoch`` (seconds) is that of the build."""
    for entry in tree:
        is_file = entry.kind is Kind.FILE
        yield Listed(
            "/" + entry.path,
            entry.kind,
            f"{entry.mode:04o}",
            entry.uid,
            entry.gid,
            modified(entry, epoch),
            entry.owner,
            entry.size,
            entry.content.sha256 if is_file else "",
            entry.target,
            {name: base64.b64encode(value).decode() for name, value in sorted(entry.xattrs.items())},
        )


_NAMES: Final = tuple(each.name for each in fields(Listed))
_ALWAYS: Final = _NAMES[:7]
"""The keys of every line.

Files also have ``size`` and ``sha256``, links ``target``, and entries with extended attributes ``xattrs``.
"""

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def line(entry: Listed) -> str:
    """``entry`` as a line of the list, with its newline."""
    fields: dict[str, object] = {
        "path": entry.path,
        "kind": entry.kind,
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime,
        "package": entry.package,
    }
    if entry.kind is Kind.FILE:
        fields |= {"size": entry.size, "sha256": entry.sha256}
    elif entry.kind is Kind.SYMLINK:
        fields["target"] = entry.target
    if entry.xattrs:
        fields["xattrs"] = dict(entry.xattrs)
    return _encode(fields) + "\n"


def write(folder: Path, tree: Tree, epoch: int) -> None:
    """Write the list of ``tree`` into ``folder``, under :data:`NAME`."""
    with (folder / NAME).open("w", encoding="ascii", newline="\n") as file:
        file.writelines(map(line, listed(tree, epoch)))


def parse(text: str) -> Listed:
    """The entry of a line. Raises ``ValueError``, with the reason, for what :func:`line` does not write."""
    value = record.parse(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    if unknown := sorted(value.keys() - set(_NAMES)):
        raise ValueError(f"unknown key {unknown[0]!r}")
    for name in _ALWAYS:
        if name not in value:
            raise ValueError(f"{name} missing")
    for name, given in value.items():
        if not _IS_SOUND[name](given):
            raise ValueError(f"{name} is not what it should be")
    value["kind"] = Kind(value["kind"])
    entry = Listed(**value)
    is_file, is_link = entry.kind is Kind.FILE, entry.kind is Kind.SYMLINK
    if bool(entry.sha256) != is_file or bool(entry.target) != is_link or (entry.size and not is_file):
        raise ValueError(f"what a {entry.kind} has and has not")
    return entry


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_hex(value: object) -> bool:
    return isinstance(value, str) and len(value) == _HASH_DIGITS and set(value) <= set("0123456789abcdef")


_IS_SOUND: Final[Mapping[str, Any]] = {
    "path": lambda value: isinstance(value, str) and value.startswith("/") and "\0" not in value,
    "kind": lambda value: isinstance(value, str) and value in set(Kind),
    "mode": lambda value: isinstance(value, str) and len(value) == 4 and set(value) <= set("01234567"),
    "uid": _is_count,
    "gid": _is_count,
    "mtime": _is_count,
    "package": lambda value: isinstance(value, str) and value.isprintable() and value != "",
    "size": _is_count,
    "sha256": _is_hex,
    "target": lambda value: isinstance(value, str) and "\0" not in value,
    "xattrs": lambda value: isinstance(value, dict) and all(isinstance(each, str) for each in value.values()),
}


def load(folder: Path) -> dict[str, Listed]:
    """The list in ``folder``, by path and in its order.

    Raises :class:`Failure` if the list is missing or broken, with the line.
    """
    path = folder / NAME
    found: dict[str, Listed] = {}
    number = 0
    try:
        with path.open(encoding="ascii") as file:
            for number, text in enumerate(file, 1):  # noqa: B007 - reported in the failure
                entry = parse(text)
                if entry.path in found:
                    raise ValueError("a path that was there before")
                found[entry.path] = entry
    except OSError as error:
        raise Failure(
            f"cannot read the list of files: {error.strerror}",
            where=str(path),
            hint="build again: every build writes one",
        ) from error
    except ValueError as error:
        raise Failure(
            f"the list of files is broken: {error}", where=f"{path}:{number}", hint="build again, with --force"
        ) from None
    return found

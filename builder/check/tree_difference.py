"""The differences between our tree and one that maintainer scripts made, and those that were accepted with a reason.

Pure except :func:`load`. Both sides are mappings of paths to :class:`Facts`, with accounts by name, since one side
assigns numbers by chance. Times are not compared, since an image has only one. A hard link is one more file of the same
content.

``image/differences.yaml`` holds what was accepted. An entry that no difference needs is an error, too, so that the list
stays accurate.
"""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builder.core import document
from builder.core.tree import Tree
from builder.finish.writable import LINKED, SKELETON
from terminal import Failure

TEXT_BYTES_MAX: Final = 64 << 10
"""Configuration up to this size is compared as text, so that a difference can be shown; all else by its hash."""

DATABASES: Final = ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow")


@dataclass(frozen=True, slots=True)
class Facts:
    """One path.

    ``kind`` is file, dir, symlink, char, block, fifo, or line (:func:`by_line`). ``mode`` holds the permission bits
    with setuid, setgid and sticky. ``owner`` is ``user:group``. ``target`` is a link's text or a device's numbers;
    ``content`` a file's, see :func:`content`; ``capability`` is the value of ``security.capability`` in hexadecimal
    (capabilities(7)).
    """

    kind: str
    mode: int = 0o755
    owner: str = "root:root"
    target: str = ""
    content: str = ""
    capability: str = ""


Side = Mapping[str, Facts]


class Attribute(StrEnum):
    """The attributes of a path."""

    ONLY_OURS = "only-ours"
    ONLY_THEIRS = "only-theirs"
    KIND = "kind"
    MODE = "mode"
    OWNER = "owner"
    TARGET = "target"
    CONTENT = "content"
    CAPABILITY = "capability"


@dataclass(frozen=True, slots=True)
class Difference:
    """One attribute of one path, as text for each side."""

    path: str
    attribute: Attribute
    ours: str
    theirs: str

    def __str__(self) -> str:
        head = f"{self.path}: {self.attribute}"
        if "\n" in self.ours or "\n" in self.theirs:
            lines = difflib.unified_diff(
                self.theirs.splitlines(), self.ours.splitlines(), "theirs", "ours", "", "", 1, ""
            )
            return "\n    ".join([head, *lines])
        return f"{head}, ours {self.ours or '-'}, theirs {self.theirs or '-'}"


class Accepted(BaseModel):
    """One entry of the reviewed file.

    Its shell patterns match whole paths (``*`` crosses slashes) and all that lies below them.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    paths: Annotated[tuple[str, ...], Field(min_length=1)]
    differs: Annotated[tuple[Annotated[Attribute, Field(strict=False)], ...], Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1)]


class _File(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    version: Literal[1]
    accepted: tuple[Accepted, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """``unexplained`` differences, the ``stale`` parts of entries (as text) without a difference.

    ``counts`` by entry.
    """

    unexplained: tuple[Difference, ...]
    stale: tuple[str, ...]
    counts: tuple[int, ...]


def load(path: Path) -> tuple[Accepted, ...]:
    """The reviewed file. Raises :class:`Failure` with file, line and column for a wrong format."""
    node = document.read(path)
    try:
        return _File.model_validate(node.plain()).accepted
    except ValidationError as error:
        first = error.errors()[0]
        raise Failure(
            f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}",
            where=node.find([part for part in first["loc"] if isinstance(part, int | str)]),
            hint="an entry has paths, differs and reason; see docs/builder-internals.md, 'Against mmdebstrap'",
        ) from None


def differences(ours: Side, theirs: Side) -> tuple[Difference, ...]:
    """All differences, sorted by path; a path of two kinds is reported once."""
    return tuple(found for path in sorted(ours.keys() | theirs.keys()) for found in _compared(path, ours, theirs))


def _compared(path: str, ours: Side, theirs: Side) -> Iterator[Difference]:
    one, other = ours.get(path), theirs.get(path)
    if other is None:
        yield Difference(path, Attribute.ONLY_OURS, _described(ours[path]), "")
    elif one is None:
        yield Difference(path, Attribute.ONLY_THEIRS, "", _described(other))
    elif one.kind != other.kind:
        yield Difference(path, Attribute.KIND, _described(one), _described(other))
    else:
        for attribute, left, right in (
            (Attribute.MODE, f"{one.mode:04o}", f"{other.mode:04o}"),
            (Attribute.OWNER, one.owner, other.owner),
            (Attribute.TARGET, one.target, other.target),
            (Attribute.CONTENT, one.content, other.content),
            (Attribute.CAPABILITY, one.capability, other.capability),
        ):
            # The mode of a symbolic link means nothing.
            if left != right and not (attribute is Attribute.MODE and one.kind == "symlink"):
                yield Difference(path, attribute, left, right)


def _described(facts: Facts) -> str:
    if facts.kind == "line":
        return facts.content
    words = [facts.kind, f"{facts.mode:04o}", facts.owner, facts.target and f"-> {facts.target}", facts.capability]
    return " ".join(word for word in words if word)


def judge(found: Iterable[Difference], accepted: Sequence[Accepted]) -> Judgement:
    """Match ``found`` differences with ``accepted`` entries. The first entry that matches takes a difference."""
    matchers = [
        [(re.compile(_below(pattern)), pattern) for pattern in dict.fromkeys(entry.paths)] for entry in accepted
    ]
    used_paths: list[set[str]] = [set() for _ in accepted]
    used_attributes: list[set[Attribute]] = [set() for _ in accepted]
    counts = [0] * len(accepted)
    unexplained = []
    for difference in found:
        for number, entry in enumerate(accepted):
            if difference.attribute not in entry.differs:
                continue
            pattern = next((text for matcher, text in matchers[number] if matcher.match(difference.path)), None)
            if pattern is not None:
                used_paths[number].add(pattern)
                used_attributes[number].add(difference.attribute)
                counts[number] += 1
                break
        else:
            unexplained.append(difference)
    stale = [
        f"accepted[{number}] ({entry.reason}): nothing {kind} {name}"
        for number, entry in enumerate(accepted)
        for kind, names in (
            ("differs under", [pattern for pattern in entry.paths if pattern not in used_paths[number]]),
            ("is", [str(each) for each in entry.differs if each not in used_attributes[number]]),
        )
        for name in names
    ]
    return Judgement(tuple(unexplained), tuple(stale), tuple(counts))


def _below(pattern: str) -> str:
    body = fnmatch.translate(pattern).removesuffix(r"\Z").removesuffix(r"\z")
    return rf"{body}(?:/.*)?\Z"


# --- the two sides ---------------------------------------------------------------------------------------------------


def content(path: str, data: bytes) -> str:
    """A file's content for the comparison: configuration as readable text, all else as sha256."""
    if path.startswith("etc/") and len(data) <= TEXT_BYTES_MAX and b"\0" not in data:
        return data.decode("utf-8", "backslashreplace")
    return hashlib.sha256(data).hexdigest()


def names(database: str) -> dict[int, str]:
    """Numbers to names, from the text of /etc/passwd or /etc/group.

    A number's first line counts, as in the C library.
    """
    rows = (line.split(":") for line in database.splitlines())
    return {int(row[2]): row[0] for row in reversed(list(rows))}


def of_tree(tree: Tree) -> dict[str, Facts]:
    """Our side: a finished tree as a running node sees it.

    /var and the folders that link there are in their places (:mod:`builder.finish.writable`).
    """
    users, groups = (names(tree.read(path).decode()) for path in ("etc/passwd", "etc/group"))
    found = {}
    for entry in tree:
        path = _mounted(entry.path)
        if path is None or (entry.path in LINKED and entry.target):
            continue
        found[path] = Facts(
            str(entry.kind),
            entry.mode,
            f"{users.get(entry.uid, entry.uid)}:{groups.get(entry.gid, entry.gid)}",
            entry.target,
            content(path, entry.content.read()) if entry.kind == "file" else "",
            entry.xattrs.get("security.capability", b"").hex(),
        )
    return found


def _mounted(path: str) -> str | None:
    inside = path.removeprefix(SKELETON + "/")
    if inside == path:
        return None if path == SKELETON else path
    return inside if inside.split("/")[0] in LINKED else f"var/{inside}"


def by_line(side: Side) -> dict[str, Facts]:
    """``side`` with a path for each line of the account databases, ``etc/passwd:sshd``, in place of their contents.

    Numbers that a package does not fix become a dash: one side assigns them in the order of installation, the other has
    frozen them.
    """
    found = dict(side)
    groups = names(side["etc/group"].content)
    for path in DATABASES:
        facts = side[path]
        found[path] = replace(facts, content="")
        for line in facts.content.splitlines():
            name, *rest = line.split(":")
            if path == "etc/passwd":
                rest[2] = groups.get(int(rest[2]), rest[2])
            if path in ("etc/passwd", "etc/group"):
                rest[1] = rest[1] if _is_fixed(int(rest[1])) else "-"
            if path == "etc/shadow":
                rest[1] = "-"  # the day of the last change: an image has no clock
            found[f"{path}:{name}"] = Facts("line", content=":".join(rest))
    return found


def _is_fixed(number: int) -> bool:
    """Debian policy 9.2.2: 0-99 and 60000-64999 and 65534 are the same everywhere; 1000 and up are people's."""
    return number < 100 or number >= 1000

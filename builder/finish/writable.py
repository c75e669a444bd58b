"""The writable paths of a node whose root is read-only: all of them lie under /var.

Replaces the work of: base-files (directories, /var/run, /var/lock, /var/spool/mail).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from builder.core.tree import Entry, Kind, Patch, Tree, directory, symlink
from terminal import Failure

SKELETON: Final = "usr/share/flotilla/var"
"""The initial contents of /var in the image; the initrd copies them to a new state disk, with owners and modes."""

LINKED: Final = ("home", "root", "opt", "srv")
"""Directories of the root that become links into /var, with their contents."""

MOUNT_POINTS: Final = ("boot", "dev", "etc", "media", "mnt", "proc", "run", "sys", "tmp", "var")

_MODES: Final = {"tmp": 0o1777, "proc": 0o555, "sys": 0o555}
_MAIL: Final = 8  # Debian's fixed group
_SHARED: Final = (directory(SKELETON + "/tmp", 0o1777), directory(SKELETON + "/mail", 0o2775, gid=_MAIL))  # noqa: S108
_LINKS: Final = (("run", "/run"), ("lock", "/run/lock"), ("spool/mail", "../mail"))


def writable(tree: Tree) -> Patch:
    """Move /var and the directories of ``LINKED`` to :data:`SKELETON`, leave links and empty mount points.

    Runs last of the steps that put something under these paths. Raises :class:`Failure` if one of them is a link or a
    file in the tree.
    """
    moved: dict[str, Entry] = {SKELETON: directory(SKELETON)}
    for entry in _moved(tree, "var", SKELETON):
        moved[entry.path] = entry
    for name in LINKED:
        target = f"{SKELETON}/{name}"
        moved.setdefault(target, directory(target, 0o700 if name == "root" else 0o755))
        for entry in _moved(tree, name, target):
            moved[entry.path] = entry
    for made in _SHARED:
        moved.setdefault(made.path, made)
    for name, target in _LINKS:
        path = f"{SKELETON}/{name}"
        moved = {other: entry for other, entry in moved.items() if other != path and not other.startswith(path + "/")}
        moved[path] = symlink(path, target)
    points = [
        tree[name] if name in tree and name != "var" else directory(name, _MODES.get(name, 0o755))
        for name in MOUNT_POINTS
    ]
    links = [symlink(name, f"var/{name}") for name in LINKED]
    skeleton = [moved[path] for path in sorted(moved)]
    return Patch((*skeleton, *points, *links), ("var", *LINKED))


def _moved(tree: Tree, source: str, target: str) -> Iterator[Entry]:
    top = tree.get(source)
    if top is None:
        return
    if top.kind is not Kind.DIRECTORY:
        raise Failure(
            f"a {top.kind} ({top.owner}) where a directory was expected", where="/" + source, hint="writable runs once"
        )
    yield replace(top, path=target)
    for entry in tree.below(source):
        yield replace(entry, path=target + entry.path.removeprefix(source))

"""``osbuild cache``: the contents of the store, and what no lock needs any more.

Builds hold the store shared (:func:`in_use`), pruning holds it alone, so nothing is taken from under a build. What is
pruned is first renamed into the store's ``tmp`` and removed there: an artifact is complete or not there, also when
pruning is killed.
"""

from __future__ import annotations

import fcntl
import filecmp
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.core.store import MADE, Aside, Store
from builder.debian import deb
from builder.debian.downloads import downloaded
from builder.debian.lockfile import Lock
from builder.debian.tools import closure_id
from terminal import Failure, record
from terminal.lock import locked

KINDS: Final = ("downloads", "packages", "tools", "steps")


@dataclass(frozen=True, slots=True)
class Holding:
    """How many artifacts of a kind, and the bytes of their files together."""

    kind: str
    artifacts: int
    bytes: int


@contextmanager
def in_use(store: Store) -> Iterator[None]:
    """Keep everything in ``store`` while the block runs; any number of processes may. Waits for a pruning to end."""
    with locked(store.root, fcntl.LOCK_SH):
        yield


def holdings(store: Store) -> list[Holding]:
    """What ``store`` holds, by kind, in a fixed order."""
    return [_holding(kind, store.path(kind, "").iterdir()) for kind in KINDS]


def prune(store: Store, locks: Iterable[Lock], tools: Lock) -> list[Holding]:
    """Remove what neither ``locks`` nor the closure of ``tools`` need, and what is damaged; returns what went, by kind.

    Results of build steps are removed as a whole: they are made again in seconds. Raises :class:`Failure` while a build
    runs.
    """
    try:
        with locked(store.root, fcntl.LOCK_EX | fcntl.LOCK_NB), store.scratch() as grave:
            needed = _needed(store, [*locks, tools], tools)
            return [_bury(store, kind, needed, grave / kind) for kind in KINDS]
    except BlockingIOError as error:
        raise Failure(
            "a build is running from this store", where=str(store.root), hint="prune when it has ended"
        ) from error


def adopt(store: Store, made: Aside, waiting: Callable[[], None] = lambda: None) -> None:
    """Replace artifacts of ``store`` by those of the same names that were ``made`` aside.

    Equal artifacts stay, so usually nothing is replaced. Those that differ were damaged, and running builds may be
    reading them: the replacement waits for these builds, after a call of ``waiting``. The caller must not be using the
    store itself.
    """
    differing = []
    for kind in MADE:
        for new in sorted(made.path(kind, "").iterdir()):
            old = store.path(kind, new.name)
            if not store.commit(new, old) and not _is_same(old, new):
                differing.append((old, new))
    if not differing:
        return
    try:
        with locked(store.root, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _replace(store, differing)
    except BlockingIOError:
        waiting()
        with locked(store.root, fcntl.LOCK_EX):
            _replace(store, differing)


def _replace(store: Store, pairs: Iterable[tuple[Path, Path]]) -> None:
    with store.scratch() as grave:
        for old, new in pairs:
            # It may be gone by now: pruned, or replaced by another waiting build.
            with suppress(FileNotFoundError):
                old.rename(grave / f"{old.parent.name}-{old.name}")
            new.rename(old)


def _is_same(one: Path, other: Path) -> bool:
    """Do these two artifacts hold the same files?"""
    names = sorted(path.name for path in other.iterdir())
    if not one.is_dir() or sorted(path.name for path in one.iterdir()) != names:
        return False
    return len(filecmp.cmpfiles(one, other, names, shallow=False)[0]) == len(names)


def _bury(store: Store, kind: str, needed: set[Path], grave: Path) -> Holding:
    unneeded = [path for path in sorted(store.path(kind, "").iterdir()) if path not in needed]
    gone = _holding(kind, unneeded)
    grave.mkdir()
    for path in unneeded:
        path.rename(grave / path.name)
    return gone


def _needed(store: Store, locks: Iterable[Lock], tools: Lock) -> set[Path]:
    """The paths of all whole artifacts that the locks name."""
    found = {store.path("tools", closure_id(tools))}
    for package in {package for lock in locks for package in lock.packages}:
        download, unpacked = downloaded(package, store), deb.folder(package.sha256, store)
        if download is not None:
            found.add(download)
        if _is_whole(unpacked):
            found.add(unpacked)
    return found


def _is_whole(unpacked: Path) -> bool:
    """Has the data of this unpacked package the length that its index counts on?"""
    try:
        rows = record.parse((unpacked / "index.json").read_text())["entries"]
        return max((row[6] + row[7] for row in rows), default=0) <= (unpacked / "data.tar").stat().st_size
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _holding(kind: str, artifacts: Iterable[Path]) -> Holding:
    sizes = [_size(path) for path in artifacts]
    return Holding(kind, len(sizes), sum(sizes))


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())

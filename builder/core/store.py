"""The store: results that need not be made again.

Layout, under ``$XDG_CACHE_HOME/flotilla`` (or ``--store``)::

    downloads/<sha256>.deb     packages as the archive gave them, checked
    packages/<id>/             one unpacked package: data.tar, index.json
    tools/<id>/                one closure of programs that builds run
    steps/<id>/                what one build step made
    tmp/<unique>/              work in progress; never read by others

An id is the hash of everything that shaped the result (:func:`identify`), so an artifact never changes. Work is done in
``tmp`` and committed with one ``rename``: a crash leaves only a folder in ``tmp``, which the next
command that works in the store removes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from terminal import Failure
from terminal.lock import locked

MADE: Final = ("packages", "steps")
"""The kinds that a build makes itself, from downloads and with tools."""

FORMAT: Final = 1
"""Version of the layout above; part of every id, so that a new layout never reads old artifacts."""


def identify(name: str, version: int, inputs: object) -> str:
    """The id of the step ``name`` in code version ``version`` with ``inputs`` (anything JSON can write): 32 hex digits.

    Written out as canonical JSON, never ``repr`` or ``hash``, so that it is the same on every machine.
    """
    text = json.dumps([FORMAT, name, version, inputs], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def default_root() -> Path:
    """``$XDG_CACHE_HOME/flotilla``, or ``~/.cache/flotilla``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "flotilla"


class Store:
    """A folder of artifacts named by id; see the module's text for its layout."""

    def __init__(self, root: Path | None = None, *, look: bool = False) -> None:
        """Open the store at ``root``.

        Make its folders and remove leftovers of crashed builds, unless only to ``look``.
        """
        self.root = (root or default_root()).absolute()
        if look:
            return
        try:
            for kind in ("downloads", "packages", "tools", "steps", "tmp"):
                (self.root / kind).mkdir(parents=True, exist_ok=True)
                if not os.access(self.root / kind, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, "it cannot be written", str(self.root / kind))
        except OSError as error:
            raise Failure(
                "cannot make or write the store's folders",
                where=str(self.root),
                hint="choose another place with --store DIR or XDG_CACHE_HOME",
            ) from error
        self._sweep()

    def path(self, kind: str, name: str) -> Path:
        """Where the artifact ``name`` of ``kind`` is, or would be."""
        return self.root / kind / name

    def has(self, kind: str, name: str) -> bool:
        """Is it there, complete?"""
        return self.path(kind, name).exists()

    @contextmanager
    def making(self, kind: str, name: str) -> Iterator[Path]:
        """A fresh folder to work in; committed as the artifact when the block ends well, removed otherwise.

        Two builds that make the same artifact at once both succeed: the second finds it and drops its own.
        """
        with self.scratch() as folder:
            yield folder
            self.commit(folder, self.path(kind, name))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder in ``tmp``, gone when the block ends. Held by a lock, so that a sweep does not remove it.

        A full disk raises a :class:`Failure` with numbers instead of an ``OSError``.
        """
        with ExitStack() as held:
            with locked(self.root / "tmp", fcntl.LOCK_SH):
                holder = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
                held.enter_context(locked(holder, fcntl.LOCK_EX))
            work = holder / "work"
            work.mkdir()
            try:
                yield work
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise disk_full(self.root) from error
                raise
            finally:
                shutil.rmtree(holder, ignore_errors=True)

    @contextmanager
    def aside(self) -> Iterator[Aside]:
        """A view of this store without unpacked packages and steps; it is removed when the block ends."""
        with self.scratch() as work:
            yield Aside(self, work)

    def commit(self, folder: Path, final: Path) -> bool:
        """Make the finished ``folder`` of ``tmp`` the artifact ``final``; False if there is one already."""
        try:
            folder.rename(final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True

    def _sweep(self) -> None:
        """Remove what crashed builds left in ``tmp``: all that no living process has locked."""
        # Without this lock, another's folder that is made and not yet locked would look abandoned.
        with locked(self.root / "tmp", fcntl.LOCK_EX):
            for holder in (self.root / "tmp").iterdir():
                with suppress(OSError), locked(holder, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(holder, ignore_errors=True)


class Aside(Store):
    """A store's downloads and tools, with packages and steps of its own in ``work``.

    For builds that trust no former result, and so need not touch what a parallel build is reading.
    """

    def __init__(self, store: Store, work: Path) -> None:  # the folders of ``store`` are there, and swept
        self.root = store.root
        self._work = work
        for kind in MADE:
            (work / kind).mkdir()

    def path(self, kind: str, name: str) -> Path:
        """As in the store, except for the kinds that are made again."""
        return self._work / kind / name if kind in MADE else super().path(kind, name)


def disk_full(path: Path) -> Failure:
    """The failure to raise when writing under ``path`` met a full disk."""
    free = shutil.disk_usage(path).free
    return Failure(
        f"no space left on the disk ({free / 1e6:.0f} MB free)",
        where=str(path),
        hint="free some space, or choose another disk with --store DIR (cache) and --output DIR (result)",
    )


def write_atomically(path: Path, data: bytes | str, mode: int = 0o644) -> None:
    """Write ``path`` completely or not at all: temporary file beside it, fsync, rename."""
    raw = data.encode() if isinstance(data, str) else data
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)  # noqa: PTH101 - the name is not a Path here
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise

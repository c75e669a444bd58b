"""The folder that a build delivers into: held by one build at a time, and changed by nothing but a whole result.

Work is done in ``.partial`` inside it, on the disk of the result, and moved into place with renames. A build that is
killed leaves only that folder; the next build clears it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from builder.core.store import disk_full
from terminal import Failure

WORK: Final = ".partial"
_TRIES: Final = 1000
"""Times that a folder may be removed by other builds just when this one wants it."""


@contextmanager
def held(folder: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Lock ``folder`` (made if missing) against other builds; yield an empty work folder, removed when the block ends.

    ``waiting`` is called once if another build holds it now. Folders that were made for a block that delivers nothing
    are removed again. Raises :class:`Failure` when the folder cannot be made or written, and for a disk that is full,
    in the block as well.
    """
    made: list[Path] = []
    lock = None
    work = folder / WORK
    try:
        with _explained(folder):
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            lock = _locked(folder, waiting)
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
        try:
            yield work
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(folder) from error
            raise
    finally:
        if lock is not None:
            shutil.rmtree(work, ignore_errors=True)
        for path in made:  # before the lock goes: a build that waits for it must find out that this folder is removed
            with suppress(OSError):  # it is not empty, as intended
                path.rmdir()
        if lock is not None:
            os.close(lock)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Keep ``folder`` unchanged while the block runs: builds into it wait, other readers do not.

    Waits for a running build.

    Raises :class:`Failure` if there is no such folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Failure(f"cannot look into the folder: {error.strerror}", where=str(folder)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _locked(folder: Path, waiting: Callable[[], None]) -> int:
    """An open descriptor of ``folder`` that holds its lock; the lock goes with the descriptor."""
    tries = _TRIES
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except (FileExistsError, FileNotFoundError):  # another build removed it meanwhile; or it cannot be made at all
            tries -= 1
            if not tries:
                raise
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The former holder may have removed the folder, because it delivered nothing: then this lock is of a
            # removed folder.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), folder.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(
            f"cannot write into the output's folder: {error.strerror}",
            where=str(folder),
            hint="choose another with --output DIR",
        ) from error

"""Files that are there whole or not at all, and on the disk, whatever is killed or loses its power.

One process writes a file at a time: whoever shares a folder with others holds a lock (:mod:`terminal.lock`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

NEW: Final = ".new"
"""Behind the name of the file, of one that is being written. A kill leaves it there, and the next write removes it."""


def replace(path: Path, text: str, *, mode: int | None = None, owner: tuple[int, int] | None = None) -> None:
    """Let ``path`` have this text, as :func:`create` makes it, in place of what it had. Raises OSError."""
    staged = path.with_name(path.name + NEW)
    staged.unlink(missing_ok=True)
    create(staged, text, mode=mode, owner=owner)
    staged.replace(path)
    sync(path.parent)


def create(path: Path, text: str, *, mode: int | None = None, owner: tuple[int, int] | None = None) -> None:
    """Write a new file; its name is on the disk after :func:`sync` of its folder. Raises OSError, also if it is there.

    ``mode`` holds whatever the umask says, and is the umask's without; ``owner`` is user and group, by number. Until it
    has both, only this process's user reads it.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666 if mode is None else 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        if owner is not None:
            os.fchown(descriptor, *owner)
        if mode is not None:
            os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def sync(folder: Path) -> None:
    """Bring to the disk which names ``folder`` has. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""One process at a time: the lock of a folder, which leaves no file behind."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(folder: Path, how: int) -> Iterator[None]:
    """Hold the lock of ``folder`` while the block runs; it ends with the process at the latest.

    ``how`` is flock(2)'s: ``fcntl.LOCK_SH`` or ``LOCK_EX``, which wait, or with ``LOCK_NB`` raise BlockingIOError.
    Raises OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)

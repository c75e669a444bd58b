"""Getting the packages of a lock: from the store if they were unpacked before, else from its downloads, else from the mirror."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from builder import deb
from builder.fetch import fetch
from builder.lockfile import Lock
from builder.mirror import Mirror
from builder.store import Store


def obtain(
    lock: Lock, store: Store, mirror: Callable[[], Mirror], detail: Callable[[str], None] = lambda _: None
) -> list[deb.Package]:
    """The unpacked packages of ``lock``, in its order. ``mirror`` is only asked for when something must be downloaded.

    Raises :class:`terminal.Failure` for a package that cannot be fetched, is not what the lock says, or is broken.
    """
    missing = [package for package in lock.packages if not deb.is_unpacked(package.sha256, store)]
    if missing:
        files = fetch(missing, store, mirror, detail=detail)
        # Decompression releases the interpreter's lock, so threads use all cores. Large ones first: none is left to run alone at the end.
        missing.sort(key=lambda package: -package.size)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, package in enumerate(
                pool.map(lambda package: deb.unpack(files[package.name], package.sha256, store), missing), start=1
            ):
                detail(f"unpacked {done} of {len(missing)}: {package.name}")
    return [deb.load(deb.folder(package.sha256, store)) for package in lock.packages]

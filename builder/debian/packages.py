"""The packages of a lock: unpacked from the store, else from its downloads, else from the mirror."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from builder.core.store import Store
from builder.core.toolbox import Toolbox
from builder.debian import deb
from builder.debian.downloads import downloaded, path_of
from builder.debian.lockfile import Lock, LockedPackage
from builder.debian.mirror import Mirror
from terminal import Step, untimed


def obtain(
    lock: Lock,
    store: Store,
    mirror: Callable[[], Mirror],
    detail: Callable[[str], None] = lambda _: None,
    step: Step = untimed,
    toolbox: Toolbox | None = None,
) -> list[deb.Package]:
    """The unpacked packages of ``lock``, in its order.

    ``mirror`` is called only when something must be downloaded; ``step`` runs around each download and each unpacking,
    in the thread that does it; ``toolbox`` is that of :func:`builder.debian.deb.unpack`.

    Raises :class:`terminal.Failure` for a package that cannot be fetched, is not the locked one, or is broken.
    """
    missing = [package for package in lock.packages if not deb.is_unpacked(package.sha256, store)]
    if missing:
        if any(downloaded(package, store) is None for package in missing):
            # It imports requests, which takes as long as all of a build's other modules.
            from builder.debian.fetch import fetch

            fetch(missing, store, mirror, detail=detail, step=step)
        # Decompression releases the interpreter's lock, so threads use all cores. Large packages first, so that none
        # runs alone at the end.
        missing.sort(key=lambda package: -package.size)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = pool.map(lambda package: _unpack(package, store, step, toolbox), missing)
            for count, package in enumerate(done, start=1):
                detail(f"unpacked {count} of {len(missing)}: {package.name}")
    with step("reading their indexes"):
        return [deb.load(deb.folder(package.sha256, store)) for package in lock.packages]


def not_stored(lock: Lock, store: Store) -> list[LockedPackage]:
    """The packages of ``lock`` that :func:`obtain` would have to download."""
    return [
        package
        for package in lock.packages
        if not deb.is_unpacked(package.sha256, store) and downloaded(package, store) is None
    ]


def _unpack(package: LockedPackage, store: Store, step: Step, toolbox: Toolbox | None) -> LockedPackage:
    file = path_of(package, store)
    # It was hashed when it was downloaded, perhaps months ago; disks lose bits.
    with step("checking", package.name), file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != package.sha256:
        file.unlink()
        raise deb.BadPackage(
            f"the stored file of {package.name} is damaged: sha256 {found}, the lock has {package.sha256}",
            where=str(file),
            hint="it was removed: build again, and it is fetched again",
        )
    with step("unpacking", package.name):
        deb.unpack(file, package.sha256, store, toolbox)
    return package

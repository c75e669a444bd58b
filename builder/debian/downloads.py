"""Files of packages in the store, as they came from the mirror."""

from __future__ import annotations

from pathlib import Path

from builder.core.store import Store
from builder.debian.lockfile import LockedPackage
from terminal import Failure


class FetchFailure(Failure):
    """A package could not be fetched, or is not the locked one."""


def downloaded(package: LockedPackage, store: Store) -> Path | None:
    """The package's file in ``store``, or None.

    A file is hashed in full before it gets its name, so that later its size is a sufficient check: it differs only if
    the disk lost the end of it (a power cut).
    """
    path = path_of(package, store)
    try:
        return path if path.stat().st_size == package.size else None
    except FileNotFoundError:
        return None


def path_of(package: LockedPackage, store: Store) -> Path:
    """Where the file of ``package`` is in ``store``, once it was downloaded."""
    return store.path("downloads", f"{package.sha256}.deb")

"""Builds from the store alone (``--offline``): all missing packages are reported at once; no mirror is looked up."""

from __future__ import annotations

from typing import Final

from builder.core.store import Store
from builder.debian.downloads import FetchFailure
from builder.debian.lockfile import Lock
from builder.debian.mirror import Mirror
from builder.debian.packages import not_stored
from builder.debian.tools import closure_id

_LISTED_MAX: Final = 20
_HINT: Final = "build once without --offline and they are fetched, or name the store that has them with --store DIR"


def check(lock: Lock, tools: Lock, store: Store) -> None:
    """Raise :class:`FetchFailure`, with names and bytes, if a build of ``lock`` with ``tools`` needs a download."""
    missing = dict.fromkeys(not_stored(lock, store))
    if not store.has("tools", closure_id(tools)):
        missing |= dict.fromkeys(not_stored(tools, store))
    if not missing:
        return
    packages = sorted(missing, key=lambda package: (-package.size, package.name))
    lines = [f"{package.size:>12,}  {package.name} {package.version}" for package in packages[:_LISTED_MAX]]
    if len(packages) > _LISTED_MAX:
        rest = packages[_LISTED_MAX:]
        lines.append(f"{sum(package.size for package in rest):>12,}  in {len(rest)} more")
    noun = "package is" if len(packages) == 1 else "packages are"
    total = sum(package.size for package in packages)
    raise FetchFailure(
        "\n".join(
            [f"{len(packages)} {noun} not in the store, {total:,} bytes to download, and this is --offline:", *lines]
        ),
        where=str(store.root),
        hint=_HINT,
    )


def no_mirror() -> Mirror:
    """In place of :func:`builder.debian.mirror.find`: raise :class:`FetchFailure`.

    For a download that :func:`check` could not foresee.
    """
    raise FetchFailure("a download is needed, and this is --offline", hint=_HINT)

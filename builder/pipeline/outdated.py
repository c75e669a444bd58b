"""A release is not older than the archive: before one is built, the archive is asked whether security updates wait for what is locked.

What was found, or that nobody could be asked, is in the manifest of the release, so that whoever takes a release can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from builder.core import architecture
from builder.core.store import Store
from builder.debian import mirror
from builder.debian.apt import AptFailure
from builder.debian.downloads import FetchFailure
from builder.debian.lockfile import Change
from builder.debian.mirror import MirrorFailure
from builder.debian.tools import Tools
from builder.lock import resolve
from builder.pipeline import cache
from builder.pipeline.order import Order, lock_command
from terminal import Failure

_OVERRIDE: Final = "--allow-outdated builds all the same, and has the manifest say so"


class OutdatedFailure(Failure):
    """A release would lack security updates, or nobody can tell."""


def ask(order: Order) -> dict[str, object]:
    """Ask the archive whether security updates wait for the packages of the lock of ``order``.

    Returns what the manifest says of it: ``asked``, and ``waiting``, a list of ``{name, locked, newest}`` (``locked`` is None for a package that takes
    the place of another one, as each new kernel does), or None if it was not asked. Raises :class:`OutdatedFailure` if some wait or the archive
    cannot be asked; unless ``order.settings.outdated`` is to ``allow`` that.
    """
    phases, allowed = order.settings.phases, order.settings.outdated == "allow"
    where = str(architecture.lock_path(order.path, order.what.architecture))
    try:
        found = _waiting(order)
    except (AptFailure, FetchFailure, MirrorFailure) as failure:
        if allowed:
            phases.line("... nobody could be asked for security updates: the manifest says so")
            return {"asked": False, "waiting": None}
        raise OutdatedFailure(
            "a release asks the archive whether security updates wait, and the archive cannot be asked",
            where=where,
            hint=f"build where the archive can be reached; {_OVERRIDE}",
        ) from failure
    if found and not allowed:
        noun = "update waits" if len(found) == 1 else "updates wait"
        raise OutdatedFailure(
            f"{len(found)} security {noun}, which this release would not have:\n{resolve.describe(found)}",
            where=where,
            hint=f"run '{lock_command(order)}', then build again; {_OVERRIDE}",
        )
    if found:
        phases.line(f"... released without security updates: {', '.join(change.name for change in found)}")
    return {"asked": True, "waiting": [_told(change) for change in found]}


def _waiting(order: Order) -> Sequence[Change]:
    settings = order.settings
    if settings.offline:
        raise FetchFailure("this is --offline")
    source = mirror.find(settings.mirror, settings.snapshot)
    store, phases = Store(settings.store), settings.phases
    with phases.phase("asking for security updates"), cache.in_use(store), store.scratch() as state:
        return resolve.waiting(
            resolve.Request.of(order.what),
            order.lock,
            programs=Tools.ours(store, lambda: source, detail=phases.detail).apt(),
            mirror=source,
            state=state,
            detail=phases.detail,
        )


def _told(change: Change) -> dict[str, object]:
    return {
        "name": change.name,
        "locked": change.old.version if change.old else None,
        "newest": change.new.version if change.new else None,
    }

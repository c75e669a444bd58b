"""A release is not older than the archive: a check for security updates of locked packages before it is built.

The manifest of the release records the result, or that the check was not possible.
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
    """A release would lack security updates, or the check was not possible."""


def ask(order: Order) -> dict[str, object]:
    """Query the archive for waiting security updates of the locked packages of ``order``.

    Returns the manifest's ``updates``: ``asked``, and ``waiting``, a list of ``{name, locked, newest}`` (``locked`` is
    None for a package that replaces another one, like each new kernel), or None without a query. Raises
    :class:`OutdatedFailure` if updates wait or the archive cannot be queried, unless ``order.settings.outdated`` is
    ``allow``.
    """
    phases, allowed = order.settings.phases, order.settings.outdated == "allow"
    where = str(architecture.lock_path(order.path, order.what.architecture))
    try:
        found = _waiting(order)
    except (AptFailure, FetchFailure, MirrorFailure) as failure:
        if allowed:
            phases.line("... the archive could not be queried for security updates; the manifest records that")
            return {"asked": False, "waiting": None}
        raise OutdatedFailure(
            "the archive cannot be queried for security updates, which a release requires",
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
    return {"asked": True, "waiting": [_fields(change) for change in found]}


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


def _fields(change: Change) -> dict[str, object]:
    return {
        "name": change.name,
        "locked": change.old.version if change.old else None,
        "newest": change.new.version if change.new else None,
    }

"""A cluster as a context of fleetctl, which lasts longer than a shell's exports."""

from __future__ import annotations

import os
from contextlib import suppress

from cluster.client.cluster import Cluster
from cluster.model.layout import Layout
from fleet.ctl import contexts
from terminal import Failure


def options(cluster: Cluster) -> dict[str, str]:
    """fleetctl's global options for ``cluster``: those of its exports, and its operator's certificate.

    The certificate is for whoever reaches the nodes' addresses, and names them by ``--endpoint``; the tunnel is for
    this computer, which does not."""
    exports = cluster.exports()
    names = [name for name in (*contexts.WAY, *contexts.OTHERS) if contexts.variable(name) in exports]
    return contexts.absolute({name: exports[contexts.variable(name)] for name in names}, cluster.layout.operator)


def keep(cluster: Cluster) -> None:
    """Keep it under the cluster's name, and use it. Raises :class:`Failure`."""
    with contexts.changing(contexts.file(os.environ)) as known:
        known[0] = known[0].with_one(cluster.name, options(cluster)).used(cluster.name)


def forget(layout: Layout) -> None:
    """Remove the context of a cluster that is removed, if there is one; one of the same name that is another's stays."""
    path = contexts.file(os.environ)
    with suppress(Failure):  # whoever uses a file that is broken hears of it: the cluster is gone all the same
        if not _is_of(contexts.load(path), layout):
            return
        with contexts.changing(path) as known:
            if _is_of(known[0], layout):
                known[0] = known[0].without(layout.state.name)


def _is_of(known: contexts.Contexts, layout: Layout) -> bool:
    found = known.contexts.get(layout.state.name, {})
    return found.get("ssh-identity-file") == str(layout.key)

"""Several nodes on this computer: QEMU machines, an Ethernet switch between them, and faults on purpose.

    from cluster.lifecycle.up import Options, up
    from cluster.lifecycle.restore import restore, take

    outcome = up(Options(size=3))               # make or find a cluster; blocks until fleet lists three machines
    cluster = Cluster.open("default")
    cluster.nodes[0].run("systemctl is-system-running").out
    cluster.nodes[0].kill()                     # pull its plug
    take(cluster, "healthy", Phases()); restore("healthy", "copy", Phases())     # seconds, not minutes

Each cluster has one background process (:mod:`cluster.daemon.supervisor`) that owns the QEMUs, the switch and the
discovery service; all commands are its clients. ``docs/cluster.md`` is the manual, ``docs/testing.md`` that of the
pytest plugin.

The names of this package are loaded at their first use: pytest imports :mod:`cluster.testing.plugin`, and with it this
package, in every run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.client.cluster import Cluster
    from cluster.client.fault import Fault
    from cluster.client.net import Net
    from cluster.client.node import Node
    from cluster.lifecycle.up import Options, Outcome
    from cluster.model.run import RunResult
    from cluster.testing.chaos import Plan, Storm

__all__ = ["Cluster", "Fault", "Net", "Node", "Options", "Outcome", "Plan", "RunResult", "Storm"]
# Functions are left out on purpose: `cluster.lifecycle.up` can be the function or the module, and it is the module.
_HOMES = {
    "Cluster": "cluster.client.cluster",
    "Fault": "cluster.client.fault",
    "Net": "cluster.client.net",
    "Node": "cluster.client.node",
    "Options": "cluster.lifecycle.up",
    "Outcome": "cluster.lifecycle.up",
    "Plan": "cluster.testing.chaos",
    "RunResult": "cluster.model.run",
    "Storm": "cluster.testing.chaos",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)

"""Several nodes on this computer: QEMU machines, an Ethernet switch between them, and faults on purpose.

    outcome = up(Options(size=3))               # make or find a cluster; blocks until fleet lists three machines
    cluster = Cluster.open("default")
    cluster.nodes[0].run("systemctl is-system-running").out
    cluster.nodes[0].kill()                     # pull its plug
    take(cluster, "healthy", Phases()); restore("healthy", "copy", Phases())     # seconds, not minutes

One background process a cluster (:mod:`cluster.supervisor`) owns the QEMUs, the switch and the discovery service; all commands
are its clients. ``docs/cluster.md`` is the manual.
"""

from cluster.cluster import Cluster
from cluster.node import Node
from cluster.restore import restore, take, up_cached
from cluster.ssh import RunResult
from cluster.up import Options, Outcome, up

__all__ = ["Cluster", "Node", "Options", "Outcome", "RunResult", "restore", "take", "up", "up_cached"]

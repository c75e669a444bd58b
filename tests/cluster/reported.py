"""What ``cluster status`` reports of one node, for tests that know that it is on."""

from __future__ import annotations

from cluster.client.cluster import Cluster


def pid(cluster: Cluster, index: int = 0) -> int:
    """The process of the node's machine."""
    found = cluster.status()["nodes"][index]["pid"]
    assert found is not None
    return found


def connections(cluster: Cluster, index: int = 0) -> int:
    """How often the node's card was connected."""
    network = cluster.status()["nodes"][index]["network"]
    assert network is not None
    return network["connections"]

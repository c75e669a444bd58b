"""Docker on real nodes: row 18 of the suite (kola's docker.network, docker.containerd-restart; docker.base is in test_node.py)."""

from __future__ import annotations

import pytest

from cluster.client.cluster import Cluster

from .conftest import until
from .redis import IMAGE, START_S, answers, running

pytestmark = pytest.mark.needs()


@pytest.mark.fast
def test_docker_network(cluster: Cluster) -> None:
    """docker.network: a container is reached from another one, from its host, and from another node by a published port."""
    one, two = cluster.nodes[:2]
    running(one, "first")  # takes the address that the client has on its own node
    running(one, "server", "--publish 6379:6379")
    address = one.root("docker inspect --format '{{.NetworkSettings.IPAddress}}' server").out.strip()
    assert one.root(f"docker run --rm {IMAGE} redis-cli -h {address} ping", 300).out.strip() == "PONG"
    running(two, "client")
    for host in (one.address, address):
        command = f"docker exec client redis-cli -h {host} -t 20 ping"
        reached = two.root(command, 120).out.strip() == "PONG"
        assert reached == (host == one.address), f"{host} from another node"


@pytest.mark.fast
def test_docker_containerd_restart(cluster: Cluster) -> None:
    """docker.containerd-restart: containers outlive their daemons, and are known to the next ones."""
    node = cluster.nodes[2]
    running(node, "survivor")
    before = node.root("docker inspect --format '{{.State.Pid}} {{.State.StartedAt}}' survivor").out
    for daemon in ("docker", "containerd"):
        assert node.root(f"systemctl restart {daemon}", 300).rc == 0
    until("docker knows it", lambda: answers(node, "survivor"), START_S)
    assert node.root("docker inspect --format '{{.State.Pid}} {{.State.StartedAt}}' survivor").out == before

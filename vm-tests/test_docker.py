"""Docker on real nodes: row 18 of the suite (kola's docker.base, docker.network, docker.containerd-restart)."""

from __future__ import annotations

import pytest

from cluster.cluster import Cluster
from cluster.node import Node

from .conftest import until

pytestmark = pytest.mark.needs("memory")

IMAGE = "dockerfile/redis"
START_S = 120


def running(node: Node, name: str, options: str = "") -> None:
    """Start redis as the container ``name``; returns when it answers."""
    node.root(f"docker run --detach --name {name} {options} {IMAGE}", 300)
    until(f"{name} answers", lambda: answers(node, name), START_S)


def answers(node: Node, name: str) -> bool:
    """Whether redis in the container ``name`` says PONG."""
    return node.root(f"docker exec {name} redis-cli ping", 120).out.strip() == "PONG"


@pytest.mark.fast
def test_docker_base(cluster: Cluster) -> None:
    """docker.base: limits reach the kernel's control groups."""
    node = cluster.nodes[0]
    running(node, "limited", "--memory 100m --pids-limit 50 --cpu-shares 512")
    group = (
        node.root("cat /proc/$(docker inspect --format '{{.State.Pid}}' limited)/cgroup").out.strip().partition("::")[2]
    )
    assert node.root(f"cat /sys/fs/cgroup{group}/memory.max").out.strip() == str(100 << 20)
    assert node.root(f"cat /sys/fs/cgroup{group}/pids.max").out.strip() == "50"
    told = node.root("docker info --format '{{.Driver}} {{.CgroupVersion}} {{.LiveRestoreEnabled}}'").out.split()
    assert told == ["overlay2", "2", "true"]


@pytest.mark.fast
def test_docker_network(cluster: Cluster) -> None:
    """docker.network: a container is reached from another one, from its host, and from another node by a published port."""
    one, two = cluster.nodes[:2]
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

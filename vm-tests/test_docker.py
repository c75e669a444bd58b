"""Docker on real nodes: row 18 of the suite (kola's docker.network, docker.containerd-restart; docker.base is in test_node.py)."""

from __future__ import annotations

import json

import pytest

from cluster.client.cluster import Cluster
from upkeep.journal import Event

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


@pytest.mark.fast
def test_what_nobody_uses_goes_and_what_runs_stays(cluster: Cluster) -> None:
    """flotilla-room with real docker; on a disk that is really full: test_room.py."""
    node = cluster.nodes[1]
    running(node, "busy")
    made = (
        f"docker run --name ended {IMAGE} sh -c : && docker commit ended unused:1 && docker tag unused:1 unused:2"
        f" && docker run --name kept --label flotilla.keep {IMAGE} sh -c : && docker create --name fresh {IMAGE}"
    )
    assert node.root(made, 300).rc == 0
    looked = node.root("flotilla-room --above 0 --below 0 --idle 600", 300)
    assert looked.rc == 0, looked.err
    assert "ended" in node.root("docker ps -a", 300).out, "it has not been unused for long"
    cleaned = node.root("flotilla-room --above 0 --below 0 --idle 0", 300)
    assert cleaned.rc == 0, cleaned.err
    names = node.root("docker ps -a --format '{{.Names}}'", 300).out.split()
    assert {"busy", "kept", "fresh"} <= set(names)
    assert "ended" not in names
    assert "unused" not in node.root("docker images", 300).out
    assert answers(node, "busy")
    status = json.loads(node.root("cat /run/flotilla-room/status.json").out)
    assert (status["removed"]["container"] >= 1, status["removed"]["image"], status["stuck"]) == (True, 1, True)
    told = node.root(f"journalctl -q -o cat MESSAGE_ID={Event.REMOVED.value}").out
    assert "removed the container ended: unused for at least 0 min" in told
    assert "removed the image unused:1, unused:2" in told
    started = node.root("systemctl start flotilla-room.service", 300)
    assert started.rc == 0, started.err

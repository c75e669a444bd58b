"""Docker on real nodes: row 18 of the suite (kola's docker.network, docker.containerd-restart; docker.base is in
test_node.py), and the doors of nodes.

A container without any privilege tries all doors, a stranger beyond a router tries etcd's, and what is published is
open: ``docs/firewall.md``. What is refused there is open to the nodes themselves, as the same program finds: a test of
closed doors must also show that they are doors.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.client.room import rooms
from upkeep.journal import Event

from .conftest import until
from .doors import HOST, REFUSED, Applied, at, prepare, tried
from .redis import IMAGE, START_S, answers, running

pytestmark = pytest.mark.needs()

PUBLISHED, UNLISTED = 6390, 6391
STRANGER = "192.0.2.5"


@pytest.mark.fast
def test_docker_network(cluster: Cluster) -> None:
    """docker.network: a container is reached from another one, from its host, and from another node by a published
    port.
    """
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
def test_what_is_unused_goes_and_what_runs_stays(cluster: Cluster) -> None:
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
    (room,) = rooms([node])
    assert room is not None
    assert (room.above, room.removed) == (("/var",), status["removed"]), "cluster status shows it"
    metrics = node.ask(
        "setpriv --reuid=65534 --regid=65534 --clear-groups cat /run/flotilla-room/room.prom"
    ).splitlines()
    assert {'flotilla_room_above{path="/var"} 1', 'flotilla_room_removed_total{kind="image"} 1'} <= set(metrics)
    removed = node.root(f"journalctl -q -o cat MESSAGE_ID={Event.REMOVED.value}").out
    assert "removed the container ended: unused for at least 0 min" in removed
    assert "removed the image unused:1, unused:2" in removed
    started = node.root("systemctl start flotilla-room.service", 300)
    assert started.rc == 0, started.err


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> tuple[Node, Node]:
    """Two with a container that tries doors; the second one's redis is published."""
    one, two, _ = cluster.nodes
    with ThreadPoolExecutor() as pool:
        work = [pool.submit(prepare, node) for node in (one, two)]
        work.append(pool.submit(running, two, "published", f"--publish {PUBLISHED}:6379 --publish {UNLISTED}:6379"))
    for each in work:
        each.result()
    return one, two


@pytest.mark.fast
def test_a_container_finds_every_door_closed(nodes: tuple[Node, Node], cluster: Cluster) -> None:
    """etcd and its peers here and there, by each address of the node; ssh; this computer's services; the metadata
    service.
    """
    one, two = nodes
    bridge = one.ask("docker network inspect bridge --format '{{(index .IPAM.Config 0).Gateway}}'").strip()
    discovery = cluster.description.discovery_url(cluster.description.token).split("/")[2]
    doors = [
        *(*at(one.address, 2378, 2379, 2380, 22), *at(two.address, 2378, 2379, 2380, 22)),
        *(*at(HOST, 8087), discovery),
    ]
    assert set(tried(one, *doors).values()) == {"open"}
    # No server is behind some of these here; they are refused all the same.
    others = [*at(bridge, 22, 2378, 2379), *at(HOST, 8080, 5000), *at("169.254.169.254", 80)]
    found = tried(one, *doors, *others, inside=True)
    assert set(found.values()) <= REFUSED, found


@pytest.mark.fast
def test_what_containers_are_for_goes_on(nodes: tuple[Node, Node]) -> None:
    """Names, and whatever is published, of the same node or of another one."""
    one, two = nodes
    assert tried(one, *at(two.address, PUBLISHED), inside=True) == {f"{two.address}:{PUBLISHED}": "open"}
    assert tried(two, *at(two.address, PUBLISHED), inside=True) == {f"{two.address}:{PUBLISHED}": "open"}
    name = "import socket; print(socket.gethostbyname('node-2.cluster.internal'))"
    assert one.ask(f"docker exec intruder python3 -Ic {shlex.quote(name)}").strip() == two.address


@pytest.mark.fast
def test_no_socket_of_the_node_is_in_a_container(nodes: tuple[Node, Node]) -> None:
    """docker's, containerd's, fleet's, systemd's; and none without a name, which a namespace of the network keeps away."""
    sockets = "/run/docker.sock /run/containerd/containerd.sock /run/fleet.sock /run/systemd/private /run/dbus/system_bus_socket"
    one = nodes[0]
    assert one.ask(f"ls {sockets} | wc -l").strip() == "5"
    looked = one.ask(f"docker exec intruder sh -c 'ls {sockets} 2>/dev/null; cat /proc/net/unix'")
    assert len(looked.splitlines()) == 1, looked  # the heading of the list


@pytest.mark.fast
def test_ipv6_is_no_way_around(nodes: tuple[Node, Node]) -> None:
    """A container with an address of its own, which is not masqueraded, and a route to another node."""
    one, two = nodes
    serve = "import socketserver as s; s.TCPServer.address_family = 10; s.TCPServer(('fd77::12', PORT), s.BaseRequestHandler).serve_forever()"
    card = one.ask("ip -o -4 addr show to 10.77.0.0/24").split()[1]
    for node, address in ((one, "fd77::11"), (two, "fd77::12")):
        node.ask(f"sysctl -q net.ipv6.conf.{card}.disable_ipv6=0 && ip -6 addr add {address}/64 dev {card} nodad")
    try:
        two.ask("ip -6 route add fd01:77::/64 via fd77::11")
        one.ask("sysctl -q net.ipv6.conf.all.forwarding=1")
        one.ask("docker network create --ipv6 --subnet fd01:77::/64 six && docker network connect six intruder", 120)
        for port in (2379, 2380, 7777):
            text = shlex.quote(serve.replace("PORT", str(port)))
            two.ask(f"systemd-run --quiet --unit=six-{port} python3 -Ic {text}")
        listening = "ss -Hltn6 src '[fd77::12]' | wc -l"
        until("they listen", lambda: two.ask(listening).strip() == "3", 120, 0.1)
        until("fd77:: is near", lambda: "fd77::/64" in two.ask("nft list set inet flotilla near6"), 60, 0.1)
        until("fd77:: is near", lambda: "fd77::/64" in one.ask("nft list set inet flotilla near6"), 60, 0.1)
        doors = at("fd77::12", 2379, 2380, 22)
        assert set(tried(one, *doors).values()) == {"open"}
        found = tried(one, *doors, *at("fd77::11", 22), *at("fd77::12", 7777), inside=True)
        assert found.pop("[fd77::12]:7777") == "open"
        assert set(found.values()) <= REFUSED, found
    finally:
        two.root("systemctl stop 'six-*'; ip -6 route del fd01:77::/64")
        one.root("docker network disconnect six intruder; docker network rm six")
        for node in (one, two):
            node.root(f"ip -6 addr flush dev {card} scope global")


@pytest.fixture
def stranger(nodes: tuple[Node, Node], cluster: Cluster) -> Iterator[Node]:
    """A node that has an address beyond a router, from which it speaks to the first one."""
    one, other = nodes[0], cluster.nodes[2]
    prepare(other, container=False)
    other.ask(f"ip addr add {STRANGER}/32 dev lo && ip route add {one.address}/32 dev {_card(other)} src {STRANGER}")
    one.ask(f"ip route add {STRANGER} via {other.address}")
    yield other
    one.root(f"ip route del {STRANGER}")
    other.root(f"ip route del {one.address}/32; ip addr del {STRANGER}/32 dev lo")


def _card(node: Node) -> str:
    return node.ask(f"ip -o -4 addr show to {node.address}").split()[1]


@pytest.mark.fast
def test_a_stranger_comes_in_when_user_data_names_it(stranger: Node, nodes: tuple[Node, Node]) -> None:
    """And ssh is open to all."""
    one = nodes[0]
    etcd, ssh = at(one.address, 2379, 22)
    found = tried(stranger, etcd, ssh)
    assert found == {etcd: "EHOSTUNREACH", ssh: "open"}
    with_stranger = {"cluster": ["$private_ipv4/24", STRANGER], "nodes_only": [HOST]}
    with Applied(one, with_stranger):
        assert tried(stranger, etcd) == {etcd: "open"}
        assert tried(nodes[1], etcd) == {etcd: "open"}
        assert set(tried(one, etcd, *at(nodes[1].address, 2379, 22), inside=True).values()) <= REFUSED
    assert tried(stranger, etcd) == {etcd: "EHOSTUNREACH"}


@pytest.mark.fast
def test_strict_closes_what_is_published_or_bound(nodes: tuple[Node, Node]) -> None:
    """But for what is listed, and what a cluster needs; the node itself gets out."""
    one, two = nodes
    two.ask("systemd-run --quiet --unit=bound python3 -Im http.server 7070")
    targets = at(two.address, PUBLISHED, UNLISTED, 7070)
    try:
        until("all is open", lambda: set(tried(one, *targets).values()) == {"open"}, 60, 0.1)
        with Applied(two, {"mode": "strict", "allow": [PUBLISHED]}):
            assert list(tried(one, *targets).values()) == ["open", "EHOSTUNREACH", "EHOSTUNREACH"]
            assert set(tried(one, *at(two.address, 2378, 2379, 2380, 22)).values()) == {"open"}
            assert set(tried(two, *at(one.address, 2379, 2380, 22), *at(HOST, 8087)).values()) == {"open"}
            assert tried(two, *at(one.address, 22), inside=True)[f"{one.address}:22"] in REFUSED
            assert "1 received" in one.ask(f"ping -c 1 -W 20 {two.address}")
        assert set(tried(one, *targets).values()) == {"open"}
    finally:
        two.root("systemctl stop bound")

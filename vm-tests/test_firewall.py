"""The doors of nodes: a container without any privilege tries all of them, a stranger beyond a router tries etcd's, and what is published is open. ``docs/firewall.md``.

What is refused here is open to the nodes themselves, as the same program finds: a test of closed doors must be able to tell that they are doors.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from cluster.client.cluster import Cluster
from cluster.client.node import Node

from .conftest import until
from .redis import IMAGE, START_S, running

pytestmark = [pytest.mark.needs(), pytest.mark.fast]

PROBE = Path(__file__).with_name("probe.py")
SILENT_S = 20
"""A refusal is told at once; emulated nodes have so long to let one in."""
REFUSED = {"EHOSTUNREACH", "EACCES"}
"""What ICMP's "administratively prohibited" becomes, in IPv4 and IPv6."""
HOST = "10.77.0.1"
UNPRIVILEGED = "--cap-drop ALL --user 65534:65534 --security-opt no-new-privileges"
PUBLISHED, UNLISTED = 6390, 6391
STRANGER = "192.0.2.5"


@pytest.fixture(scope="module")
def nodes(cluster: Cluster) -> tuple[Node, Node]:
    """Two that have the probe and a container to try it in, with the node's own Python; the second one's redis is published."""
    one, two, _ = cluster.nodes

    def prepare(node: Node) -> None:
        node.put(PROBE, "/tmp/probe.py")
        # The kernel tells a container six refusals at once, and then one a second.
        node.ask("sysctl -q net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")
        mounts = "-v /usr:/usr:ro -v /tmp/probe.py:/tmp/probe.py:ro"
        node.ask(f"docker run -d --name intruder --dns {HOST} {UNPRIVILEGED} {mounts} {IMAGE} sleep infinity", START_S)

    with ThreadPoolExecutor() as pool:
        work = [pool.submit(prepare, node) for node in (one, two)]
        work.append(pool.submit(running, two, "published", f"--publish {PUBLISHED}:6379 --publish {UNLISTED}:6379"))
    for each in work:
        each.result()
    return one, two


def tried(node: Node, *targets: str, inside: bool = False) -> dict[str, str]:
    """What became of a connection to each, from the node, or from ``inside`` its container."""
    where = "docker exec intruder " if inside else ""
    command = f"{where}python3 -I /tmp/probe.py {SILENT_S} {shlex.join(targets)}"
    found: dict[str, str] = json.loads(node.ask(command, START_S))
    return found


def at(host: str, *ports: int) -> list[str]:
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for port in ports]


def test_a_container_finds_every_door_closed(nodes: tuple[Node, Node], cluster: Cluster) -> None:
    """etcd and its peers here and there, by each address of the node; ssh; this computer's services; the metadata service."""
    one, two = nodes
    bridge = one.ask("docker network inspect bridge --format '{{(index .IPAM.Config 0).Gateway}}'").strip()
    discovery = cluster.description.discovery_url(cluster.description.token).split("/")[2]
    doors = [
        *(*at(one.address, 2379, 2380, 22), *at(two.address, 2379, 2380, 22)),
        *(*at(HOST, 8087), discovery),
    ]
    assert set(tried(one, *doors).values()) == {"open"}
    # Nobody is behind some of these here; refused they are all the same.
    others = [*at(bridge, 22, 2379), *at(HOST, 8080, 5000), *at("169.254.169.254", 80)]
    found = tried(one, *doors, *others, inside=True)
    assert set(found.values()) <= REFUSED, found


def test_what_containers_are_for_goes_on(nodes: tuple[Node, Node]) -> None:
    """Names, and whatever is published, of the same node or of another one."""
    one, two = nodes
    assert tried(one, *at(two.address, PUBLISHED), inside=True) == {f"{two.address}:{PUBLISHED}": "open"}
    assert tried(two, *at(two.address, PUBLISHED), inside=True) == {f"{two.address}:{PUBLISHED}": "open"}
    name = "import socket; print(socket.gethostbyname('node-2.cluster.internal'))"
    assert one.ask(f"docker exec intruder python3 -Ic {shlex.quote(name)}").strip() == two.address


def test_no_socket_of_the_node_is_in_a_container(nodes: tuple[Node, Node]) -> None:
    """docker's, containerd's, fleet's, systemd's; and none without a name, which a namespace of the network keeps away."""
    sockets = "/run/docker.sock /run/containerd/containerd.sock /run/fleet.sock /run/systemd/private /run/dbus/system_bus_socket"
    one = nodes[0]
    assert one.ask(f"ls {sockets} | wc -l").strip() == "5"
    looked = one.ask(f"docker exec intruder sh -c 'ls {sockets} 2>/dev/null; cat /proc/net/unix'")
    assert len(looked.splitlines()) == 1, looked  # the heading of the list


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
    other.put(PROBE, "/tmp/probe.py")
    other.ask(f"ip addr add {STRANGER}/32 dev lo && ip route add {one.address}/32 dev {_card(other)} src {STRANGER}")
    one.ask(f"ip route add {STRANGER} via {other.address}")
    yield other
    one.root(f"ip route del {STRANGER}")
    other.root(f"ip route del {one.address}/32; ip addr del {STRANGER}/32 dev lo")


def _card(node: Node) -> str:
    return node.ask(f"ip -o -4 addr show to {node.address}").split()[1]


def test_a_stranger_comes_in_when_user_data_names_it(stranger: Node, nodes: tuple[Node, Node]) -> None:
    """And ssh is for everybody."""
    one = nodes[0]
    etcd, ssh = at(one.address, 2379, 22)
    found = tried(stranger, etcd, ssh)
    assert found == {etcd: "EHOSTUNREACH", ssh: "open"}
    with_stranger = {"cluster": ["$private_ipv4/24", STRANGER], "nodes_only": [HOST]}
    with _Applied(one, with_stranger):
        assert tried(stranger, etcd) == {etcd: "open"}
        assert tried(nodes[1], etcd) == {etcd: "open"}
        assert set(tried(one, etcd, *at(nodes[1].address, 2379, 22), inside=True).values()) <= REFUSED
    assert tried(stranger, etcd) == {etcd: "EHOSTUNREACH"}


def test_strict_closes_what_is_published_or_bound(nodes: tuple[Node, Node]) -> None:
    """But for what is listed, and what a cluster needs; the node itself gets out."""
    one, two = nodes
    two.ask("systemd-run --quiet --unit=bound python3 -Im http.server 7070")
    targets = at(two.address, PUBLISHED, UNLISTED, 7070)
    try:
        until("all is open", lambda: set(tried(one, *targets).values()) == {"open"}, 60, 0.1)
        with _Applied(two, {"mode": "strict", "allow": [PUBLISHED]}):
            assert list(tried(one, *targets).values()) == ["open", "EHOSTUNREACH", "EHOSTUNREACH"]
            assert set(tried(one, *at(two.address, 2379, 2380, 22)).values()) == {"open"}
            assert set(tried(two, *at(one.address, 2379, 2380, 22), *at(HOST, 8087)).values()) == {"open"}
            assert tried(two, *at(one.address, 22), inside=True)[f"{one.address}:22"] in REFUSED
            assert "1 received" in one.ask(f"ping -c 1 -W 20 {two.address}")
        assert set(tried(one, *targets).values()) == {"open"}
    finally:
        two.root("systemctl stop bound")


class _Applied:
    """``with _Applied(node, firewall):`` while the node's user-data says so."""

    def __init__(self, node: Node, firewall: object) -> None:
        self._node = node
        self._before = (node.folder / "user-data").read_text()
        self._wanted = "#cloud-config\n" + yaml.safe_dump({**yaml.safe_load(self._before), "firewall": firewall})

    def __enter__(self) -> None:
        self._apply(self._wanted)

    def __exit__(self, *_: object) -> None:
        self._apply(self._before)

    def _apply(self, text: str) -> None:
        loaded = "systemctl show --value --property=ExecMainStartTimestampMonotonic firewall"
        before = self._node.ask(loaded)
        self._node.ask(f"umask 077; printf %s {shlex.quote(text)} >/root/user-data")
        self._node.ask("cloudconfig apply --datasource file:/root/user-data && rm /root/user-data")
        until("the firewall is loaded anew", lambda: self._node.ask(loaded) != before, 60, 0.1)
        near = "nft list set inet flotilla near4"
        until("it knows its neighbours", lambda: "10.77.0.0/24" in self._node.root(near).out, 60, 0.1)

"""A cluster as ``cluster up`` makes it: etcd's members, proxies and clients trust the cluster's certificates, and
nothing else. Rows 23 and 24 of the security suite, on nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

import trust
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle import scale
from etcd import credentials
from terminal import Phases

from . import keys

pytestmark = [pytest.mark.needs(), pytest.mark.fast]

FOLDER = credentials.FOLDER
HEALTH = "etcdctl endpoint health"
ROLES: Final[tuple[trust.Role, ...]] = ("reader", "operator")


@pytest.fixture(scope="module")
def node(cluster: Cluster) -> Node:
    """Any member."""
    return cluster.nodes[0]


@pytest.mark.parametrize(
    "words",
    [HEALTH, f"sudo {HEALTH}", f"sudo systemd-run --quiet --wait --pipe --uid=core {HEALTH}", f"bash -lc '{HEALTH}'"],
)
def test_etcdctl_needs_no_flag(node: Node, words: str) -> None:
    """For core, for root, in a unit, and in a login's shell; the root shell of the hypervisor is another way in."""
    assert "is healthy" in node.check(f"{words} 2>&1")
    assert "is healthy" in node.ask(f"{HEALTH} 2>&1")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (f"sudo -u daemon env {{given}} {HEALTH}", "permission denied"),
        ("env -u ETCDCTL_CERT -u ETCDCTL_KEY etcdctl get x", "deadline exceeded"),
        (
            f"sudo env ETCDCTL_CERT={FOLDER}/etcd-peer.crt ETCDCTL_KEY={FOLDER}/etcd-peer.key etcdctl get x",
            "deadline exceeded",
        ),
        (f"env ETCDCTL_CACERT={FOLDER}/etcd-peers-ca.crt etcdctl get x", "unknown authority"),
        ("env -u ETCDCTL_CACERT -u ETCDCTL_CERT -u ETCDCTL_KEY etcdctl get x", "deadline exceeded"),
    ],
)
def test_who_has_no_certificate_of_clients_gets_nothing(node: Node, words: str, why: str) -> None:
    """Another account, none, a peer's, another authority, plain HTTP."""
    given = " ".join(node.check("env | grep ^ETCDCTL_").split())
    done = node.run(f"{words.format(given=given)} --command-timeout=3s 2>&1")
    assert done.rc != 0
    assert why in done.out
    if why != "permission denied":  # the alert may be lost when etcd hangs up; its own journal has it
        assert "rejected connection on client endpoint" in node.journal("etcd", since="-1min")


def test_plain_http_is_answered_by_no_door_but_that_of_health(node: Node) -> None:
    script = (
        "import socket, sys\n"
        "line = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)\n"
        "line.sendall(b'GET %s HTTP/1.0\\r\\n\\r\\n' % sys.argv[3].encode())\n"
        "print(line.makefile('rb').read().decode())\n"
    )

    def said(host: str, port: int, path: str) -> str:
        return node.run(f'python3 -c "$(cat <<EOF\n{script}EOF\n)" {host} {port} {path}').out

    assert '"health":"true"' in said("127.0.0.1", 2381, "/health")
    assert "404" in said("127.0.0.1", 2381, "/v3/kv/range")
    for host in ("127.0.0.1", node.address):
        assert said(host, 2379, "/health").strip() == ""
    assert said(node.address, 2380, "/members").strip() == ""
    assert said(node.address, 2381, "/health").strip() == "", "only from the node itself"


def test_fleets_api_knows_who_asks(cluster: Cluster, node: Node, tmp_path: Path) -> None:
    """From another node, which is a machine of the network like any: an operator, a reader, and the node itself."""
    other = cluster.nodes[1]
    endpoints = ",".join(f"https://{each.address}:2378" for each in cluster.nodes)
    words = f"fleetctl --endpoint {endpoints} --ca-file {FOLDER}/fleet-ca.crt --cert-file %s.crt --key-file %s.key"
    for role in ROLES:
        for name, text in trust.issue_user(cluster.layout.trust, f"a-{role}", role).files.items():
            if name.startswith("fleet-client"):
                (tmp_path / name).write_text(text)
                other.put(tmp_path / name, f"/tmp/{role}{Path(name).suffix}", mode=0o600)
    other.check("printf '[Service]\\nExecStart=/bin/true\\n' > /tmp/by-tcp.service")
    submit = f"{words} submit /tmp/by-tcp.service 2>&1"
    done = other.run(submit % ("/tmp/reader", "/tmp/reader"))
    assert (done.rc, "a-reader is a reader, and changes nothing" in done.out) == (1, True), done.out
    assert "unit" in other.check(f"{words} list-units" % ("/tmp/reader", "/tmp/reader")).lower()
    other.check(submit % ("/tmp/operator", "/tmp/operator"))
    assert "a-operator (operator, certificate " in "".join(
        each.journal("fleet", since="-2min") for each in cluster.nodes
    )
    done = other.run(f"sudo {words} list-units 2>&1" % (f"{FOLDER}/fleet-server", f"{FOLDER}/fleet-server"))
    assert (done.rc, "our certificate is not a user's" in done.out) == (1, True), done.out
    other.check(
        f"{words} destroy by-tcp.service; rm /tmp/reader.* /tmp/operator.*" % ("/tmp/operator", "/tmp/operator")
    )


def test_a_proxy_passes_it_on(cluster: Cluster, node: Node) -> None:
    (proxy,) = scale.add(cluster.name, 1, Phases(quiet=True))
    assert proxy.ask("systemctl show -p StatusText etcd").startswith("StatusText=proxy of ")
    keys.put(proxy, "/trust", "through the proxy")
    assert keys.get(node, "/trust") == "through the proxy"
    assert "is healthy" in proxy.check(f"{HEALTH} 2>&1")
    assert proxy.name in proxy.check("fleetctl list-machines --full --no-legend")


def test_keys_are_in_their_files_and_nowhere_else(cluster: Cluster, node: Node) -> None:
    modes = dict(line.split()[::-1] for line in node.ask(f"stat -c '%a:%U:%G %n' {FOLDER}/*.key").splitlines())
    assert {path.removeprefix(f"{FOLDER}/"): mode for path, mode in modes.items()} == {
        "etcd-client.key": "640:root:fleet",
        "etcd-peer.key": "600:etcd:etcd",
        "etcd-server.key": "600:etcd:etcd",
        "fleet-server.key": "600:root:root",
    }
    secrets = [line for path in modes for line in node.ask(f"sed -n 2,3p {path}").split()]
    assert len(secrets) == 2 * len(modes)
    looks: list[Callable[[Node], str]] = [
        lambda each: each.journal(),
        lambda each: each.ask("systemctl show '*'; systemctl show-environment"),
        lambda each: each.ask("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'"),
        lambda each: each.ask("grep -r . /run/cloudconfig /etc/environment /etc/systemd; true"),
        lambda each: each.ask("etcdctl get '' --from-key"),
    ]
    for look in looks:
        text = look(node)
        assert not [secret for secret in secrets if secret in text]
    others = [each.ask(f"cat {FOLDER}/*") for each in cluster.nodes if each.name != node.name]
    assert not [secret for secret in secrets for text in others if secret in text], "each has its own"
    assert not [name for name in node.ask(f"ls {FOLDER}").split() if name.endswith("-ca.key")]

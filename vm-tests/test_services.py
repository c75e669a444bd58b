"""What a real node finds on its segment: names, time, files, images, discovery, and its own user-data.

One node takes its user-data from the EC2-like service, after an address by DHCP; another, of a cluster of its own, from
the OpenStack-like one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle.up import Options, up
from terminal import Phases

from .conftest import remove, until

pytestmark = [pytest.mark.full, pytest.mark.needs("clock", "machine")]

EC2, OPENSTACK = "vm-services", "vm-openstack"
CLOCK_S = 120
"""For timesyncd to ask after it was restarted and to set the clock."""


def check(node: Node, command: str, timeout: float = 120) -> str:
    """Run it as core; it must succeed. Returns what it printed."""
    result = node.run(command, timeout)
    assert result.rc == 0, f"{command}: exit {result.rc}\n{result.out}{result.err}"
    return result.out.strip()


@pytest.fixture(scope="module")
def files(folder: Path) -> Path:
    """What nodes may read of this computer."""
    path = folder / "files"
    path.mkdir()
    (path / "hello").write_text("from this computer\n")
    return path


@pytest.fixture(scope="module")
def cluster(files: Path) -> Iterator[Cluster]:
    """One node that knows nothing but where a cloud has its user-data."""
    remove(EC2)
    try:
        yield up(Options(size=1, name=EC2, datasource="ec2", files=files), Phases(sys.__stderr__)).cluster
    finally:
        remove(EC2)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """Its one node."""
    return cluster.nodes[0]


def test_user_data_from_ec2(node: Node) -> None:
    status = json.loads(check(node, "cloudconfig status --json"))
    assert (status["result"], status["datasource"]) == ("done", "ec2")
    assert check(node, "hostname") == "node-1"
    journal = check(node, "journalctl -b -o cat -u systemd-networkd | grep -c 'DHCPv4 address 10.77.0.11/24'")
    assert int(journal) >= 1


def test_names(node: Node) -> None:
    assert check(node, "getent ahostsv4 node-1.cluster.internal | head -n1").split()[0] in ("10.77.0.11", "127.0.1.1")
    assert check(node, "resolvectl query --legend=no node-1.cluster.internal | cut -d' ' -f2") == "10.77.0.11"
    assert check(node, "getent ahostsv4 registry | head -n1").split()[0] == "10.77.0.1"
    assert "node-1.cluster.internal" in check(node, "resolvectl query 10.77.0.11")
    assert node.run("getent hosts node-9.cluster.internal", 60).rc != 0


def test_ping(node: Node) -> None:
    assert "1 received" in check(node, "sudo ping -c 1 -W 20 10.77.0.1")
    assert "1 received" in check(node, "sudo ping -c 1 -W 20 169.254.169.254")


def test_files(node: Node) -> None:
    assert check(node, fetch("http://10.77.0.1:8080/hello")) == "from this computer"


def test_discovery_over_the_segment(node: Node) -> None:
    assert check(node, fetch("http://10.77.0.1:8087/health", any_status=True)) != ""


def test_metadata(node: Node) -> None:
    token = fetch("http://169.254.169.254/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    assert len(check(node, token)) > 40
    meta = json.loads(check(node, fetch("http://169.254.169.254/openstack/latest/meta_data.json")))
    assert meta["name"] == "node-1"


def test_images_pushed_are_pulled(cluster: Cluster, node: Node, redis_archive: Path) -> None:
    (name,) = cluster.push(redis_archive, "redis:pushed")
    assert name == "registry:5000/redis:pushed"
    check(node, f"docker pull {name}", 600)
    assert name in check(node, "docker images --format '{{.Repository}}:{{.Tag}}'")
    assert "redis" in check(node, f"docker run --rm {name} redis-server --version", 300).lower()
    refused = node.run(f"docker tag {name} registry:5000/mine && docker push registry:5000/mine", 300)
    assert (refused.rc, "denied: nodes only pull" in refused.err) == (1, True), refused


def test_the_time_is_this_computers_also_when_it_is_wrong(cluster: Cluster, node: Node) -> None:
    def off() -> float:
        return float(check(node, "date +%s.%N")) - time.time()

    with cluster.shift_time(3600):
        check(node, "sudo systemctl restart systemd-timesyncd")
        until("the clock follows a server that is an hour late", lambda: off() > 3000, CLOCK_S)
    check(node, "sudo systemctl restart systemd-timesyncd")
    until("the clock is right again", lambda: abs(off()) < 30, CLOCK_S)
    assert "10.77.0.1" in check(node, "timedatectl timesync-status")


def test_user_data_from_openstack(files: Path) -> None:
    remove(OPENSTACK)
    try:
        options = Options(size=1, name=OPENSTACK, datasource="openstack", files=files)
        node = up(options, Phases(sys.__stderr__)).cluster.nodes[0]
        status = json.loads(check(node, "cloudconfig status --json"))
        assert (status["result"], status["datasource"]) == ("done", "openstack")
        assert check(node, "hostname") == "node-1"
    finally:
        remove(OPENSTACK)


def fetch(url: str, method: str = "GET", headers: dict[str, str] | None = None, *, any_status: bool = False) -> str:
    """A command that prints what is at ``url``: nodes have Python, not curl."""
    script = (
        "import http.client, sys, urllib.parse as p; u = p.urlsplit(sys.argv[1]); "
        "c = http.client.HTTPConnection(u.netloc, timeout=60); "
        f"c.request({method!r}, u.path, headers={headers or {}!r}); r = c.getresponse(); "
        f"print(r.read().decode() or r.status); sys.exit(0 if {any_status!r} or r.status == 200 else r.status)"
    )
    return f'python3 -I -S -c "{script}" {url}'

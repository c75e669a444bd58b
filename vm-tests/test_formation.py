"""How a cluster forms: rows 1, 2, 3 and 17 of the suite, in one cluster of four that boots with everything in its way.

The token is for three. Node 3 is switched on a minute late, node 4 finds a full cluster, and the discovery service is away in between.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Final

import pytest

from cluster.cluster import Cluster
from cluster.readiness import Readiness
from cluster.up import Options, built, prepare
from terminal import Phases

from . import keys
from .conftest import Fleetctl, remove, until

pytestmark = pytest.mark.full

NAME: Final = "vm-tests-formation"
LATE_S: Final = 60
FORMED_S: Final = 400
UNIT: Final = """\
[Service]
ExecStart=/usr/bin/sleep infinity

[X-Fleet]
MachineMetadata=role=proxy
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Four nodes: three members, the last of them late, and a proxy."""
    remove(NAME)
    phases = Phases(sys.__stderr__)
    try:
        cluster = prepare(built(Options(size=4, name=NAME, memory_mib=768), phases), phases)
        one, two, three, four = cluster.nodes
        for node in (one, two):
            node.start()
        time.sleep(LATE_S)
        cluster.ask("discovery", running=False)
        for node in (three, four):
            node.start()
        with Readiness(cluster, phases) as readiness:
            readiness.wait_shell()
            time.sleep(LATE_S / 2)
            cluster.ask("discovery", running=True)
            readiness.wait_ssh()
            readiness.wait_etcd()
            readiness.wait_fleet()
        yield cluster
    finally:
        remove(NAME)


def test_cl_etcd_member_discovery(cluster: Cluster) -> None:
    """cl.etcd-member.discovery, functional tests' initial start: the late one is a member all the same, there is one leader."""
    members = [keys.member(node) for node in cluster.nodes[:3]]
    assert len({member.id for member in members}) == 3
    assert len({member.leader for member in members}) == 1
    listed = cluster.nodes[0].root("etcdctl member list").out.splitlines()
    assert len(listed) == 3
    assert all("started" in line for line in listed)


def test_etcd_issue_3268(cluster: Cluster) -> None:
    """A fourth node with a token for three is a proxy, at the same address, and no member."""
    four = cluster.nodes[3]
    keys.put(four, "/by-proxy", "1")
    assert keys.get(cluster.nodes[0], "/by-proxy") == "1"
    assert keys.member(four).id in {keys.member(node).id for node in cluster.nodes[:3]}
    assert four.root("ls /var/lib/etcd/data/member").rc != 0


def test_coreos_fleet_etcdproxy(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """coreos.fleet.etcdproxy: a unit runs on the node that is a proxy, and is seen there."""
    unit = tmp_path_factory.mktemp("units") / "proxied.service"
    unit.write_text(UNIT)
    fleetctl = Fleetctl(cluster)
    fleetctl.check("start", unit)
    assert fleetctl.units()["proxied.service"] == [(cluster.nodes[3].address, "active", "running")]
    assert "proxied.service" in cluster.nodes[3].check("fleetctl list-units --no-legend")
    fleetctl.check("destroy", unit.name)


def test_a_token_that_is_full_takes_nobody_else(cluster: Cluster) -> None:
    """bugs 1323: a wiped member does not come in as a fourth, but in its own place, and without a human."""
    three = cluster.nodes[2]
    former = keys.member(three).id
    keys.put(cluster.nodes[0], "/kept", "1")
    three.kill()
    disk = three.folder / "state.img"
    size = disk.stat().st_size
    disk.unlink()
    with disk.open("wb") as empty:
        empty.truncate(size)
    cluster.layout.known_hosts.write_text(
        "".join(line for line in cluster.layout.known_hosts.read_text().splitlines(True) if three.name not in line)
    )
    three.start()

    def replaced() -> bool:
        lines = cluster.nodes[0].root("etcdctl member list").out.splitlines()
        return len(lines) == 3 and all("started" in line and line.endswith("false") for line in lines)

    until("three started members, no learner", replaced, FORMED_S)
    until("it is another member", lambda: former not in cluster.nodes[0].root("etcdctl member list").out, FORMED_S)
    assert "1" in three.root("etcdctl get --print-value-only /kept").out

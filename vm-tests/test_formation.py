"""How a cluster forms: rows 1, 2, 3 and 17 of the suite, in one cluster of four that boots with everything in its way.

The token is for three. Node 3 is switched on a minute late, node 4 finds a full cluster, and the discovery service is
away in between.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Final

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle.readiness import Readiness
from cluster.lifecycle.up import Options, built, prepare
from cluster.model.protocol import SwitchDiscovery
from terminal import Phases

from . import keys
from .conftest import Fleetctl, remove, until

# Who is late here is late for nodes that take a minute to boot.
pytestmark = [pytest.mark.full, pytest.mark.needs("machine")]

NAME: Final = "vm-tests-formation"
LATE_S: Final = 60
FORMED_S: Final = 400
GONE: Final = "its data is gone"
UNIT: Final = """\
[Service]
ExecStart=/usr/bin/sleep infinity

[X-Fleet]
MachineID={machine}
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
        cluster.ask(SwitchDiscovery(running=False))
        for node in (three, four):
            node.start()
        with Readiness(cluster.nodes, cluster.description.size, cluster.ask, phases) as readiness:
            readiness.wait_shell()
            time.sleep(LATE_S / 2)
            cluster.ask(SwitchDiscovery(running=True))
            readiness.wait_ssh()
            readiness.wait_etcd()
            readiness.wait_fleet()
        yield cluster
    finally:
        remove(NAME)


def members(cluster: Cluster) -> list[str]:
    """The names of etcd's started members."""
    lines = cluster.nodes[0].root("etcdctl member list").out.splitlines()
    return sorted(line.split(", ")[2] for line in lines if line.split(", ")[1] == "started")


def late_and_proxy(cluster: Cluster) -> tuple[Node, Node]:
    """Of the two that came late, the one that is a member (who came first), and the one for whom there was no place
    left.
    """
    three, four = cluster.nodes[2:]
    return (three, four) if three.name in members(cluster) else (four, three)


def test_cl_etcd_member_discovery(cluster: Cluster) -> None:
    """cl.etcd-member.discovery, functional tests' initial start: a late one is a member all the same, there is one
    leader.
    """
    late, _ = late_and_proxy(cluster)
    assert members(cluster) == ["node-1", "node-2", late.name]
    said = [keys.member(node) for node in (*cluster.nodes[:2], late)]
    assert len({member.id for member in said}) == 3
    assert len({member.leader for member in said}) == 1


def test_etcd_issue_3268(cluster: Cluster) -> None:
    """A fourth node with a token for three is a proxy, at the same address, and no member."""
    late, proxy = late_and_proxy(cluster)
    keys.put(proxy, "/by-proxy", "1")
    assert keys.get(cluster.nodes[0], "/by-proxy") == "1"
    assert keys.member(proxy).id in {keys.member(node).id for node in (*cluster.nodes[:2], late)}
    # It may have tried to be the third, when there was room for one of two; but it has nothing to vote with.
    assert proxy.root("ls /var/lib/etcd/data/member/wal").rc != 0


def test_coreos_fleet_etcdproxy(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    """coreos.fleet.etcdproxy: a unit runs on the node that is a proxy, and is seen there."""
    _, proxy = late_and_proxy(cluster)
    unit = tmp_path_factory.mktemp("units") / "proxied.service"
    unit.write_text(UNIT.format(machine=proxy.root("cat /etc/machine-id").out.strip()))
    fleetctl = Fleetctl(cluster)
    fleetctl.check("start", unit)
    assert fleetctl.units()["proxied.service"] == [(proxy.address, "active", "running")]
    assert "proxied.service" in proxy.check("fleetctl list-units --no-legend")
    fleetctl.check("destroy", unit.name)


def test_a_token_that_is_full_takes_no_other(cluster: Cluster) -> None:
    """bugs 1323, MemberReplace: a wiped member does not come in as a fourth, nor under its old name; the others replace
    it by a new member, itself or the proxy.
    """
    late, _ = late_and_proxy(cluster)
    one = cluster.nodes[0]
    former = keys.member(late).id
    keys.put(one, "/kept", "1")
    late.kill()
    disk = late.folder / "state.img"
    size = disk.stat().st_size
    disk.unlink()
    with disk.open("wb") as empty:
        empty.truncate(size)
    late.start()
    until("it says what is wrong", lambda: late.has_shell and GONE in journal(late), FORMED_S, 5)
    until("it was removed", lambda: f"{int(former):x}" not in one.root("etcdctl member list").out, FORMED_S, 5)
    until("three are members again", lambda: len(members(cluster)) == 3, FORMED_S, 5)
    until("it serves what the others know", lambda: etcdctl_get(late, "/kept") == "1", FORMED_S, 5)


def journal(node: Node) -> str:
    """What its etcd.service says."""
    return node.root("journalctl -b -o cat --no-pager -u etcd").out


def etcdctl_get(node: Node, key: str) -> str:
    """What its own etcd has there."""
    return node.root(f"etcdctl get --print-value-only {key}").out.strip()

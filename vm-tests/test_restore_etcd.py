"""Two of three members of etcd destroyed: the one command on the third starts the cluster again, and units run on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client.backups import backups
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.testing.plugin import clusters_of

from . import keys
from .conftest import three_in_namespaces, until

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.fast,
    pytest.mark.waive(r"etcd|fleet", reason="the test destroys the quorum", until="2099-12-31"),
]

NAME = "vm-tests-restore"
LEASE_S = 12
UNIT = "stays.service"
BUMP = 1_000_000_000


@pytest.fixture(scope="module")
def cluster(image: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes, healthy."""
    clusters_of(request.config)
    with three_in_namespaces(NAME, LEASE_S, image) as cluster:
        yield cluster


def start(node: Node, unit: str) -> None:
    """Start a unit by fleet on this very machine."""
    text = f"[Service]\nExecStart=/usr/bin/sleep infinity\n\n[X-Fleet]\nMachineID={node.ask('cat /etc/machine-id').strip()}\n"
    node.ask(f"cat >/run/{unit} <<'END'\n{text}END\nfleetctl start /run/{unit}")
    until(f"{unit} runs", lambda: node.root(f"systemctl is-active -q {unit}").rc == 0, 60, 0.2)


def invocation(node: Node) -> str:
    return node.ask(f"systemctl show -P InvocationID {UNIT}").strip()


def test_two_of_three_are_destroyed(cluster: Cluster) -> None:
    left, *lost = cluster.nodes
    keys.put(left, "/kept", "a value")
    start(left, UNIT)
    run = invocation(left)

    left.ask("systemctl start etcd-backup.service")
    (backup,) = json.loads(left.ask("discovery backup --list --json"))["backups"]
    assert backup["keys"] > 1
    (reported,) = backups([left])
    assert reported is not None
    assert reported["revision"] == backup["revision"]
    assert "flotilla_etcd_backup_failed 0" in left.ask("cat /var/lib/etcd-backup/backup.prom")
    assert left.root("discovery alarms").rc == 0

    refused = left.root("discovery restore --yes 00000000", 60)
    assert refused.rc == 1
    assert "etcd has a quorum" in refused.err
    assert refused.out.count("has a quorum") == 3

    for node in lost:
        node.kill()
    until("it has no leader", lambda: keys.member(left).leader == "0", 60, 0.2)
    asked = left.root("discovery restore", 60)
    assert asked.rc == 1
    assert asked.out.count("no answer") == 2
    assert backup["name"] in asked.out
    assert invocation(left) == run
    token = asked.err.rpartition("--yes ")[2].split()[0]
    before = keys.member(left).id
    done = left.root(f"discovery restore --yes {token}", 300)
    assert done.rc == 0, done.err
    assert "etcd runs again, with this node as its one member" in done.out

    assert keys.get(left, "/kept") == "a value"
    assert keys.put(left, "/new", "1") > BUMP
    assert keys.member(left).id != before, "a stranger to what the lost members may still have"
    assert "confirmed with" in left.ask("journalctl -t discovery-restore --no-pager")
    assert invocation(left) == run, "the unit ran on throughout"
    start(left, "new.service")
    assert invocation(left) == run
    assert "active" in left.ask(f"fleetctl list-units --no-legend --fields unit,active | grep {UNIT}")

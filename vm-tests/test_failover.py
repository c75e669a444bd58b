"""What must move a machine's units and what must not, with a real systemd: a fleetd that hangs, one that is stopped,
and a machine that shuts down. How long deaths take: ``bench/failover.py``; under virtual time:
``tests/fleet/test_failover.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.testing.plugin import clusters_of

from . import keys
from .conftest import Fleetctl, three_in_namespaces, until

pytestmark = [pytest.mark.namespaces, pytest.mark.fast]

NAME = "vm-tests-failover"
LEASE_S = 18
"""So long that what happens within some seconds has not waited for its end."""
PREFIX = "/flotilla/fleet/"
UNIT = "stays.service"
TEXT = "[Service]\nExecStart=/usr/bin/sleep infinity\n"


@pytest.fixture(scope="module")
def cluster(image: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes, healthy."""
    clusters_of(request.config)
    with three_in_namespaces(NAME, LEASE_S, image) as cluster:
        yield cluster


@pytest.fixture
def home(cluster: Cluster, fleetctl: Fleetctl, tmp_path: Path) -> Node:
    """The node on which :data:`UNIT` was started, as it is written."""
    (tmp_path / UNIT).write_text(TEXT)
    fleetctl("destroy", UNIT)
    until("it is gone", lambda: UNIT not in fleetctl.units(), 60, 0.2)
    fleetctl.check("start", tmp_path / UNIT)
    ((address, active, _),) = fleetctl.units()[UNIT]
    assert active == "active"
    return next(node for node in cluster.nodes if node.address == address)


def other(cluster: Cluster, node: Node) -> Node:
    return next(each for each in cluster.nodes if each is not node)


def identity(node: Node) -> str:
    return node.ask("cat /etc/machine-id").strip()


def invocation(node: Node) -> str:
    return node.ask(f"systemctl show -P InvocationID {UNIT}").strip()


def is_registered(by: Node, machine: str) -> bool:
    return keys.get(by, f"{PREFIX}machines/{machine}") is not None


def test_a_fleetd_that_hangs_is_restarted_before_anything_moves(cluster: Cluster, home: Node) -> None:
    run, machine = invocation(home), identity(home)
    orders = keys.everything(home, f"{PREFIX}schedule/")
    begin = time.monotonic()
    home.ask("kill -STOP $(systemctl show -P MainPID fleet)")
    until("it is restarted", lambda: "1" in home.ask("systemctl show -P NRestarts fleet"), LEASE_S, 0.2)
    until("it resumed its lease", lambda: "resuming the lease" in home.journal("fleet"), LEASE_S, 0.2)
    assert time.monotonic() - begin < 2 / 3 * LEASE_S, "by then the lease may have ended"
    time.sleep(max(0.0, begin + LEASE_S + 3 - time.monotonic()))  # when another machine would have started it
    assert is_registered(home, machine)
    assert keys.everything(home, f"{PREFIX}schedule/") == orders
    assert invocation(home) == run
    assert "Fatal Python error: Aborted" in home.journal("fleet"), "where it hung"


def test_stopping_fleetd_keeps_the_machine(cluster: Cluster, home: Node) -> None:
    run, machine = invocation(home), identity(home)
    home.ask("systemctl stop fleet")
    assert is_registered(home, machine)
    assert "1 unit runs on" in home.journal("fleet", lines=5)
    home.ask("systemctl start fleet")
    assert is_registered(home, machine)
    assert invocation(home) == run


def test_a_machine_that_shuts_down_is_gone_at_once(cluster: Cluster, home: Node, fleetctl: Fleetctl) -> None:
    witness, machine = other(cluster, home), identity(home)
    home.stop()
    assert not is_registered(witness, machine)
    begin = time.monotonic()
    until(
        "it runs elsewhere",
        lambda: any(node.root(f"systemctl is-active -q {UNIT}").rc == 0 for node in cluster.nodes if node is not home),
        LEASE_S,
        0.2,
    )
    assert time.monotonic() - begin < LEASE_S / 2, "the grace, an election of etcd, and not the lease"
    home.start()
    until("it is back", lambda: home.address in fleetctl.machines(), 60)

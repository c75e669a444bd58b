"""Nodes in namespaces: a whole cluster of them, and that they are nodes of their own and leave this computer alone.
``docs/namespaces.md``.

On a computer that cannot run such nodes (who runs the tests is not root, say) these tests are not among those that are
run; see conftest.py.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster, processes
from cluster.client.node import Node
from cluster.machines.namespaces import cgroup
from cluster.machines.process import Process
from cluster.model.protocol import Save
from cluster.testing.plugin import clusters_of
from terminal import Failure

from .conftest import Fleetctl, remove, three_in_namespaces, until

pytestmark = [pytest.mark.namespaces, pytest.mark.fast]

NAME = "vm-tests-namespaces"
LEASE_S = 8
"""Of a machine; in namespaces the clocks of leases are this computer's, and nothing is emulated."""


@pytest.fixture(scope="module")
def cluster(image: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three nodes, healthy."""
    clusters_of(request.config)
    with three_in_namespaces(NAME, LEASE_S, image) as cluster:
        yield cluster


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """One that is left as it was."""
    return cluster.nodes[0]


def test_each_is_a_whole_system_of_its_own(cluster: Cluster) -> None:
    printed = [
        node.ask("cat /proc/sys/kernel/random/boot_id /etc/machine-id /proc/cmdline; hostname; cat /proc/uptime").split(
            "\n"
        )
        for node in cluster.nodes
    ]
    for values in zip(*(lines[:2] for lines in printed), strict=True):
        assert len(set(values)) == 3
    assert len({lines[1][:8] for lines in printed}) == 3
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() not in {lines[0] for lines in printed}
    for node, lines in zip(cluster.nodes, printed, strict=True):
        assert "flotilla.datasource=nocloud" in lines[2]
        assert lines[3] == node.name
        assert float(lines[4].split()[0]) < time.clock_gettime(time.CLOCK_BOOTTIME)
        assert node.ask("systemctl --failed --no-legend --plain") == ""
        assert '"result": "done"' in node.ask("cat /run/cloudconfig/status.json")


def test_they_cannot_change_this_computer(node: Node) -> None:
    before = time.time()
    assert node.root("date -s '2001-01-01'").rc != 0
    assert abs(time.time() - before) < 3600
    host = Path("/proc/sys/kernel/hostname").read_text()
    assert node.root("echo 1 >/proc/sys/vm/drop_caches").rc != 0
    assert node.root("echo h >/proc/sysrq-trigger").rc != 0
    assert node.root("modprobe dummy").rc != 0
    assert node.root("dmesg").rc != 0
    assert node.root("touch /usr/bin/x").rc != 0
    assert node.root("hostname elsewhere && hostname node-1").rc == 0  # its own
    assert Path("/proc/sys/kernel/hostname").read_text() == host
    assert node.root("sysctl -q net.ipv4.ip_forward=1").rc == 0  # its own, too


def test_many_connections_at_once_and_both_ways(cluster: Cluster, node: Node) -> None:
    """Through the ssh port of this computer, and from the node to the discovery service of this computer."""

    def banner(_: int) -> bytes:
        with socket.create_connection(("127.0.0.1", node.ssh_port), timeout=60) as line:
            return line.recv(4)

    with ThreadPoolExecutor(8) as executor:
        assert set(executor.map(banner, range(8))) == {b"SSH-"}
    url = cluster.description.discovery_url(cluster.description.token)
    fetch = f"discovery status --json '{url}' | wc -c"
    sizes = node.check(f"for i in $(seq 8); do {fetch} & done; wait").split()
    assert len(sizes) == 8
    assert len(set(sizes)) == 1
    assert int(sizes[0]) > 0


def test_a_large_file_arrives_whole(node: Node, tmp_path: Path) -> None:
    """By the root shell and by ssh: neither loses or changes a byte."""
    content = os.urandom(3 << 20)
    (tmp_path / "large").write_bytes(content)
    assert node.root("cat >/var/large", stdin=tmp_path / "large").rc == 0
    node.ask("chmod 644 /var/large")
    node.get("/var/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    node.ask("rm /var/large")


def test_a_pause_stops_all_of_it_and_no_other(cluster: Cluster) -> None:
    paused, other, _ = cluster.nodes
    paused.ask("systemd-run --unit=counter sh -c 'while sleep 0.05; do echo >>/var/counter; done'")
    file = paused.folder / "state/counter"
    until("it counts", lambda: file.exists() and file.stat().st_size > 2, 60, 0.05)
    with paused.pause():
        stopped = file.stat().st_size
        assert other.ask("sleep 0.5; echo lives") == "lives\n"
        assert file.stat().st_size == stopped
        assert {entry["name"]: entry["state"] for entry in cluster.status()["nodes"]}[paused.name] == "paused"
    until("it goes on", lambda: file.stat().st_size > stopped, 60, 0.05)
    paused.ask("systemctl stop counter; rm /var/counter")


def test_a_paused_node_can_be_killed_and_comes_back(cluster: Cluster) -> None:
    node = cluster.nodes[2]
    node.pause()
    node.kill()
    assert {entry["name"]: entry["state"] for entry in cluster.status()["nodes"]}[node.name] == "off"
    node.start()
    node.poll("true", within=60)
    node.poll(f"ping -c 1 -W 1 {cluster.nodes[0].address}", within=30)


def test_a_cut_link_is_cut(cluster: Cluster) -> None:
    one, other, third = cluster.nodes
    with cluster.net.cut(one, other):
        assert one.root(f"ping -c 1 -W 1 {other.address}").rc != 0
        assert one.root(f"ping -c 1 -W 5 {third.address}").rc == 0
    one.poll(f"ping -c 1 -W 1 {other.address}", within=30)


def test_a_power_cut_closes_no_connection(cluster: Cluster) -> None:
    """As with a machine: the other end hears nothing."""
    other, _, victim = cluster.nodes
    hold = f"import socket, time; line = socket.create_connection(('{victim.address}', 22)); time.sleep(1e6)"
    other.ask(f'systemd-run --unit=holder python3 -I -S -c "{hold}"')
    established = f"ss --no-header -tn state established dst {victim.address} dport 22"
    until("it is connected", lambda: other.ask(established).strip(), 60, 0.05)
    with victim.kill():
        assert {entry["name"]: entry["state"] for entry in cluster.status()["nodes"]}[victim.name] == "off"
        assert other.ask(established).strip()
        other.ask("systemctl stop holder")
    victim.poll("true", within=60)
    victim.poll(f"ping -c 1 -W 1 {other.address}", within=30)


@pytest.mark.parametrize("graceful", [True, False])
def test_a_reboot_is_another_boot_of_the_same_machine(cluster: Cluster, *, graceful: bool) -> None:
    node = cluster.nodes[1]
    look = "cat /proc/sys/kernel/random/boot_id /etc/machine-id"
    boot, machine = node.ask(look).split()
    node.ask("echo kept >/var/kept; echo gone >/run/gone; ip tuntap add left mode tun")
    node.reboot(graceful=graceful)
    new_boot, same_machine = node.ask(look).split()
    assert new_boot != boot
    assert same_machine == machine
    assert node.ask("cat /var/kept; ls /run/gone /sys/class/net/left 2>/dev/null || true") == "kept\n"
    node.poll(f"ping -c 1 -W 1 {cluster.nodes[0].address}", within=30)
    assert float(node.ask("cut -d' ' -f1 /proc/uptime")) < 300


def test_what_takes_a_machine_is_refused_by_name(cluster: Cluster, node: Node) -> None:
    with pytest.raises(Failure, match="no disk that could be slow"):
        node.disk.slow(iops=1)
    with pytest.raises(Failure, match="no disk that could be slow"):
        node.disk.full()
    with pytest.raises(Failure, match="have this computer's clock"):
        node.clock.step(60)
    with pytest.raises(Failure, match="is not written to files"):
        cluster.ask(Save("/nowhere"))
    assert cluster.status()["faults"] == []


def test_a_unit_leaves_a_node_whose_plug_is_pulled(cluster: Cluster, tmp_path: Path) -> None:
    """The story of this project, on the quick driver."""
    fleetctl = Fleetctl(cluster)
    unit = tmp_path / "sleeper.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/sleep infinity\n")
    fleetctl.check("start", unit)
    ((address, active, _),) = fleetctl.units()["sleeper.service"]
    assert active == "active"
    victim = next(node for node in cluster.nodes if node.address == address)
    fault = victim.kill()
    assert not (Path(cgroup.of(cluster.layout.state, victim.number))).exists()

    def elsewhere() -> bool:
        rows = fleetctl.units().get("sleeper.service", [])
        return [(where != address, state) for where, state, _ in rows] == [(True, "active")]

    until("it runs elsewhere", elsewhere, 20 * LEASE_S)
    fault.heal()
    until("the node is back", lambda: len(fleetctl.machines()) == 3, 120)
    fleetctl.check("destroy", "sleeper.service")


def test_a_supervisor_that_is_killed_takes_all_with_it(cluster: Cluster) -> None:
    """Not one process, mount or control group is left: the last test, since the cluster is gone then."""
    layout, description = cluster.layout, cluster.description
    groups = [cgroup.of(layout.state, number) for number in description.numbers]
    inside = [int(pid) for group in groups for file in group.rglob("cgroup.procs") for pid in file.read_text().split()]
    assert len(inside) > 30
    everything = [found for pid in inside if (found := Process.of(pid)) is not None]
    recorded = processes(layout)
    os.kill(recorded[0].pid, signal.SIGKILL)
    until("all have ended", lambda: not any(process.alive for process in [*recorded, *everything]), 60, 0.05)
    assert str(layout.state) not in Path("/proc/self/mounts").read_text()
    remove(NAME)
    assert not layout.state.exists()
    assert [group for group in groups if group.exists()] == []

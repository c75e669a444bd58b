"""The network between real nodes, made bad and recorded: what the switch says it does is what the nodes' own kernels
see.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node

pytestmark = [pytest.mark.fast, pytest.mark.needs()]

PINGS = 20
INTERVAL_S = 0.05
"""Between two of them: ping waits for all of its interval, and a delayed answer may overlap the next question."""
RECEIVE = """\
import socket
line, size = socket.create_server(("", 9000)).accept()[0], 0
while data := line.recv(1 << 16):
    size += len(data)
print(size)
"""
SEND = """\
import socket, sys
socket.create_connection((sys.argv[1], 9000)).sendall(bytes(1 << 18))
"""


def pings(node: Node, to: Node | str, count: int = PINGS) -> list[float]:
    """Round trips in milliseconds of the pings that were answered within two seconds; a doubled answer is there twice."""
    address = to if isinstance(to, str) else to.address
    # It waits twice the longest round trip for the last answer, and a changed frame may report one that took ten
    # minutes.
    said = node.root(f"timeout -s INT 15 busybox ping -c {count} -i {INTERVAL_S} -W 2 {address}").out
    return [float(found) for found in re.findall(r"time=([\d.]+) ms", said)]


def sees(node: Node, to: Node | str) -> bool:
    """Whether any of three pings is answered."""
    return bool(pings(node, to, 3))


def test_a_delay_is_what_ping_measures(cluster: Cluster) -> None:
    one, two, three = cluster.nodes
    pings(one, two, 3)  # asks for addresses first
    before = min(pings(one, two))
    with cluster.net.degrade(one, two, delay="75ms", jitter="25ms"):
        trips = pings(one, two)
        assert len(trips) == PINGS
        assert min(trips) >= 100  # 2 * (75 - 25)
        assert max(trips) - min(trips) > 10
        assert min(pings(one, three)) < 100
    with cluster.net.degrade(one, two, delay="300ms", one_way=True):
        assert 300 <= min(pings(one, two)) < 600
    assert min(pings(one, two)) < before + 75


def test_losing_doubling_and_changing_is_what_ping_counts(cluster: Cluster) -> None:
    one, two, _ = cluster.nodes
    assert len(pings(one, two)) == PINGS
    with cluster.net.degrade(one, two, loss="50%", one_way=True, seed=1) as fault:
        answered = len(pings(one, two))
        assert 2 <= answered <= PINGS - 2
        degraded = next(each for each in cluster.net.faults() if fault.what in each["what"])
        assert degraded["frames"][0]["lost"] >= PINGS - answered
    with cluster.net.degrade(one, two, duplicate=1.0, one_way=True):
        said = one.root(f"busybox ping -c {PINGS} -i {INTERVAL_S} {two.address}").out
        assert PINGS // 2 < said.count("DUP!") <= PINGS  # ping does not wait for the last one's
    with cluster.net.degrade(one, two, corrupt=1.0):
        assert len(pings(one, two, 10)) < 10  # a changed byte of padding or of an unchecked address may pass
    assert len(pings(one, two)) == PINGS


def test_a_rate_is_what_a_transfer_takes(cluster: Cluster) -> None:
    """A quarter of a megabyte at 1 Mbit/s takes two seconds; without a limit, next to nothing.

    Sent over TCP, which finds the rate by itself.
    """
    one, two, _ = cluster.nodes
    receive = shlex.quote(f"python3 -c {shlex.quote(RECEIVE)} > /run/received")
    send = f"python3 -c {shlex.quote(SEND)} {two.address}"

    def transfer() -> float:
        two.root(f"systemd-run --collect --quiet --unit=receive sh -c {receive}")
        two.root("until busybox netstat -ltn | grep -q :9000; do sleep 0.1; done")
        begin = time.monotonic()
        assert one.root(send).rc == 0
        two.root("while systemctl is-active --quiet receive; do sleep 0.1; done")
        assert int(two.root("cat /run/received").out) == 1 << 18
        return time.monotonic() - begin

    whole = transfer()
    with cluster.net.degrade(one, two, rate="1mbit"):
        assert transfer() >= 2.0
    assert whole < 20


def test_a_cut_of_one_direction_a_partition_and_no_way_to_this_computer(cluster: Cluster) -> None:
    one, two, three = cluster.nodes
    with cluster.net.partition({one}, {two, three}):
        assert not sees(one, two)
        assert not sees(three, one)
        assert sees(two, three)
        assert sees(one, "10.77.0.1")
    with cluster.net.cut(one, to="host"):
        assert not sees(one, "10.77.0.1")
        assert sees(two, "10.77.0.1")
        assert sees(one, two)
    assert sees(one, "10.77.0.1")
    assert sees(one, two)


def test_tcpdump_reads_what_a_node_said(cluster: Cluster, tmp_path: Path) -> None:
    one, two, _ = cluster.nodes
    program = shutil.which("tcpdump")
    assert program, "no tcpdump: scripts/setup --tests"

    def read(file: Path, expression: str) -> list[str]:
        command = [program or "", "-nn", "-r", str(file), expression]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    seen, missed = tmp_path / "two.pcap", tmp_path / "missed.pcap"
    with cluster.net.pcap(two, seen, missed=missed) as captured:
        pings(one, two, 4)
        with cluster.net.cut(one, to=two):
            pings(one, two, 3)
    echoes = f"icmp[icmptype] == icmp-echo and src {one.address}"
    assert len(read(seen, echoes)) == 4
    assert len(read(seen, f"icmp[icmptype] == icmp-echoreply and src {two.address}")) == 4
    assert len(read(missed, echoes)) == 3
    assert captured["seen"]["frames"] == len(read(seen, "")) > 8

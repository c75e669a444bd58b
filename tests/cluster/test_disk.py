"""Faults of a disk, with real QEMU processes whose guest reads and writes without end."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.faults.disk import Errors, Slow
from cluster.faults.diskchain import chain
from cluster.model import timeline
from cluster.model.protocol import FailDisk, Faults, Heal
from terminal import Failure, UsageFailure
from tests.cluster.tinyguest import USES_DISK, console, tiny_cluster
from tests.eventually import eventually


@pytest.fixture
def cluster(image: Path) -> Iterator[Cluster]:
    """One node whose guest does nothing but use its disk."""
    with tiny_cluster(image, USES_DISK, size=1) as made:
        yield made


@pytest.fixture
def node(cluster: Cluster) -> Node:
    """That node, at work."""
    node = cluster.nodes[0]
    node.start()
    eventually(lambda: set(console(node).decode(errors="replace")) >= set("wr"))
    return node


def outcomes_of(node: Node, count: int = 8) -> set[str]:
    """What becomes of the guest's next ``count`` requests: w, r: done, W, R: failed."""
    before = len(console(node))
    eventually(lambda: len(console(node)) >= before + count)
    return set(console(node)[before:].decode(errors="replace")) & set("wrWR")


def is_silent(node: Node, seconds: float) -> bool:
    """Whether none of the guest's requests ends for so long."""
    before = len(console(node))
    time.sleep(seconds)
    return len(console(node)) == before


def requests_a_second(node: Node, count: int) -> float:
    """How many the guest does, while it does ``count``."""
    before, begin = len(console(node)), time.monotonic()
    eventually(lambda: len(console(node)) >= before + count)
    return (len(console(node)) - before) / (time.monotonic() - begin)


def becomes(node: Node, outcomes: str) -> bool:
    """Whether ``outcomes`` are soon all that there are: what was under way when something changed may end either way."""
    return eventually(lambda: outcomes_of(node) == set(outcomes))


def test_writes_fail_until_they_are_healed_and_reads_do_not(node: Node) -> None:
    with node.disk.errors() as fault:
        assert str(fault) == "disk of node-1: writes fail with EIO"
        assert becomes(node, "Wr")
    assert becomes(node, "wr")
    with node.disk.errors(write=False, read=True):
        assert becomes(node, "wR")
    with node.disk.errors(read=True):
        assert becomes(node, "WR")
    assert becomes(node, "wr")


def test_a_full_disk_of_this_computer_stops_the_node_until_there_is_room(node: Node) -> None:
    fault = node.disk.errors(kind="enospc")
    assert eventually(lambda: is_silent(node, 0.2))
    assert is_silent(node, 1)
    fault.heal()
    assert becomes(node, "wr")
    assert "W" not in console(node).decode(errors="replace")


@pytest.mark.slow
def test_a_slow_disk_does_so_many_requests_a_second(node: Node) -> None:
    fast = requests_a_second(node, 200)
    with node.disk.slow(iops=20):
        outcomes_of(node)  # what was under way, and a burst of a tenth of a second's worth, are let through
        slow = requests_a_second(node, 40)
    assert 10 <= slow <= 30
    assert fast > 100
    assert becomes(node, "wr")


def test_faults_of_a_disk_add_up_and_are_healed_one_by_one(cluster: Cluster, node: Node) -> None:
    writes = node.disk.errors()
    reads = node.disk.errors(write=False, read=True)
    slow = node.disk.slow(bytes_per_second=100 << 20)
    assert [fault.what for fault in cluster.ask(Faults())] == [str(writes), str(reads), str(slow)]
    assert becomes(node, "WR")
    writes.heal()
    assert becomes(node, "wR")
    assert cluster.ask(Heal(None)) == (3, 2)
    assert becomes(node, "wr")
    assert cluster.ask(Heal(3)) == ()
    reads.heal()
    events = timeline.read(cluster.layout.timeline)
    assert [(event.kind, event.id) for event in events if event.id] == [
        ("fault", 1),
        ("fault", 2),
        ("fault", 3),
        ("heal", 1),
        ("heal", 3),
        ("heal", 2),
    ]
    assert {event.nodes for event in events} == {(1,)}


def test_a_power_cut_mends_no_disk(cluster: Cluster, node: Node) -> None:
    fault = node.disk.errors()
    node.kill()
    node.start()
    assert becomes(node, "Wr")
    node.kill()
    fault.heal()
    node.start()
    before = len(console(node))
    assert becomes(node, "wr")
    assert b"W" not in console(node)[before:]


def test_bytes_of_a_disk_are_inverted_and_back_while_the_node_is_off(cluster: Cluster) -> None:
    node, disk = cluster.nodes[0], cluster.nodes[0].folder / "state.img"
    content = bytes(range(256)) * 4096
    disk.write_bytes(content)
    with node.disk.corrupt(offset=4095, bytes=3):
        left = disk.read_bytes()
        assert left[4095:4098] == bytes([0x00, 0xFF, 0xFE])
        assert left[:4095] + left[4098:] == content[:4095] + content[4098:]
    assert disk.read_bytes() == content
    fault = node.disk.corrupt(offset=10)
    with disk.open("r+b") as file:
        file.write(b"new")  # the node has used that block for something else
    fault.heal()
    assert disk.read_bytes()[:12] == b"new" + content[3:10] + bytes([10 ^ 0xFF]) + content[11:12]
    with pytest.raises(Failure, match="the state disk has 1048576 bytes, none beyond"):
        node.disk.corrupt(offset=1 << 20)
    node.start()
    with pytest.raises(Failure, match="node-1 runs, and would not notice"):
        node.disk.corrupt(offset=0)


def test_what_cannot_be_meant_is_refused(cluster: Cluster) -> None:
    disk, clock = cluster.nodes[0].disk, cluster.nodes[0].clock
    wrongs: list[tuple[Callable[[], object], str]] = [
        (lambda: disk.slow(), "a slow disk has a limit"),
        (lambda: disk.slow(iops=0), "a slow disk has a limit"),
        (lambda: disk.errors(kind="e2big"), "there is no disk error 'e2big'"),
        (lambda: disk.errors(write=False), "neither writes nor reads are selected"),
        (lambda: disk.errors(read=True, kind="enospc"), "a full disk fails writes"),
        (lambda: disk.full(-1), "-1 bytes cannot be left free"),
        (lambda: disk.corrupt(offset=-1), "1 bytes from -1"),
        (lambda: disk.corrupt(bytes=0), "0 bytes from 0"),
        (lambda: disk.corrupt("/usr/bin/etcd"), "/usr/bin/etcd is not on the node's state disk"),
        (lambda: clock.step(0), "a step of 0 s"),
        (lambda: clock.step(1e10), r"a step of 1e\+10 s"),
        (lambda: clock.strobe(60, period_s=0), "a strobe with a period of 0 s"),
        (lambda: clock.strobe(60, period_s=9, duration_s=3), "a strobe with a period of 9 s for 3 s"),
    ]
    for wrong, says in wrongs:
        with pytest.raises(UsageFailure, match=says):
            wrong()
    offs: list[Callable[[], object]] = [disk.full, lambda: clock.step(60), lambda: clock.strobe(60)]
    for off in offs:
        with pytest.raises(Failure, match="node-1 is off"):
            off()
    with pytest.raises(Failure, match="there is no disk error 'melt'"):
        cluster.ask(FailDisk(1, write=True, read=False, kind="melt"))
    with pytest.raises(Failure, match=r"there is no fault 7 \(there are: none\)"):
        cluster.ask(Heal(7))


def test_a_chain_is_built_from_below() -> None:
    slow, errors = chain([Slow(iops=20), Errors(kind="enospc")], "state", "fault-4")
    assert slow.throttle == {
        "qom-type": "throttle-group",
        "id": "fault-4-0-limits",
        "limits": {"iops-total": 20, "bps-total": 0},
    }
    assert slow.node == {
        "node-name": "fault-4-0",
        "driver": "throttle",
        "throttle-group": "fault-4-0-limits",
        "file": "state",
    }
    assert errors.throttle is None
    assert errors.node["image"] == "fault-4-0"
    assert errors.node["inject-error"] == [
        {"event": "none", "iotype": "write", "errno": 28},
        {"event": "none", "iotype": "write-zeroes", "errno": 28},
    ]

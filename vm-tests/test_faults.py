"""What can happen to a node's disk, clock and power, as the node itself sees it; each test in a fresh cluster."""

from __future__ import annotations

import time
from functools import partial

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.model import timeline
from cluster.model.protocol import Faults
from terminal import Failure

from . import keys
from .conftest import until
from .keys import leader, others

pytestmark = pytest.mark.needs("clock", "disk")

WAL = "/var/lib/etcd/data/member/wal/0000000000000000-0000000000000000.wal"
RECOVERY_S = 240
"""For a node to boot and its etcd to be back among the others, emulated, on a computer that has other things to do."""


def seconds_of(node: Node, command: str) -> float:
    """How long a command takes as root on ``node``; it must succeed."""
    begin = time.monotonic()
    result = node.root(command)
    assert result.rc == 0, result.err
    return time.monotonic() - begin


def is_writable(node: Node) -> bool:
    """Whether a client of this node's etcd can write."""
    try:
        keys.put(node, "/probe", "x")
    except Failure:
        return False
    return True


def offset_s(node: Node) -> float:
    """By how much the node's clock is ahead of this computer's, but for the time that asking takes."""
    return float(node.root("date +%s.%N").out) - time.time()


@pytest.mark.fast
def test_disk_slow_full_and_failing(fresh: Cluster) -> None:
    """Row 12 and 13: a slow disk slows writes and nothing else; a full one is reported, and freeing space repairs it; a
    failing one is read-only.
    """
    first = leader(fresh)
    node = others(fresh, first)[0]
    sync = "for i in $(seq 10); do echo $i >/var/tmp/x; sync /var/tmp/x; done"
    fast = seconds_of(node, sync)
    with node.disk.slow(iops=4):
        assert seconds_of(node, sync) > fast + 2
        keys.put(first, "/slow", "a majority is fast enough")
    with node.disk.full():
        said = node.root("echo hello >/var/tmp/y")
        assert said.rc != 0
        assert "No space left" in said.err
    assert seconds_of(node, "echo hello >/var/tmp/y && sync /var/tmp/y") < 60
    with node.disk.errors(kind="enospc"):
        with pytest.raises(Failure, match="did not end"):
            node.root("echo hello >/var/tmp/z; sync /var/tmp/z", timeout=10)
        assert fresh.ask(Faults())[0].what == f"disk of {node.name}: writes fail with ENOSPC"
        states = {entry["name"]: entry["state"] for entry in fresh.status()["nodes"]}
        assert states == {**dict.fromkeys(states, "running"), node.name: "stalled"}
    assert node.root("cat /var/tmp/z").out == "hello\n"
    with node.disk.errors():
        node.root("echo hello >/var/tmp/lost; sync /var/tmp/lost")
        until("its file system is read-only", lambda: node.root("touch /var/tmp/a").rc != 0, 60)
    assert "disk of" in "".join(event.what for event in timeline.read(fresh.layout.timeline))
    until("the others go on", lambda: is_writable(first), 60)


@pytest.mark.full
def test_corrupt_wal(fresh: Cluster) -> None:
    """A byte of a member's log rots while it is off: its etcd does not start and says why, the others go on; the byte
    restored, it is back.
    """
    first = leader(fresh)
    node = others(fresh, first)[0]
    keys.put(node, "/before", "1")
    node.kill()
    # The log's first record is 16 bytes; of the second, 8 are its length and 10 its type, checksum and size: this is
    # what the checksum is about.
    fault = node.disk.corrupt(WAL, offset=37)
    node.start()
    until(
        "etcd says what is wrong",
        lambda: node.has_shell and "crc mismatch" in node.root("journalctl -u etcd -o cat --no-pager").out.lower(),
        RECOVERY_S,
        5,
    )
    assert is_writable(first)
    node.kill()
    fault.heal()
    node.start()
    until("it is back", lambda: is_writable(node), RECOVERY_S, 5)
    assert keys.get(node, "/before") == "1"
    with pytest.raises(Failure, match="would not notice"):
        node.disk.corrupt(WAL)


@pytest.mark.fast
def test_clock_bump_and_strobe(fresh: Cluster) -> None:
    """Row 11: an hour back, an hour on, to and fro: leases and writes do not mind, and healed it is right."""
    node = leader(fresh)
    for seconds in (-3600, 3600):
        with node.clock.step(seconds):
            assert abs(offset_s(node) - seconds) < 20
            keys.put(node, "/bumped", str(seconds))
        assert abs(offset_s(node)) < 20
    with node.clock.strobe(200, period_s=0.5, duration_s=10):
        # Wall clock and uptime, read on the node: a reader here would take turns with the writer of the clock.
        clocks = node.root(
            "for i in $(seq 60); do echo $(date +%s.%N) $(cut -d' ' -f1 /proc/uptime); sleep 0.1; done", 60
        ).out
        keys.put(node, "/strobed", "1")
    ahead = [float(wall) - float(uptime) for wall, uptime in map(str.split, clocks.splitlines())]
    assert {round((each - min(ahead)) / 200) for each in ahead} == {0, 1}
    assert abs(offset_s(node)) < 20
    assert keys.get(others(fresh, node)[0], "/strobed") == "1"


@pytest.mark.full
def test_power_cut_of_all_and_reboot(fresh: Cluster) -> None:
    """All plugs at one moment: what was acknowledged is there when they are back; then one reboots, with another boot's
    id.
    """
    keys.put(leader(fresh), "/before", "1")
    fresh.power_cut()
    for node in fresh.nodes:
        until(f"{node.name} takes writes", partial(is_writable, node), RECOVERY_S, 5)
        assert keys.get(node, "/before") == "1"
    node = fresh.nodes[0]
    before = node.root("cat /proc/sys/kernel/random/boot_id").out
    node.reboot()
    assert node.root("cat /proc/sys/kernel/random/boot_id").out != before
    until("it takes writes", lambda: is_writable(node), RECOVERY_S, 5)

"""Real nodes that libvirt runs: without a daemon, by this user's daemon, and on another computer by ssh, in one
cluster.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle.readiness import is_etcd_healthy
from cluster.machines.process import Process
from terminal import Failure
from tests.cluster.farhost import far_host
from tests.cluster.ordinary import ordinarily

from .conftest import until

pytestmark = [pytest.mark.full, pytest.mark.needs("machine")]

NAME = "vm-libvirt"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders of this test's own for libvirt's sockets; its daemons are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lv-"))
    for name in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        (folder / name[4]).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(folder / name[4]))
    yield folder
    for path in folder.rglob("*d.pid"):
        if (process := Process.of(int(path.read_text()))) is not None:
            process.end()
    shutil.rmtree(folder)


def commanded(folder: Path, *words: str) -> str:
    """A command of ours, as an ordinary user types it; returns what it said."""
    program = str(Path(sys.executable).parent / words[0])
    done = subprocess.run(
        ordinarily(folder, program, *words[1:]),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def cluster_of(folder: Path, size: int, *connect: str) -> Cluster:
    """A new cluster of ``size`` nodes, healthy."""
    words = [word for uri in connect for word in ("--connect", uri)]
    commanded(folder, "cluster-up", str(size), "--name", NAME, "--driver", "libvirt", *words, "--bare")
    return Cluster.open(NAME)


def remove(folder: Path) -> None:
    commanded(folder, "cluster-down", "--name", NAME)
    assert NAME not in Cluster.names()


def until_well(node: Node, seconds: float = 300) -> bool:
    """Wait until etcd on ``node`` is well; returns whether it is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(Failure):
            if is_etcd_healthy(node):
                return True
        time.sleep(1)
    return False


def test_a_node_without_any_daemon(short: Path) -> None:
    try:
        cluster = cluster_of(short, 1, f"qemu:///embed?root={short}/e")
        (node,) = cluster.nodes
        assert node.root("systemctl is-active etcd fleet").out.split() == ["active", "active"]
        with node.disk.errors(kind="enospc"):
            with pytest.raises(Failure, match="did not end"):
                node.root("echo hello >/var/tmp/x; sync /var/tmp/x", timeout=10)
            until("it stalls", lambda: cluster.status()["nodes"][0]["state"] == "stalled", 60)
        until("it goes on", lambda: cluster.status()["nodes"][0]["state"] == "running", 60)
        assert node.root("cat /var/tmp/x").out == "hello\n"
        node.stop()
        assert cluster.status()["nodes"][0]["ended"] == "exit code 0"
    finally:
        remove(short)
    assert not (short / "e").exists()


def test_nodes_here_and_on_another_computer_are_one_cluster(short: Path) -> None:
    with far_host() as far:
        try:
            cluster = cluster_of(short, 2, "qemu:///session", far.uri)
            first, second = cluster.nodes
            assert [entry["pid"] is None for entry in cluster.status()["nodes"]] == [False, True]
            assert len(second.check("fleetctl list-machines --no-legend").splitlines()) == 2
            assert second.root("hostname").out.strip() == "node-2"
            first.check(f"ping -c 1 -W 20 {second.address}")
            second.kill()
            assert cluster.status()["nodes"][1]["ended"] == "signal 9"
            second.start()
            assert until_well(second)
        finally:
            remove(short)
        assert not list(far.home.glob("s/flotilla/guests/*"))

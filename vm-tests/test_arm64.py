"""A node of another architecture, built here without running anything of it, and booted under emulation: what amd64's
do, it does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from builder.core import data
from builder.pipeline.build import build_container
from builder.pipeline.order import Settings
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle.up import Options, up
from terminal import Phases

from .conftest import remove, until

pytestmark = [pytest.mark.full, pytest.mark.needs("machine")]

NAME: Final = "vm-tests-arm64"
ARCH: Final = "arm64"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The docker-archive of Debian's redis for arm64, built by us."""
    settings = Settings(
        definition=data.image() / "containers" / "redis.yaml",
        architecture=ARCH,
        output=tmp_path_factory.mktemp("redis"),
        phases=Phases(sys.__stderr__),
    )
    return build_container(settings).directory / "redis.tar"


@pytest.fixture(scope="module")
def foreign(redis: Path) -> Iterator[Cluster]:
    """A cluster of one arm64 node, with the same user-data as any other."""
    remove(NAME)
    try:
        yield up(Options(size=1, name=NAME, arch=ARCH, load_images=(redis,)), Phases(sys.__stderr__)).cluster
    finally:
        remove(NAME)


@pytest.fixture
def node(foreign: Cluster) -> Node:
    """Its node."""
    return foreign.nodes[0]


def test_it_is_what_it_was_built_for_and_all_of_it_came_up(node: Node) -> None:
    assert node.check("uname -m").strip() == "aarch64"
    until("the system is up", lambda: node.run("systemctl is-system-running").out.strip() == "running", 60)
    assert node.check("systemctl --failed --no-legend --plain").strip() == ""
    assert node.check("cat /proc/1/comm").strip() == "systemd"


def test_etcd_is_healthy_and_fleet_lists_it(node: Node) -> None:
    assert "is healthy" in node.check("etcdctl endpoint health 2>&1")
    assert node.address in node.check("fleetctl list-machines --no-legend --full")


def test_docker_runs_a_container_of_its_kind(node: Node) -> None:
    assert node.check("docker info --format '{{.Architecture}} {{.OSType}}'").split() == ["aarch64", "linux"]
    assert node.check("docker image inspect --format '{{.Architecture}}' dockerfile/redis").strip() == ARCH
    node.check("docker run --detach --name redis --publish 6379:6379 dockerfile/redis")
    until("redis answers", lambda: node.run("docker exec redis redis-cli ping").out.strip() == "PONG", 120)
    # Through the bridge and docker's netfilter rules, not only inside the container.
    ask = "exec 3<>/dev/tcp/127.0.0.1/6379 && printf 'PING\\r\\n' >&3 && head -c 5 <&3"
    assert node.check(f"bash -c {ask!r}") == "+PONG"


def test_its_loader_cache_is_what_its_own_ldconfig_makes_of_it(node: Node) -> None:
    """We wrote it without running anything of arm64."""
    ours = node.check("/usr/sbin/ldconfig -p")
    theirs = node.check("/usr/sbin/ldconfig -X -C /tmp/cache && /usr/sbin/ldconfig -p -C /tmp/cache")
    libraries = [sorted(line for line in said.splitlines() if "=>" in line) for said in (ours, theirs)]
    assert libraries[0] == libraries[1]
    assert any("libc.so.6 (libc6,AArch64) => /lib/aarch64-linux-gnu/libc.so.6" in line for line in libraries[0])


def test_its_power_button_switches_it_off(foreign: Cluster, node: Node) -> None:
    """Last: without ACPI the button is a wire in the device tree."""
    node.stop()
    assert "did not switch itself off" not in foreign.layout.supervisor_log.read_text()
    assert foreign.status()["nodes"][0]["state"] == "off"

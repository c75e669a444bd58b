"""What tests on real machines share: the image, the container, and one cluster of three that is booted once.

The cluster has a name of its own, so that a cluster of the person at the desk is left alone. Reports of failed tests,
and the watch for trouble on consoles and in journals, are the plugin's (docs/testing.md).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from builder.core import data
from builder.pipeline.build import build_container, build_image
from builder.pipeline.order import Settings
from cluster.client.cluster import Cluster, changing
from cluster.client.node import Node
from cluster.lifecycle.restore import up_cached
from cluster.lifecycle.up import Options, built, prepare, up
from cluster.machines.namespaces import requirements
from cluster.model.layout import Layout
from cluster.testing.plugin import clusters_of
from terminal import Phases

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

NAME: Final = "vm-tests"
"""Of the cluster that a module has; its driver follows."""
TTL_S: Final = 20
"""Of a machine's lease: how long fleet waits before it believes that a machine is gone."""
SETTLED_S: Final = 300
"""For a node to boot, emulated, and to be what its user-data says."""
ALONE: Final = (
    *("test_targets", "test_room", "test_arm64"),  # marked full, most of them
    *("test_iso", "test_disk", "test_shell", "test_userdata"),
)
"""Modules whose machines boot one at a time, and share nothing with those of other modules. The longest are the first:
one that begins last keeps one worker busy while the other has nothing to do.
"""

EMULATED: Final = frozenset({"test_chaos", "test_example", "test_faults", "test_node"})
"""Modules that have a cluster of virtual machines: the first of them boots it, the others restore its snapshot."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    """For two workers on two processors, which one emulated machine keeps busy: what may not run at the same time is
    one row of tests. The longest row is the first, by the names of its modules.
    """
    from xdist.scheduler import LoadScopeScheduling

    emulates_all = bool(requirements.lacks())

    class InRows(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = Path(nodeid.partition("::")[0]).stem
            if module in ALONE:
                return module
            return "emulated clusters" if emulates_all or module in EMULATED else "clusters"

    config.option.loadscopereorder = False  # by the number of tests, which says little of their time
    return InRows(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the tests of nodes in namespaces where those can run; elsewhere say why not, and run the same on virtual
    machines.
    """
    chosen = [item for item in items if item.get_closest_marker("namespaces") is None]
    if len(chosen) < len(items) and (missing := requirements.lacks()):
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        print(f"nodes in namespaces are not tested here: {'; '.join(missing)}", file=sys.stderr)
        items[:] = chosen
    # A cluster of machines that boots beside a single one takes twice as long; those in namespaces leave it room.
    items.sort(key=lambda item: ALONE.index(item.path.stem) if item.path.stem in ALONE else -1)


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str


class Fleetctl:
    """``fleetctl`` on this computer, talking to the cluster as ``eval "$(cluster env)"`` would have it."""

    def __init__(self, cluster: Cluster) -> None:
        self._environment = {**os.environ, **cluster.exports()}

    def __call__(self, *arguments: str | Path, timeout: float = 300) -> Answer:
        """Run it; never raises for a bad exit code."""
        command = [str(Path(sys.executable).parent / "fleetctl"), *map(str, arguments)]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def check(self, *arguments: str | Path, timeout: float = 300) -> str:
        """Run it; it must succeed. Returns what it printed."""
        answer = self(*arguments, timeout=timeout)
        assert answer.code == 0, f"fleetctl {arguments}: exit {answer.code}\n{answer.out}{answer.err}"
        return answer.out

    def units(self) -> dict[str, list[tuple[str, str, str]]]:
        """Unit -> (machine, active, sub) for every state that fleet knows."""
        rows: dict[str, list[tuple[str, str, str]]] = {}
        for line in self.check(
            "list-units", "--no-legend", "--full", "--fields", "unit,machine,active,sub"
        ).splitlines():
            unit, machine, active, sub = line.split()
            rows.setdefault(unit, []).append((machine.partition("/")[2], active, sub))
        return rows

    def machines(self) -> list[str]:
        """Addresses of the machines, sorted."""
        lines = self.check("list-machines", "--no-legend", "--full", "--fields", "ip").splitlines()
        return sorted(line.strip() for line in lines)


def until(what: str, holds: Callable[[], object], seconds: float, pause: float = 1.0) -> float:
    """Wait until ``holds()`` is true; returns the seconds it took.

    An AssertionError says what did not come true, and the last answer.
    """
    begin = time.monotonic()
    while True:
        answer = holds()
        if answer:
            return time.monotonic() - begin
        if time.monotonic() - begin > seconds:
            raise AssertionError(f"{what}: not within {seconds:.0f} s; last answer: {answer!r}")
        time.sleep(pause)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For all machines of this module."""
    return tmp_path_factory.mktemp("machines")


@pytest.fixture(scope="module")
def key(folder: Path) -> Path:
    """An ssh key; its public half is beside it."""
    path = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="session")
def image() -> Path:
    """The folder of the node's image for QEMU, with the lists of what is in it."""
    return build_image(Settings(target="qemu", phases=Phases(sys.__stderr__))).directory


@pytest.fixture(scope="session")
def redis_archive() -> Path:
    """The docker-archive of Debian's redis, built by us."""
    definition = data.image() / "containers" / "redis.yaml"
    result = build_container(Settings(definition=definition, phases=Phases(sys.__stderr__)))
    return result.directory / "redis.tar"


@contextmanager
def three_nodes(redis_archive: Path, driver: str) -> Iterator[Cluster]:
    """Three nodes, healthy, with redis' image on each; gone when the block is over."""
    name = f"{NAME}-{driver}"
    remove(name)
    options = Options(size=3, name=name, load_images=(redis_archive,), agent_ttl=f"{TTL_S}s", driver=driver)
    try:
        yield up_cached(options, Phases(sys.__stderr__)).cluster
    finally:
        remove(name)


@contextmanager
def three_in_namespaces(name: str, lease_s: int, image: Path | None = None) -> Iterator[Cluster]:
    """Three nodes in namespaces, healthy, with machines' leases of ``lease_s``; gone when the block is over."""
    remove(name)
    try:
        options = Options(size=3, name=name, image=image, driver="namespaces", agent_ttl=f"{lease_s}s")
        yield up(options, Phases(sys.__stderr__)).cluster
    finally:
        remove(name)


@pytest.fixture(scope="module")
def cluster(redis_archive: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Such nodes for the tests of one module, run by what all of them need."""
    # Of the lab: whatever a node's console or journal says of trouble fails the test that it comes up in.
    with three_nodes(redis_archive, clusters_of(request.config).driver(request.node)) as cluster:
        yield cluster


@pytest.fixture
def fresh(redis_archive: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The same for one test alone, which may break what it likes."""
    with clusters_of(request.config).using(request.node) as factory:
        yield factory.make(cold=False, size=3, load=[redis_archive], agent_ttl=f"{TTL_S}s")


def prepared(options: Options) -> Cluster:
    """A cluster of ``options`` whose nodes are off, to be given seeds of their own; other commands take it for one that
    came up, and let it be.
    """
    phases = Phases(sys.__stderr__)
    with changing(Layout.of(options.name)):
        cluster = prepare(built(options, phases), phases)
        replace(cluster.description, ready=True).save(cluster.layout.description)
    return cluster


def settle(*nodes: Node) -> None:
    """Wait until the boot of each is over, well or not.

    Not by Readiness, which gives up when it hears of user-data that is broken.
    """
    for node in nodes:
        until(f"{node.name} has settled", partial(_is_settled, node), SETTLED_S, 0.2)


def _is_settled(node: Node) -> bool:
    return node.has_shell and node.root("systemctl is-system-running").out.strip() in ("running", "degraded")


def remove(name: str) -> None:
    """As ``cluster-down --name NAME``."""
    command = [str(Path(sys.executable).parent / "cluster-down"), "--name", name]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def fleetctl(cluster: Cluster) -> Fleetctl:
    """The command, aimed at the cluster."""
    return Fleetctl(cluster)

"""The pytest plugin: a fresh healthy cluster for each test, and a report of what happened to it.

``docs/testing.md`` is its manual.

    def test_web_survives(cluster, net):
        node = cluster.nodes[0]
        ...

pytest imports this module in every run, also without tests of clusters: it imports nothing of the cluster before a
fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cluster.client.cluster import Cluster
    from cluster.client.net import Net
    from cluster.testing.chaos import Chaos
    from cluster.testing.clusters import SessionClusters

CLUSTERS: pytest.StashKey[SessionClusters] = pytest.StashKey()

MARKERS = (
    "cluster(size=3, memory=1024, load=[], user_data=None, agent_ttl='30s', cold=False): the cluster that the test's fixture is to be",
    "needs(*words): what nodes must have of a machine, see docs/testing.md; needs() is nothing that nodes in namespaces have not",
    "waive(pattern, reason, until): do not fail for this text in the nodes' consoles and journals, until that day",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options, and the ini file's."""
    group = parser.getgroup("cluster", "clusters of virtual machines (docs/testing.md)")
    group.addoption("--cluster-image", metavar="DIR", help="a folder with a built image (built if missing)")
    group.addoption(
        "--cluster-driver",
        metavar="DRIVER",
        help="what runs nodes: qemu, libvirt, namespaces, or auto: what fits the test's needs (qemu)",
    )
    group.addoption("--cluster-size", metavar="N", type=int, help="nodes of a cluster, unless the test sets it (3)")
    group.addoption("--cluster-seed", metavar="N", type=int, help="seed of all chance (FLOTILLA_SEED, else a new one)")
    group.addoption("--cluster-cold", action="store_true", help="boot every cluster, restore none from a snapshot")
    group.addoption("--cluster-keep", action="store_true", help="leave the cluster of a failed test running")
    group.addoption("--cluster-report", metavar="FILE", help="write an HTML page with the timelines of all clusters")
    group.addoption("--cluster-waivers", metavar="FILE", help="known trouble of consoles and journals, in YAML")
    parser.addini("cluster_image", "as --cluster-image")
    parser.addini("cluster_driver", "as --cluster-driver")
    parser.addini("cluster_size", "as --cluster-size")
    parser.addini("cluster_waivers", "as --cluster-waivers; relative to the ini file")


def pytest_configure(config: pytest.Config) -> None:
    """Register our markers, and begin the page if one is requested."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    page = config.getoption("cluster_report")
    # A worker of pytest-xdist runs tests; their reports come together in the process that started it.
    if page is not None and not hasattr(config, "workerinput"):
        from cluster.report.session import Collector

        config.pluginmanager.register(Collector(Path(page)), "cluster-report")


def clusters_of(config: pytest.Config) -> SessionClusters:
    """The session's clusters; made at the first use."""
    if CLUSTERS not in config.stash:
        from cluster.testing.clusters import SessionClusters, Settings, plainly

        waivers = config.getoption("cluster_waivers")
        if waivers is None and (named := config.getini("cluster_waivers")):
            waivers = (config.inipath.parent if config.inipath else config.rootpath) / named
        image = config.getoption("cluster_image") or config.getini("cluster_image")
        settings = Settings(
            root=config.rootpath,
            image=Path(image) if image else None,
            driver=config.getoption("cluster_driver") or config.getini("cluster_driver") or "qemu",
            size=config.getoption("cluster_size") or int(config.getini("cluster_size") or 3),
            seed=config.getoption("cluster_seed"),
            cold=config.getoption("cluster_cold"),
            keep=config.getoption("cluster_keep"),
            waivers=Path(waivers) if waivers else None,
            report=config.getoption("cluster_report") is not None,
        )
        with plainly("pytest's options for clusters"):
            config.stash[CLUSTERS] = SessionClusters.open(settings)
    return config.stash[CLUSTERS]


# --- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A healthy cluster that is this test's alone: restored from a snapshot if it can be, else booted.

    See ``@pytest.mark.cluster``.
    """
    marker = request.node.get_closest_marker("cluster")
    with clusters_of(request.config).using(request.node) as factory:
        yield factory.make_marked(marker)


@pytest.fixture
def cold_cluster(request: pytest.FixtureRequest) -> Iterator[Callable[..., Cluster]]:
    """``cold_cluster(size=3, user_data=None, ...)`` boots one more cluster, which ends with the test.

    Options are the marker's.
    """
    with clusters_of(request.config).using(request.node) as factory:
        yield factory.boot


@pytest.fixture
def net(cluster: Cluster) -> Iterator[Net]:
    """The cluster's network: ``net.partition({1}, {2, 3})``. What the test leaves broken is healed."""
    yield cluster.net
    if cluster.is_running:
        cluster.net.heal()


@pytest.fixture
def chaos(cluster: Cluster, request: pytest.FixtureRequest) -> Chaos:
    """Faults at random on the test's cluster: ``with chaos.storm(seconds=60) as storm: ...``.

    The report has the seed.
    """
    from cluster.testing.chaos import Chaos

    return Chaos(cluster, clusters_of(request.config).seed)


# --- what happens around a test --------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that passed fails after all if its nodes have logged trouble."""
    result = yield
    if (clusters := item.config.stash.get(CLUSTERS, None)) is not None:
        clusters.adopt(item)
        if (trouble := clusters.trouble(item)) is not None:
            pytest.fail(trouble, pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the clusters' story into the report, while they are there."""
    report = yield
    if (clusters := item.config.stash.get(CLUSTERS, None)) is not None and call.when in ("setup", "call"):
        clusters.adopt(item)
        clusters.attach(item, report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which clusters were left running."""
    clusters = config.stash.get(CLUSTERS, None)
    if clusters is not None and clusters.kept:
        terminalreporter.section("clusters left running (--cluster-keep)")
        for line in clusters.kept:
            terminalreporter.write_line(line)

"""The clusters of one pytest session.

They are made for tests, watched while they run, and removed afterwards in any case.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import re
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypedDict, Unpack

import pytest

from cluster.client import cluster as clusters
from cluster.client.cluster import Cluster
from cluster.lifecycle.restore import up_cached
from cluster.lifecycle.up import Options, up
from cluster.machines.namespaces import requirements
from cluster.machines.process import Process
from cluster.model import timeline
from cluster.model.layout import Layout
from cluster.report import bars, evidence
from cluster.testing import needs, scan
from cluster.testing.waivers import Waiver, load, unwaived, waiver
from cluster.testing.watch import Watch
from terminal import Failure, UsageFailure
from terminal.failure import render

NAME = re.compile(r"pytest-(\d+)-\d+")


class Wanted(TypedDict, total=False):
    """Options of a test's cluster: those of its marker, but for ``cold``. Paths are relative to the test's folder."""

    size: int
    memory: int
    load: Sequence[str | Path]
    user_data: str | Path | None
    agent_ttl: str
    examples: bool


MARKER_OPTIONS = ("size", "memory", "load", "user_data", "agent_ttl", "cold", "examples")

WATCHES: pytest.StashKey[list[Watch]] = pytest.StashKey()
FAILED: pytest.StashKey[bool] = pytest.StashKey()
REPORTED: pytest.StashKey[bool] = pytest.StashKey()


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The session's options. ``root`` is pytest's root folder, ``report`` whether passed tests are reported, too."""

    root: Path
    image: Path | None = None
    driver: str = "qemu"
    size: int = 3
    seed: int | None = None
    cold: bool = False
    keep: bool = False
    waivers: Path | None = None
    report: bool = False


@dataclass(slots=True)
class SessionClusters:
    """See the module. Methods that take an ``item`` speak of the clusters of that test."""

    settings: Settings
    seed: int
    waivers: list[Waiver]
    kept: list[str] = field(default_factory=list)
    """For each cluster left running, how to attach to it."""
    _made: int = 0
    _foreign: dict[Path, Watch] = field(default_factory=dict)
    """The last watch of each cluster that is there for several tests."""

    @classmethod
    def open(cls, settings: Settings) -> SessionClusters:
        """A session's clusters; removes what a killed session left.

        Raises :class:`UsageFailure` for waivers that are invalid or expired.
        """
        waivers = load(settings.waivers) if settings.waivers is not None else []
        for each in waivers:
            each.require_valid(today())
        remove_orphans()
        return cls(settings, chosen_seed(settings.seed), waivers)

    @contextmanager
    def using(self, item: pytest.Item) -> Iterator[Factory]:
        """Make clusters in this block; they are gone after it, unless the test failed and they are to be kept."""
        with plainly("waivers"):
            self.waivers_of(item)  # a mistake in a marker is reported before minutes are spent
        factory = Factory(self, item)
        try:
            yield factory
        finally:
            for made in factory.made:
                if self.settings.keep and item.stash.get(FAILED, False):
                    made.layout.kept.touch()
                    made.close()
                    self.kept.append(f"{item.nodeid}: {attach(made)}")
                else:
                    with clusters.undisturbed():
                        made.remove()

    def driver(self, node: pytest.Item | pytest.Collector, wanted: Collection[str] | None = None) -> str:
        """What runs the nodes of a test, or of all tests in a module or session that share them.

        Raises :class:`UsageFailure`.

        ``wanted`` is what they need, where the tests' marks do not declare it.
        """
        items = [item for item in node.session.items if node in item.listchain()]
        needed = needs.of_all(items) if wanted is None else wanted
        return needs.driver(self.settings.driver, needed, requirements.lacks, node.nodeid)

    def next_name(self) -> str:
        """For a cluster: the process is in it, so that another session can see whether it is an orphan."""
        self._made += 1
        return f"pytest-{os.getpid()}-{self._made}"

    def adopt(self, item: pytest.Item) -> None:
        """Watch the clusters of fixtures that are not ours, too."""
        watches = item.stash.setdefault(WATCHES, [])
        known = {watch.cluster.layout.state for watch in watches}
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Cluster) and value.layout.state not in known:
                watch = self._foreign.get(value.layout.state, Watch(value, {}, {})).renewed()
                self._foreign[value.layout.state] = watch
                watches.append(watch)
                known.add(value.layout.state)

    def waivers_of(self, item: pytest.Item) -> list[Waiver]:
        """The project's waivers and those of the test's markers. Raises :class:`UsageFailure`."""
        own = [marked(marker, item.nodeid) for marker in item.iter_markers("waive")]
        for each in own:
            each.require_valid(today())
        return [*self.waivers, *own]

    def trouble(self, item: pytest.Item) -> str | None:
        """Findings in consoles and journals that are not waived, as the text of a failure; None if there are none."""
        findings = [found for watch in item.stash[WATCHES] for found in watch.look()]
        left = unwaived(findings, self.waivers_of(item), item.nodeid)
        if not left:
            return None
        text = "\n\n".join(map(str, left))
        return (
            f"{len(left)} signs of trouble on the nodes "
            f'(waive one with @pytest.mark.waive("pattern", reason=..., until=...)):\n\n{text}'
        )

    def attach(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Put the clusters' story into ``report``, and note whether the test failed."""
        watches = item.stash.get(WATCHES, [])
        if report.failed:
            item.stash[FAILED] = True
        if not watches or item.stash.get(REPORTED, False) or not (report.failed or report.when == "call"):
            return
        item.stash[REPORTED] = True
        provenance = evidence.provenance(watches[0].cluster, self.settings.root)
        facts = {"seed": str(self.seed), **provenance, "reproduce": self.reproduce(item)}
        item.user_properties.extend((f"flotilla.{name}", value) for name, value in facts.items())
        if not (report.failed or self.settings.report):
            return
        stories = []
        for watch in watches:
            events = timeline.read(watch.cluster.layout.timeline)
            findings = watch.look()
            nodes = evidence.gather(watch.cluster) if report.failed else []
            stories.append(story(watch, events, findings, nodes))
            if report.failed:
                begin = call_begin(report)
                report.sections.append((f"cluster {watch.cluster.name}", self.summary(item, watch, facts)))
                report.sections.append((f"timeline of {watch.cluster.name}", bars.text(events, begin)))
                report.sections.extend((f"{node.name} of {watch.cluster.name}", node.section()) for node in nodes)
                if findings:
                    report.sections.append((f"scan of {watch.cluster.name}", "\n".join(map(str, findings))))
        # Travels with the report, to the process that writes the page.
        vars(report)["cluster_story"] = {"facts": facts, "clusters": stories}

    def summary(self, item: pytest.Item, watch: Watch, facts: dict[str, str]) -> str:
        """The first thing to read of a failure: the facts, and the commands to go on with."""
        lines = [f"{name + ':':13}{value}" for name, value in facts.items()]
        lines.append(
            f"{'attach:':13}{attach(watch.cluster) if self.settings.keep else self.reproduce(item, keep=True)}"
        )
        folders = [
            watch.cluster.layout.state,
            *(value for value in vars(item).get("funcargs", {}).values() if isinstance(value, Path)),
        ]
        pcaps = sorted({path for folder in folders for path in folder.rglob("*.pcap")})
        lines += [f"{'pcap:':13}{path}" for path in pcaps]
        return "\n".join([*lines, *(f"{'not read:':13}{trouble}" for trouble in watch.unread)])

    def reproduce(self, item: pytest.Item, *, keep: bool = False) -> str:
        """The command that runs this test again as it was."""
        # With "=": of a path that stands alone pytest would make a place to look for its ini file.
        image = [f"--cluster-image={self.settings.image}"] if self.settings.image else []
        cold = ["--cluster-cold"] if self.settings.cold else []
        driver = [f"--cluster-driver={self.settings.driver}"] if self.settings.driver != "qemu" else []
        options = [f"--cluster-seed={self.seed}", *image, *driver, *cold, *(["--cluster-keep"] if keep else [])]
        return shlex.join(["pytest", *options, item.nodeid])


@dataclass(slots=True)
class Factory:
    """Makes the clusters of one test."""

    clusters: SessionClusters
    item: pytest.Item
    made: list[Cluster] = field(default_factory=list)

    def make_marked(self, marker: pytest.Mark | None) -> Cluster:
        """The cluster that the test's ``@pytest.mark.cluster`` asks for. Raises :class:`Failure`."""
        if marker is not None and marker.args:
            with plainly("no cluster for this test"):
                raise UsageFailure("the marker takes options by name", where=self.item.nodeid, hint="cluster(size=3)")
        wanted = dict(marker.kwargs) if marker is not None else {}
        return self.make(cold=wanted.pop("cold", self.clusters.settings.cold), **wanted)

    def boot(self, **wanted: Unpack[Wanted]) -> Cluster:
        """A cluster that is booted. Raises :class:`Failure`."""
        return self.make(cold=True, **wanted)

    def make(self, *, cold: bool, **wanted: Unpack[Wanted]) -> Cluster:
        """A cluster with the options of the marker. Raises :class:`Failure`."""
        with plainly("no cluster for this test"):
            made = (up if cold else up_cached)(self.options(**wanted)).cluster
        self.made.append(made)
        self.item.stash.setdefault(WATCHES, []).append(Watch.begun(made))
        return made

    def options(self, **wanted: Unpack[Wanted]) -> Options:
        """The options for ``up``. Raises :class:`UsageFailure` for unknown ones."""
        if unknown := sorted(wanted.keys() - set(MARKER_OPTIONS)):
            raise UsageFailure(
                f"a test's cluster has no option {unknown[0]!r}",
                where=self.item.nodeid,
                hint=f"it has: {', '.join(MARKER_OPTIONS)}",
            )
        user_data = wanted.get("user_data")
        folder = self.item.path.parent
        made = Options(
            name=self.clusters.next_name(),
            size=wanted.get("size", self.clusters.settings.size),
            image=self.clusters.settings.image,
            load_images=tuple(folder / path for path in wanted.get("load", ())),
            user_data=None if user_data is None else folder / user_data,
            examples=wanted.get("examples", False),
            driver=self.clusters.driver(self.item),
        )
        if "memory" in wanted:
            made = replace(made, memory_mib=wanted["memory"])
        return replace(made, agent_ttl=wanted["agent_ttl"]) if "agent_ttl" in wanted else made


@contextmanager
def plainly(doing: str) -> Iterator[None]:
    """Report a :class:`Failure` of the block as a command would: what, where, why, what next; without a traceback."""
    try:
        yield
    except Failure as trouble:
        raise pytest.fail.Exception(render(trouble, doing), pytrace=False) from None


def story(
    watch: Watch, events: list[timeline.Event], findings: Sequence[scan.Finding], nodes: list[evidence.NodeEvidence]
) -> dict[str, object]:
    """One cluster's part of a test's story: data of JSON's kinds."""
    return {
        "name": watch.cluster.name,
        "nodes": [node.name for node in watch.cluster.nodes],
        "events": [{**asdict(event), "nodes": list(event.nodes)} for event in events],
        "findings": [{**asdict(found), "context": list(found.context)} for found in findings],
        "evidence": [asdict(node) for node in nodes],
    }


def attach(cluster: Cluster) -> str:
    """The command that looks into a running cluster."""
    return f"cluster ssh node-1 --name {cluster.name}   (and in the end: cluster down --name {cluster.name})"


def marked(marker: pytest.Mark, where: str) -> Waiver:
    """The waiver of a ``@pytest.mark.waive``. Raises :class:`UsageFailure`."""
    pattern = marker.args[0] if len(marker.args) == 1 else marker.kwargs.get("pattern")
    return waiver(pattern, marker.kwargs.get("reason"), marker.kwargs.get("until"), where)


def chosen_seed(wanted: int | None) -> int:
    """``--cluster-seed``, else ``FLOTILLA_SEED``, else a new one. Raises :class:`UsageFailure`."""
    if wanted is not None:
        return wanted
    named = os.environ.get("FLOTILLA_SEED")
    if named is None:
        return random.SystemRandom().getrandbits(32)
    try:
        return int(named)
    except ValueError:
        raise UsageFailure(f"FLOTILLA_SEED={named} is no number", hint="FLOTILLA_SEED=7") from None


def today() -> dt.date:
    """This computer's day."""
    return dt.datetime.now().astimezone().date()


def call_begin(report: pytest.TestReport) -> float:
    """When the test's own code began, in seconds since 1970."""
    return report.start if report.start else time.time()


def remove_orphans() -> None:
    """Remove the clusters of sessions that were killed; those that a person kept stay."""
    for name in Cluster.names():
        named = NAME.fullmatch(name)
        layout = Layout.of(name)
        if named is None or layout.kept.exists() or Process.of(int(named[1])) is not None:
            continue
        with suppress(Failure), clusters.changing(layout):  # another session may be at it
            clusters.remove(layout)

"""Taking snapshots of clusters and making clusters from them: what takes a minute to boot is back in seconds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path

from cluster.client import cluster as clusters
from cluster.client.cluster import Cluster
from cluster.lifecycle import ports, preflight, provision, snapshot
from cluster.lifecycle.readiness import Readiness
from cluster.lifecycle.snapshot import Snapshot
from cluster.lifecycle.up import Options, Outcome, built, machinery, up
from cluster.machines.process import Process
from cluster.model.description import Description
from cluster.model.layout import Layout
from cluster.model.protocol import Restore, Save
from terminal import Failure, Phases

SAVE_DEADLINE_S = 300.0
"""For writing the memory of all nodes; a disk may be slow."""


def take(cluster: Cluster, tag: str, phases: Phases) -> Snapshot:
    """Make the snapshot ``tag`` of a running cluster, which goes on.

    A former one of this tag is replaced. Raises :class:`Failure`.
    """
    cluster.require_running()
    layout, description = cluster.layout, cluster.description
    with phases.phase(f"snapshot {tag!r} of cluster {cluster.name!r}"):
        try:
            with snapshot.making(tag) as part:
                cluster.ask(Save(str(part)), deadline_s=SAVE_DEADLINE_S)
                snapshot.write(part, tag, description, layout)
        except OSError as error:
            raise Failure(f"the snapshot cannot be written: {error.strerror}", where=str(snapshot.root())) from error
    return Snapshot.open(tag)


def restore(tag: str, name: str, phases: Phases) -> Cluster:
    """Make the cluster ``name`` from the snapshot ``tag``; returns when it is healthy, with its clocks right.

    A cluster of that name is replaced if the snapshot was made of it. Raises :class:`Failure`, and leaves nothing
    half-made then.
    """
    found = Snapshot.open(tag)
    found.require_match()
    layout = Layout.of(name)
    with clusters.changing(layout):
        former = _former(found, layout)
        _require_room(found, layout)
        if layout.state.exists():
            with phases.phase(f"removing cluster {layout.state.name!r} as it is"):
                clusters.remove(layout)
        return _restore(found, name, layout, former, phases)


def _former(found: Snapshot, layout: Layout) -> Description | None:
    """What is there under this name already, and may be replaced. Raises :class:`Failure` if it may not."""
    if not layout.state.exists():
        return None
    former = Cluster.open(layout.state.name).description if layout.description.exists() else None
    if former is not None and former.ready and found.description.name != former.name:
        raise Failure(
            f"cluster {former.name!r} exists, and snapshot {found.tag!r} was not made of it "
            f"but of {found.description.name!r}",
            hint=f"cluster-down --name {former.name} removes it; or restore under another name: --name OTHER",
        )
    return former


def _require_room(found: Snapshot, layout: Layout) -> None:
    """Raise :class:`Failure` unless there is memory and disk space for what is restored.

    What the replaced cluster frees counts, too.
    """
    memory_mib, room = preflight.free_memory_mib(), preflight.free_disk_bytes(layout.state)
    if layout.description.exists():
        memory_mib += _memory_bytes(Cluster.open(layout.state.name)) // preflight.MIB
        room += sum(path.lstat().st_blocks * 512 for path in layout.state.rglob("*"))
    description = found.description
    preflight.require_memory(description.size, description.memory_mib, description.accelerator.name, memory_mib)
    preflight.require_room(layout.state, snapshot.room_bytes(found), room)


def _memory_bytes(cluster: Cluster) -> int:
    """What its machines hold; 0 of one that does not answer any more."""
    try:
        pids = [node["pid"] for node in cluster.status()["nodes"]]
    except Failure:
        return 0
    found = [Process.of(pid) for pid in pids if pid is not None]
    return sum(process.memory_bytes for process in found if process is not None)


def _restore(found: Snapshot, name: str, layout: Layout, former: Description | None, phases: Phases) -> Cluster:
    try:
        with phases.phase(f"preparing {found.description.size} nodes of snapshot {found.tag!r}"):
            with clusters.choosing_ports():
                description = _describe(found.description, name, layout, former)
                cluster = Cluster.create(layout, description)
            snapshot.install(found, description, layout)
            cluster.launch()
        with phases.phase("restoring"):
            cluster.ask(Restore(str(found.folder)), deadline_s=SAVE_DEADLINE_S)
        with Readiness(cluster.nodes, cluster.description.size, cluster.ask, phases) as readiness:
            with phases.phase("setting clocks"):
                readiness.wait_shell()
                step_clocks(cluster)
            with phases.phase("waiting for health"):
                readiness.wait_etcd()
                readiness.wait_fleet()
        ready = dataclasses.replace(description, ready=True)
        ready.save(layout.description)
        return Cluster(layout, ready)
    except BaseException:
        with clusters.undisturbed():
            clusters.remove(layout)
        raise


def up_cached(options: Options, phases: Phases | None = None) -> Outcome:
    """Like :func:`cluster.lifecycle.up.up`, from a snapshot of a cluster that was made of the same parts.

    If there is none, it boots and makes one.

    The parts are the image, its containers, the template, QEMU's build and the nodes' ``options``. A snapshot that
    cannot be restored after all is reported and made again. Raises what ``up`` raises.
    """
    phases = phases if phases is not None else Phases()
    options.validate()
    if options.driver != "qemu":
        if options.driver != "namespaces":  # whose boot takes hardly longer
            phases.line("booting, since snapshots of memory need the qemu driver")
        return up(options, phases)
    if Layout.of(options.name).state.exists():
        return up(options, phases)  # it is there: running, stopped, or a torso
    options = built(options, phases)
    tag = automatic_tag(options)
    if tag in snapshot.tags():
        try:
            return Outcome(restore(tag, options.name, phases), True, dict(phases.seconds))
        except Failure as failure:
            phases.line(f"booting, since the snapshot cannot be restored: {failure}")
    outcome = up(options, phases)
    take(outcome.cluster, tag, phases)
    snapshot.forget_old_automatic()
    return outcome


def automatic_tag(options: Options) -> str:
    """The tag of the snapshot of a cluster of ``options``: a hash of all its parts.

    Its image and containers are built.
    """
    _, chosen = machinery(options, Phases(quiet=True))
    assert options.image is not None  # see built()
    made_of = [
        snapshot.machinery(options.arch, chosen.name, options.memory_mib),
        snapshot.image_hash(options.image),
        provision.template_text(options.user_data),
        options.agent_ttl,
        options.size,
        options.datasource,
        str(options.files),
        [_file_hash(path) for path in options.load_images],
    ]
    return snapshot.AUTOMATIC + hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def step_clocks(cluster: Cluster) -> None:
    """Set every node's clock to this computer's: it resumes where it stood when the snapshot was made."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(cluster.nodes)) as executor:
        list(executor.map(lambda node: node.clock_set(time.time()), cluster.nodes))


def _describe(of: Description, name: str, layout: Layout, former: Description | None) -> Description:
    if former is not None and former.size == of.size:
        wanted = [*former.ssh_ports, former.discovery_port]  # so that what was exported for it stays true
    else:
        wanted = ports.choose(of.size + 1, Cluster.reserved_ports())
    return dataclasses.replace(
        of,
        name=name,
        runtime=str(layout.runtime),
        ssh_ports=tuple(wanted[:-1]),
        discovery_port=wanted[-1],
        ready=False,
    )

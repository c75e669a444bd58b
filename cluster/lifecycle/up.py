"""From nothing to N nodes of one cluster, phase by phase; what fails or is interrupted leaves nothing behind."""

from __future__ import annotations

import dataclasses
import tarfile
from dataclasses import dataclass
from pathlib import Path

from builder.core.architecture import HOST, suffix
from cluster.client import cluster as clusters
from cluster.client.cluster import Cluster
from cluster.lifecycle import certificates, ports, preflight, provision, readiness
from cluster.lifecycle.preflight import MEMORY_MIB_MAX, MEMORY_MIB_MIN
from cluster.lifecycle.readiness import Readiness
from cluster.machines import probe, qemu
from cluster.machines.namespaces import requirements
from cluster.model import connection_uri
from cluster.model.accelerator import Accelerator
from cluster.model.description import Description
from cluster.model.layout import Layout, cache_root
from cluster.model.machine import DATASOURCES, NODES_MAX
from cluster.model.protocol import NewToken
from fleet.config import duration
from terminal import Failure, Phases, UsageFailure

AGENT_TTL_S_MAX = 86400
"""A lease of etcd counts whole seconds; fleetd refuses more than a day."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a caller may choose; the defaults are what ``cluster-up N`` does."""

    size: int
    name: str = "default"
    image: Path | None = None
    """A folder with a built image; None builds it if it is missing or stale."""
    user_data: Path | None = None
    """A template for user-data instead of the packaged one."""
    load_images: tuple[Path, ...] = ()
    """docker-archives given to every node's docker."""
    examples: bool = False
    """Build what units/examples runs in containers, and give that to every node's docker, too."""
    memory_mib: int = 1024
    accel: str = "auto"
    arch: str = HOST
    """Debian's name of the nodes' architecture; another one than this computer's is emulated."""
    ssh_port: int | None = None
    discovery_port: int | None = None
    agent_ttl: str = "30s"
    datasource: str = "nocloud"
    """Where nodes take their user-data from, see :data:`cluster.model.machine.DATASOURCES`."""
    files: Path | None = None
    """A folder that nodes may read over HTTP."""
    driver: str = "qemu"
    """What runs the nodes: "qemu", "libvirt" or "namespaces"."""
    connect: tuple[str, ...] = ()
    """libvirt's URIs (``docs/libvirt.md``), to which the nodes are dealt in turn; none is this user's session."""
    keep: bool = False
    """Leave a cluster that failed to come up as it is, to look at it."""

    def validate(self) -> None:
        """Raise :class:`UsageFailure` for invalid values: here, and not when nodes have booted."""
        if not 1 <= self.size <= NODES_MAX:
            raise UsageFailure(f"a cluster has 1 to {NODES_MAX} nodes, not {self.size}", hint="cluster-up 3")
        if not MEMORY_MIB_MIN <= self.memory_mib <= MEMORY_MIB_MAX:
            raise UsageFailure(f"--memory {self.memory_mib}: from {MEMORY_MIB_MIN} to {MEMORY_MIB_MAX} MiB a node")
        if self.accel == "kvm" and self.arch != HOST:
            raise UsageFailure(f"KVM runs {HOST} nodes only, not {self.arch}", where="--accel kvm", hint="leave it out")
        if self.connect and self.driver != "libvirt":
            raise UsageFailure("only libvirt connects", where=f"--connect {self.connect[0]}", hint="--driver libvirt")
        for uri in self.connect:
            connection_uri.parse(uri)
        if self.driver == "namespaces" and self.arch != HOST:
            hint = "--driver qemu emulates it"
            raise UsageFailure(f"this computer's kernel runs {HOST} nodes only", where=f"--arch {self.arch}", hint=hint)
        if self.driver == "namespaces" and self.accel != "auto":
            hint = "leave it out, or --driver qemu"
            raise UsageFailure("nodes in namespaces need no accelerator", where=f"--accel {self.accel}", hint=hint)
        _validate_ttl(self.agent_ttl)
        if self.user_data is not None and not self.user_data.is_file():
            raise Failure("no such file", where=f"--user-data {self.user_data}")
        if self.datasource not in DATASOURCES:
            raise UsageFailure(f"--datasource {self.datasource}: there are {', '.join(DATASOURCES)}")
        if self.files is not None and not self.files.is_dir():
            raise Failure("no such folder", where=f"--files {self.files}")
        for archive in self.load_images:
            require_archive(archive)
        if self.image is not None:
            preflight.require_image(self.image)
            preflight.require_architecture(self.image, self.arch)

    @property
    def connections(self) -> tuple[str, ...]:
        """The effective URIs; none for another driver."""
        return (self.connect or (connection_uri.SESSION,)) if self.driver == "libvirt" else ()


def _validate_ttl(text: str) -> None:
    try:
        seconds = duration(text)
    except ValueError:
        raise UsageFailure(f"--agent-ttl {text!r} is no duration", hint="a number and a unit: 30s, 2m") from None
    if not 1 <= seconds <= AGENT_TTL_S_MAX:
        raise UsageFailure(f"--agent-ttl {text}: from 1s to 24h")


def require_archive(path: Path) -> None:
    """Raise :class:`Failure` if ``path`` cannot be read, and :class:`UsageFailure` unless it is a tar file.

    A docker-archive is one, compressed or not.
    """
    hint = "'osbuild container' makes a docker-archive, 'docker save' too"
    try:
        if tarfile.is_tarfile(path):
            return
    except OSError as error:
        raise Failure(error.strerror or "cannot be read", where=str(path), hint=hint) from None
    raise UsageFailure("this is no docker-archive: not a tar file", where=str(path), hint=hint)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A cluster that is up, whether this call changed anything for it, and the seconds of each phase."""

    cluster: Cluster
    changed: bool
    seconds: dict[str, float]


def up(options: Options, phases: Phases | None = None) -> Outcome:
    """Bring the cluster ``options.name`` up: make it, boot a stopped one again, or find that it is up.

    Raises :class:`Failure` and KeyboardInterrupt. In both cases, all that this call made is removed, unless
    ``options.keep``.
    """
    phases = phases if phases is not None else Phases()
    options.validate()
    layout = Layout.of(options.name)
    with clusters.changing(layout):
        cluster = _existing(options, layout, phases)
        if cluster is not None and cluster.is_running:
            return Outcome(cluster, False, {})
        if cluster is None:
            cluster = _make(options, layout, phases)
        else:
            _resume(cluster, options, phases)
        return Outcome(cluster, True, dict(phases.seconds))


def _existing(options: Options, layout: Layout, phases: Phases) -> Cluster | None:
    cluster = Cluster.open(options.name) if layout.description.exists() else None
    if cluster is None or not cluster.description.ready:
        if layout.state.exists():
            phases.line(f"removing what an interrupted cluster-up of {options.name!r} left")
            clusters.remove(layout)
        return None
    if cluster.description.size != options.size:
        raise Failure(
            f"cluster {options.name!r} exists and has {cluster.description.size} nodes, not {options.size}",
            hint=f"cluster-down --name {options.name} removes it; --name OTHER makes another one beside it",
        )
    wanted, there = (options.driver, options.connections), (cluster.description.driver, cluster.description.connect)
    if options.driver != "qemu" and wanted != there:
        by = " ".join([cluster.description.driver, *cluster.description.connect])
        raise Failure(
            f"cluster {options.name!r} exists and is run by {by}",
            hint=f"cluster-down --name {options.name} removes it; --name OTHER makes another one beside it",
        )
    if cluster.description.architecture != options.arch:
        raise Failure(
            f"cluster {options.name!r} exists and is {cluster.description.architecture}, not {options.arch}",
            hint=f"cluster-down --name {options.name} removes it; --name OTHER makes another one beside it",
        )
    return cluster


def _make(options: Options, layout: Layout, phases: Phases) -> Cluster:
    try:
        machinery(options, Phases(quiet=True))  # a lack of QEMU or memory is reported before a long build
        options = built(options, phases)
        cluster = prepare(options, phases)
        _boot(cluster, options, phases)
        ready = dataclasses.replace(cluster.description, ready=True)
        ready.save(layout.description)
        return Cluster(layout, ready)
    except BaseException:
        if options.keep and layout.state.exists():
            layout.kept.touch()
            phases.line(f"kept as it is: {layout.state}; cluster-down --name {options.name} removes it")
        else:
            with clusters.undisturbed():
                clusters.remove(layout)
        raise


def prepare(options: Options, phases: Phases) -> Cluster:
    """A new cluster of ``options``, which are :func:`built`: provisioned and supervised, its nodes off.

    Raises :class:`Failure`.
    """
    assert options.image is not None  # see built()
    layout = Layout.of(options.name)
    with phases.phase("preparing"):
        program, chosen = machinery(options, phases)
        with clusters.choosing_ports():
            description = _describe(options, layout, program, chosen)
            cluster = Cluster.create(layout, description)
    with phases.phase("provisioning"):
        room = preflight.free_disk_bytes(layout.state)
        preflight.require_disk(layout.state, options.size, preflight.require_image(options.image), room)
        provision.install_image(options.image, layout.image)
        public_key = provision.make_key(layout)
        description = dataclasses.replace(
            description, services_fingerprint=certificates.make_services(layout.services_certificate)
        )
        description.save(layout.description)
        cluster = Cluster(layout, description)
        cluster.launch()
        token = cluster.ask(NewToken(description.members))
        provision.provision(description, layout, template=options.user_data, token=token, public_key=public_key)
        provisioned = dataclasses.replace(
            description,
            token=token,
            template="" if options.user_data is None else provision.template_text(options.user_data),
            load_images=tuple(str(path.absolute()) for path in options.load_images),
        )
        provisioned.save(layout.description)
    return Cluster(layout, provisioned)


def _resume(cluster: Cluster, options: Options, phases: Phases) -> None:
    phases.line(f"cluster {cluster.name!r} is stopped; booting it again with its disks")
    try:
        with phases.phase("preparing"):
            description = cluster.description
            kind, count = (
                description.accelerator.name,
                connection_uri.count_here(description.connect, description.numbers),
            )
            preflight.require_memory(count, description.memory_mib, kind, preflight.free_memory_mib())
            for port in (*description.ssh_ports, description.discovery_port):
                ports.insist(port, 1, f"the port of cluster {cluster.name!r}", ())
            cluster.launch()
        _boot(cluster, options, phases)
    except BaseException:
        if not options.keep:
            with clusters.undisturbed():
                clusters.end_processes(cluster.layout)
        raise


def machinery(options: Options, phases: Phases) -> tuple[qemu.Qemu, Accelerator]:
    """The QEMU and the accelerator for ``options``.

    Raises :class:`Failure` if none is suitable, or if there is too little memory.
    """
    if options.driver == "libvirt":
        program, chosen = _machinery_of_places(options, phases)
    elif options.driver == "namespaces":
        requirements.require()
        # The services on the segment are behind QEMU's network stack, whatever the nodes are.
        program, chosen = qemu.find(), requirements.KERNEL
        preflight.require_memory(options.size, options.memory_mib, chosen.name, preflight.free_memory_mib())
    else:
        program, chosen = _machinery_here(options, phases)
        preflight.require_memory(options.size, options.memory_mib, chosen.name, preflight.free_memory_mib())
    if chosen.name == "tcg" and options.accel == "auto":
        phases.line(f"nodes are emulated, which is slow: {chosen.reason}")
    return program, chosen


def _machinery_here(options: Options, phases: Phases) -> tuple[qemu.Qemu, Accelerator]:
    program = qemu.find(architecture=options.arch)
    phases.detail("probing the accelerator")
    foreign = options.arch != HOST
    # Only a guest of this computer's own architecture shows how slow emulation is here: the probe is one.
    chosen = probe.remembered(
        qemu.find() if foreign else program, cache_root() / "accelerator.json", "tcg" if foreign else options.accel
    )
    if foreign:
        program.require("tcg")
        chosen = dataclasses.replace(chosen, reason=f"{options.arch} is not this computer's architecture")
    return program, chosen


def _machinery_of_places(options: Options, phases: Phases) -> tuple[qemu.Qemu, Accelerator]:
    """What all computers on which libvirt is to run nodes have in common.

    The QEMU is this computer's, if this is one of them.
    """
    from cluster.machines import hosts

    found = []
    for index, uri in enumerate(options.connections):
        place = connection_uri.parse(uri)
        phases.detail(f"looking at {uri}")
        if place.is_local:
            there = hosts.Found(*_machinery_here(options, phases), preflight.free_memory_mib())
        else:
            there = hosts.survey(place, options.arch, options.accel)
        hosts.require_connection(place)
        count = hosts.share(options.size, len(options.connections), index)
        kind, where = there.accelerator.name, place.host or None
        preflight.require_memory(count, options.memory_mib, kind, there.free_memory_mib, where=where)
        if there.free_disk_bytes is not None:
            folder = Path(f"{place.host}:{there.folder}")
            preflight.require_disk(folder, count, 0, there.free_disk_bytes)
        found.append((place, there))
    program = next((there.qemu for place, there in found if place.is_local), found[0][1].qemu)
    return program, hosts.common([there.accelerator for _, there in found])


def _describe(options: Options, layout: Layout, program: qemu.Qemu, chosen: Accelerator) -> Description:
    reserved = Cluster.reserved_ports()
    if options.ssh_port is not None:
        ssh = ports.insist(options.ssh_port, options.size, "--ssh-port", reserved)
    else:
        ssh = ports.choose(options.size, reserved | {options.discovery_port or 0})
    if options.discovery_port is not None:
        discovery = ports.insist(options.discovery_port, 1, "--discovery-port", reserved | set(ssh))[0]
    else:
        discovery = ports.choose(1, reserved | set(ssh))[0]
    return Description(
        name=options.name,
        runtime=str(layout.runtime),
        qemu=str(program.path),
        accelerator=chosen,
        memory_mib=options.memory_mib,
        ssh_ports=tuple(ssh),
        discovery_port=discovery,
        agent_ttl=options.agent_ttl,
        architecture=options.arch,
        datasource=options.datasource,
        files=None if options.files is None else str(options.files.absolute()),
        driver=options.driver,
        connect=options.connections,
    )


def built(options: Options, phases: Phases) -> Options:
    """``options`` with every part of the cluster built: the image, and the example's container if it is wanted."""
    options = dataclasses.replace(options, image=_image(options, phases))
    if not options.examples:
        return options
    return dataclasses.replace(
        options, load_images=(*options.load_images, _example(options.arch, phases)), examples=False
    )


def _example(arch: str, phases: Phases) -> Path:
    """The docker-archive that units/examples/redis.service asks for, built if it is missing or stale."""
    from builder.core import data
    from builder.pipeline.build import build_container
    from builder.pipeline.order import Settings

    output = _built(f"container/redis{suffix(arch)}")
    settings = Settings(
        definition=data.image() / "containers" / "redis.yaml",
        output=output,
        architecture=arch,
        phases=phases,
    )
    phases.line(f"docker image of the example ({arch}): {output}")
    return build_container(settings).directory / "redis.tar"


def _built(name: str) -> Path:
    """Where `osbuild` in the checkout puts it; an installed wheel has no such place."""
    from builder.core import data

    checkout = data.checkout()
    return checkout / "build" / name if checkout is not None else cache_root() / "images" / name


def _image(options: Options, phases: Phases) -> Path:
    if options.image is not None:
        return options.image.absolute()
    from builder.pipeline.build import build_image
    from builder.pipeline.order import Settings

    output = _built(f"qemu{suffix(options.arch)}")
    settings = Settings(target="qemu", output=output, architecture=options.arch, phases=phases)
    phases.line(f"node image ({options.arch}): {output}")
    return build_image(settings).directory


def _boot(cluster: Cluster, options: Options, phases: Phases) -> None:
    count = f"{cluster.description.size} nodes" if cluster.description.size > 1 else "1 node"
    try:
        with phases.phase(f"starting {count}"):
            for node in cluster.nodes:
                phases.detail(node.name)
                node.start()
        with Readiness(cluster.nodes, cluster.description.size, cluster.ask, phases) as ready:
            with phases.phase("waiting for a root shell"):
                ready.wait_shell()
            with phases.phase("waiting for ssh"):
                ready.wait_ssh()
            with phases.phase("waiting for etcd"):
                ready.wait_etcd()
            with phases.phase(f"waiting for fleet to list {count}"):
                ready.wait_fleet()
        for archive in options.load_images:
            with phases.phase(f"loading {archive.name} on {count}"):
                load(cluster, archive)
    except readiness.NotReady as failure:
        phases.line(readiness.explain(failure.node, cluster.description.accelerator.factor))
        raise
    finally:
        cluster.close()


def load(cluster: Cluster, archive: Path) -> list[str]:
    """Give a docker-archive to every node's docker, all at once; returns what each printed. Raises :class:`Failure`."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(len(cluster.nodes)) as executor:
        return list(executor.map(lambda node: node.load_image(archive), cluster.nodes))

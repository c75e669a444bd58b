"""From a definition to a folder: the order of everything that ``osbuild image`` and ``osbuild container`` do.

    definition + lock -> packages -> tree -> filesystem + kernel + initrd -> target

Each arrow is a module of its own; this one only calls them in turn and says to the store what is worth keeping.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from builder import (
    architecture,
    assemble,
    budget,
    cache,
    data,
    definition,
    filelist,
    filesystem,
    initrd,
    inputs,
    manifest,
    mirror,
    offline,
    output,
    resolve,
    sbom,
    sizes,
    timings,
    verity,
)
from builder.boot import BootFiles
from builder.deb import Package
from builder.definition import Definition
from builder.lockfile import Lock
from builder.mirror import Mirror
from builder.packages import obtain
from builder.store import Store, identify
from builder.targets import TARGETS, ContainerTarget, Contents, Parts, Target
from builder.tools import Tools, our_lock
from builder.tree import Tree
from terminal import Failure, Phases, Span

ROOM_FACTOR: Final = 8
"""Free space that a build must find before it begins, by the size of its packages: a node's unpack to five times their size, and what is made
of them takes two to three times."""

ROOM_BYTES: Final = 64 << 20
"""The same, for whatever else is written."""


MIXED: Final = "inputs changed during the build"
"""In place of a build's id, when there is no telling what went into it."""
NODE: Final = "qemu"
"""The target of a node, if none is named."""
CONTAINER: Final = "container"
"""And that of a container."""


@dataclass(frozen=True)
class Settings:
    """What a caller may choose; the defaults are what ``osbuild image`` does without options, so the target is
    the usual one of what is defined.

    ``offline`` builds from the store alone. ``cache`` says what becomes of packages unpacked and steps done by former builds: they are used; or all is made
    anew (and the output, too, if it is up to date) and replaces them, or replaces nothing. Downloads and tools are kept in any case.
    """

    definition: Path | None = None
    target: str | None = None
    output: Path | None = None
    store: Path | None = None
    mirror: str | None = None
    snapshot: str | None = None
    architecture: str | None = None
    release: bool = False
    force: bool = False
    offline: bool = False
    cache: Literal["use", "replace", "ignore"] = "use"
    phases: Phases = field(default_factory=Phases)


@dataclass(frozen=True)
class BuildResult:
    """Where the artifacts are, whether this call made them, and the seconds of each phase, of all together, and all that was timed."""

    directory: Path
    changed: bool
    seconds: dict[str, float]
    spans: tuple[Span, ...] = ()
    total: float = 0.0


def build_image(settings: Settings) -> BuildResult:
    """Build a node image, or a container if that is what the definition is of, for a target.

    Raises :class:`Failure` for a definition or lock that is broken or out of step, a target that is not for it, a package that cannot be fetched or
    is not what the lock says, a tool that fails, a full disk. Whatever was in the output folder before is then still there.
    """
    path = settings.definition or data.image() / "node.yaml"
    what = definition.load(path, settings.architecture)
    target = target_of(settings, what, path)
    deliver = (
        _deliver_container(what, target)
        if isinstance(target, ContainerTarget)
        else _deliver_image(what, target, settings)
    )
    return _build(settings, path, what, folder_name(what, target), kind_of(settings, what, target), deliver)


def build_container(settings: Settings) -> BuildResult:
    """Build a container from a definition with a ``container`` section; failures as :func:`build_image`."""
    if settings.definition is None:
        raise Failure("which container?", hint="osbuild container image/containers/redis.yaml")
    return build_image(replace(settings, target=settings.target or CONTAINER))


def target_of(settings: Settings, what: Definition, path: Path) -> Target | ContainerTarget:
    """The target that ``settings`` name, or the usual one for what is defined. Raises :class:`Failure` if it cannot be made of that."""
    name = settings.target or (CONTAINER if what.container is not None else NODE)
    target = TARGETS.get(name)
    if target is None:
        raise Failure(f"there is no target {name!r}", hint="targets: " + ", ".join(TARGETS))
    if isinstance(target, ContainerTarget):
        if what.container is None:
            raise Failure(
                "this definition has no 'container' section", where=str(path), hint=f"use --target {NODE} for a node"
            )
    elif what.kernel is None or what.root is None:
        if what.container is None:
            raise Failure(
                "this definition has neither a root nor a container",
                where=str(path),
                hint="give it one: docs/definition.md has every key",
            )
        raise Failure(
            "this definition has no kernel and no root", where=str(path), hint=f"use --target {CONTAINER} for it"
        )
    return target


_Deliver = Callable[["_Job", Path, Path], "_Delivered"]


def _deliver_image(what: Definition, target: Target, settings: Settings) -> _Deliver:
    kernel, root = what.kernel, what.root
    assert kernel is not None  # as target_of made sure
    assert root is not None
    options = root.release if settings.release else root.fast

    def deliver(job: _Job, work: Path, folder: Path) -> _Delivered:
        tools = job.tools()
        packages = job.packages(tools)
        base, tree = job.trees(packages, tools)
        with job.phases.phase(f"packing the root ({root.type})"):
            with job.phases.step("kernel and initrd"):
                (work / "kernel").write_bytes(assemble.kernel_image(packages))
                archives = {
                    "initrd": initrd.initrd(base, kernel.initrd, data.image() / "initrd" / "init"),
                    "drivers": initrd.drivers(base, kernel.initrd, kernel.initrd_drivers),
                }
                for name, entries in archives.items():
                    initrd.pack(entries, work / name, tools, release=settings.release)
            with job.phases.step("root"):
                filesystem.pack(tree, root.type, options, work / "root", job.lock.epoch, tools)
            with job.phases.step("hashes"):
                protected = verity.protect(work / "root", tools)
            size = {name: (work / name).stat().st_size for name in ("kernel", "root", *archives)}
            sizes = {"root": size.pop("root"), "boot": sum(size.values())}
            boot = {
                f"{name}:/{each.path}": each.size for name, files in archives.items() for each in files if each.size
            }
            boot["kernel"] = size["kernel"]
            with job.phases.step("target"):
                parts = Parts(
                    name=what.name,
                    version=what.identity.version if what.identity else "0",
                    architecture=what.architecture,
                    kernel=work / "kernel",
                    initrd=work / "initrd",
                    drivers=work / "drivers",
                    root=work / "root",
                    verity=protected,
                    consoles=kernel.consoles,
                    command_line=f"{kernel.parameters()} {protected.parameter}",
                    boot=BootFiles.of(packages, what.architecture),
                    os_release=tree.read("usr/lib/os-release"),
                    disk=what.disk,
                    work=work,
                    epoch=job.lock.epoch,
                    tools=tools,
                )
                target.write(parts, folder)
        return _Delivered(packages, tree, sizes, boot)

    return deliver


def _deliver_container(what: Definition, target: ContainerTarget) -> _Deliver:
    configuration = what.container
    assert configuration is not None  # as target_of made sure

    def deliver(job: _Job, _: Path, folder: Path) -> _Delivered:
        tools = job.tools()
        packages = job.packages(tools)
        tree = job.trees(packages, tools)[1]
        with job.phases.phase("packing the container"):
            target.write(Contents(what.name, what.architecture, tree, configuration, job.lock.epoch), folder)
        # All archives hold the same layer; the largest is what a budget is for.
        return _Delivered(packages, tree, {"archive": max(path.stat().st_size for path in folder.iterdir())})

    return deliver


@dataclass(frozen=True)
class _Job:
    """One build: what it is made from, and the steps that every kind of build has."""

    what: Definition
    lock: Lock
    store: Store
    mirror: Callable[[], Mirror]
    phases: Phases

    def packages(self, tools: Tools) -> list[Package]:
        """The unpacked packages of the lock."""
        with self.phases.phase(f"packages ({len(self.lock.packages)})"):
            return obtain(self.lock, self.store, self.mirror, self.phases.detail, self.phases.step, tools)

    def tools(self) -> Tools:
        """The programs that the build runs."""
        with self.phases.phase("tools"):
            return Tools.ours(self.store, self.mirror, detail=self.phases.detail, step=self.phases.step)

    def trees(self, packages: list[Package], tools: Tools) -> tuple[Tree, Tree]:
        """The tree as the packages made it (the initrd takes its program and modules there), and the finished tree."""
        with self.phases.phase("tree"):
            step = self.phases.step
            base = assemble.base(self.what, packages, self.lock, tools, self.store, step)
            tree = assemble.finish(self.what, base.copy(), packages, self.lock, tools, self.store, step)
        return base, tree


@dataclass(frozen=True)
class _Delivered:
    """What a kind of build has made: the packages that it took, the tree that it made of them, the sizes of what can have a limit, and the bytes of
    the kernel and of the initrd's files."""

    packages: list[Package]
    tree: Tree
    sizes: dict[str, int]
    boot: dict[str, int] = field(default_factory=dict)

    def measured(self) -> dict[str, budget.Measured]:
        """The parts with their owners."""
        return budget.measured(self.sizes, manifest.owners(self.tree), self.boot)


def _build(
    settings: Settings,
    path: Path,
    what: Definition,
    target: str,
    kind: object,
    deliver: _Deliver,
) -> BuildResult:
    """Have ``deliver(job, work, folder)`` put the artifacts into the empty ``folder``, and publish them with what tells of them: the lists of
    files and (for scanners) of packages, the page of sizes, and the manifest; and the page of timings, which is no artifact.

    Nothing is done, and nothing of the output touched, if it is up to date already. ``kind`` (anything JSON can write) is what tells this build
    from others of the same definition.
    """
    begin = time.monotonic()
    phases = settings.phases
    with phases.step("check"):
        lock = locked(path, what, is_ours=settings.definition is None)
        made_from = build_inputs(what, lock, kind)
        build = build_id(made_from)
        directory = output_folder(settings, target, what)
        force = settings.force or settings.cache != "use"
        is_current = not force and manifest.is_current(directory, build)
    checked = time.monotonic() - begin
    unchanged = BuildResult(directory, False, {"check": checked}, tuple(phases.spans()), checked)
    if is_current:
        return unchanged
    store = Store(settings.store)

    def waiting() -> None:
        phases.line(f"... another build into {directory} is running: waiting for it")

    with (
        _caching(store, settings.cache, phases) as view,
        output.held(directory, waiting) as work,
        cache.in_use(store),
    ):
        if not force and manifest.is_current(directory, build):
            return unchanged  # it was made while we waited
        for place in (store.root, directory):
            _check_room(place, lock)
        if settings.offline:
            offline.check(lock, our_lock(), view)
        source = offline.no_mirror if settings.offline else lambda: mirror.find(settings.mirror, settings.snapshot)
        job = _Job(what, lock, view, source, phases)
        folder = work / "out"
        folder.mkdir()
        made = deliver(job, work, folder)
        level: budget.Level = "release" if settings.release or what.container is not None else "fast"
        budget.check(what, path, level, made.measured())
        if build_inputs(what, lock, kind) != made_from:
            # What came out is of mixed inputs: it is delivered, but never taken for up to date.
            build = MIXED
            phases.line("... files changed while they were built: build again to have all of them")
        title = f"{what.name} ({target})"
        with phases.phase("telling what is in it"):
            with phases.step("list of files"):
                filelist.write(folder, made.tree, lock.epoch)
            with phases.step("list of packages"):
                sbom.write(folder, build, what.name, target, lock, made.packages, has_ours=bool(what.node_code))
            with phases.step("page of sizes"):
                sizes.write(folder, title, made.packages, made.tree)
            with phases.step("manifest"):
                contents = manifest.compose(
                    build,
                    what.name,
                    target,
                    lock,
                    made.tree,
                    folder.iterdir(),
                    release=settings.release,
                    inputs=made_from,
                    sizes=made.sizes,
                    boot=made.boot,
                )
        # Not in the manifest: it is another each time.
        timings.write(folder, title, time.monotonic() - begin, phases.spans())
        manifest.publish(folder, directory, contents)
    return BuildResult(directory, True, dict(phases.seconds), tuple(phases.spans()), time.monotonic() - begin)


@contextmanager
def _caching(store: Store, how: Literal["use", "replace", "ignore"], phases: Phases) -> Iterator[Store]:
    """The store as a build sees it that treats former work as ``how`` says; what it made is adopted if the block ends well."""
    if how == "use":
        yield store
        return
    with store.aside() as made:
        yield made
        if how == "replace":
            cache.adopt(
                store,
                made,
                lambda: phases.line(
                    "... other builds are using the store: waiting for them, to replace what was damaged"
                ),
            )


def kind_of(settings: Settings, what: Definition, target: Target | ContainerTarget) -> object:
    """What tells one build of a definition from another."""
    if what.root is None or isinstance(target, ContainerTarget):
        return target.name
    return [target.name, list(what.root.release if settings.release else what.root.fast)]


def folder_name(what: Definition, target: Target | ContainerTarget) -> str:
    """What a build's folder is called, and its target in the manifest: a container's has the container's name, too."""
    return f"{target.name}/{what.name}" if isinstance(target, ContainerTarget) else target.name


def output_folder(settings: Settings, target: str, what: Definition) -> Path:
    """Where the artifacts go."""
    return (settings.output or Path("build") / f"{target}{architecture.suffix(what.architecture)}").absolute()


def locked(path: Path, what: Definition, *, is_ours: bool) -> Lock:
    """The lock beside the definition. Raises :class:`Failure` if there is none, or if it does not answer the definition."""
    lock_path = architecture.lock_path(path, what.architecture)
    try:
        lock = Lock.load(lock_path)
        resolve.check(lock, resolve.Request.of(what), where=str(lock_path))
    except Failure as failure:
        words = [*([] if is_ours else [str(path)]), *_arch_option(what.architecture)]
        if words:
            failure.hint = f"run 'osbuild lock {' '.join(words)}'"
        raise
    return lock


def _arch_option(name: str) -> list[str]:
    return [] if name == architecture.HOST else [f"--arch {name}"]


def build_inputs(what: Definition, lock: Lock, kind: object) -> dict[str, object]:
    """The id of each thing that shapes the artifacts; ``kind`` as :func:`kind_of` says it."""
    return {
        "code": inputs.code(),
        "kind": kind,
        # As merged from all the files it includes; where its overlays lie does not matter, what is in them does.
        "definition": hashlib.sha256(what.model_dump_json(exclude={"overlay"}).encode()).hexdigest(),
        "lock": lock.id,
        "tools": our_lock().id,
        "initrd": inputs.digest(data.image() / "initrd"),
        "units": inputs.digest(data.units() / "system"),
        "overlay": [inputs.digest(folder) for folder in what.overlays()],
        "node_code": [inputs.digest(data.packages(name)) for name in what.node_code],
    }


def build_id(made_from: dict[str, object]) -> str:
    """The id of a build, of what :func:`build_inputs` says it is made from."""
    return identify("build", 1, made_from)


def _check_room(place: Path, lock: Lock) -> None:
    needed = ROOM_FACTOR * sum(package.size for package in lock.packages) + ROOM_BYTES
    free = shutil.disk_usage(place).free
    if free < needed:
        raise Failure(
            f"not enough space for this build: {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB needed",
            where=str(place),
            hint="'osbuild cache --prune' frees what is no longer used; --store DIR (cache) and --output DIR (result) choose other disks",
        )

"""Making what was ordered: the order of everything that a build does once :mod:`builder.pipeline.build` has found that there is something to do.

    definition + lock -> packages -> tree -> filesystem + kernel + initrd -> target

Each arrow is a module of its own; this one only calls them in turn and says to the store what is worth keeping.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal

from builder.about import budget, filelist, manifest, sbom, sizes, timings
from builder.core import verity
from builder.core.store import Store
from builder.core.tree import Tree
from builder.debian import mirror, offline
from builder.debian.deb import Package
from builder.debian.lockfile import Lock
from builder.debian.mirror import Mirror
from builder.debian.packages import obtain
from builder.debian.tools import Tools, our_lock
from builder.definition.definition import Definition
from builder.formats import filesystem, pool
from builder.formats.boot import BootFiles
from builder.pipeline import assemble, cache, output
from builder.pipeline.boot_files import ARCHIVES, early
from builder.pipeline.order import MIXED, BuildResult, Order, build_id
from builder.targets import ContainerTarget, Contents, Parts, Target
from terminal import Failure, Phases

ROOM_FACTOR: Final = 8
"""Free space that a build must find before it begins, by the size of its packages: a node's unpack to five times their size, and what is made
of them takes two to three times."""

ROOM_BYTES: Final = 64 << 20
"""The same, for whatever else is written."""


def make(order: Order, made_from: dict[str, object], begin: float) -> BuildResult:
    """Build what ``order`` says, out of what :meth:`Order.inputs` was ``made_from`` when the build began (seconds of the monotonic clock).

    The artifacts are published with what tells of them: the lists of files and (for scanners) of packages, the page of sizes, and the manifest; and
    the page of timings, which is no artifact. Nothing of the output is touched before all is there.
    """
    settings, what, lock, directory = order.settings, order.what, order.lock, order.directory
    phases, build = settings.phases, build_id(made_from)
    store = Store(settings.store)

    def waiting() -> None:
        phases.line(f"... another build into {directory} is running: waiting for it")

    with (
        _caching(store, settings.cache, phases) as view,
        output.held(directory, waiting) as work,
        cache.in_use(store),
    ):
        if order.is_done(build):  # it was made while we waited
            return BuildResult.unchanged(order, begin)
        for place in (store.root, directory):
            _check_room(place, lock)
        if settings.offline:
            offline.check(lock, our_lock(), view)
        source = offline.no_mirror if settings.offline else lambda: mirror.find(settings.mirror, settings.snapshot)
        folder = work / "out"
        folder.mkdir()
        made = _deliver(order)(_Job(what, lock, view, source, phases), work, folder)
        level: budget.Level = "release" if settings.release or what.container is not None else "fast"
        budget.check(what, order.path, level, made.measured())
        if order.inputs() != made_from:
            # What came out is of mixed inputs: it is delivered, but never taken for up to date.
            build = MIXED
            phases.line("... files changed while they were built: build again to have all of them")
        title = f"{what.name} ({order.label})"
        with phases.phase("telling what is in it"):
            with phases.step("list of files"):
                filelist.write(folder, made.tree, lock.epoch)
            with phases.step("list of packages"):
                sbom.write(folder, build, what.name, order.label, lock, made.packages, has_ours=bool(what.node_code))
            with phases.step("page of sizes"):
                sizes.write(folder, title, made.packages, made.tree)
            with phases.step("manifest"):
                contents = manifest.compose(
                    build,
                    what.name,
                    order.label,
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


def _deliver(order: Order) -> _Deliver:
    """The function that makes the artifacts of ``order``."""
    if isinstance(order.target, ContainerTarget):
        return _deliver_container(order.what, order.target)
    return _deliver_image(order.what, order.target, order.pooled, release=order.settings.release)


_Deliver = Callable[["_Job", Path, Path], "_Delivered"]


def _deliver_image(what: Definition, target: Target, pooled: Sequence[str] | None, *, release: bool) -> _Deliver:
    kernel, root = what.kernel, what.root
    assert kernel is not None  # as target_of made sure
    assert root is not None
    options = root.release if release else root.fast

    def deliver(job: _Job, work: Path, folder: Path) -> _Delivered:
        tools = job.tools()
        packages = job.packages(tools)
        base, tree = job.trees(packages, tools)
        files = BootFiles.of(packages, what.architecture)

        with job.phases.phase(f"packing the root ({root.type})"):
            base_id = assemble.base_id(what, job.lock, tools.root.name)
            os_release = tree.read("usr/lib/os-release")
            wanted = (kernel, packages, base, base_id, files, os_release, job.lock.epoch)
            # Beside the packing, which leaves a processor idle now and then; it waits for programs most of its time.
            with ThreadPoolExecutor(1) as aside:
                step = partial(job.phases.step, below=job.phases.here())
                begun = aside.submit(early, *wanted, tools, job.store, step, release=release)
                if release:
                    begun.result()  # it compresses for a while, which Ctrl-C could not end from here
                protected = (
                    job.packed(tree, root.type, options, work / "root", tools)
                    if pooled is None
                    else job.assembled(base, tree, pooled, work / "root", tools)
                )
                before = begun.result()
            for name in ("kernel", "initrd"):
                shutil.copyfile(before.folder / name, work / name)
            boot_size = sum((before.folder / name).stat().st_size for name in ("kernel", *ARCHIVES))
            sizes = {"root": (work / "root").stat().st_size, "boot": boot_size}
            with job.phases.step("target"):
                parts = Parts(
                    name=what.name,
                    version=what.identity.version if what.identity else "0",
                    architecture=what.architecture,
                    kernel=work / "kernel",
                    initrd=work / "initrd",
                    drivers=before.folder / "drivers",
                    uki=before.folder / "uki",
                    root=work / "root",
                    verity=protected,
                    consoles=kernel.consoles,
                    command_line=f"{kernel.parameters()} {protected.parameter}",
                    boot=files,
                    disk=what.disk,
                    work=work,
                    epoch=job.lock.epoch,
                    tools=tools,
                )
                target.write(parts, folder)
        return _Delivered(packages, tree, sizes, before.owners)

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

    def packed(self, tree: Tree, kind: str, options: Sequence[str], root: Path, tools: Tools) -> verity.Verity:
        """Write ``tree`` as the file system ``root`` by its writer, with hashes."""
        with self.phases.step("root"):
            filesystem.pack(tree, kind, options, root, self.lock.epoch, tools)
        with self.phases.step("hashes"):
            return verity.protect(root)

    def assembled(self, base: Tree, tree: Tree, options: Sequence[str], root: Path, tools: Tools) -> verity.Verity:
        """The same out of what is compressed already: the contents of ``base``, of which ``tree`` has most."""
        with self.phases.step("compressing contents"):
            kept = pool.pool(base, options, tools, self.store)
        with self.phases.step("root"):
            kept.assemble(tree, root, self.lock.epoch)
        with self.phases.step("hashes"):
            return kept.protect(root)


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


def _check_room(place: Path, lock: Lock) -> None:
    needed = ROOM_FACTOR * sum(package.size for package in lock.packages) + ROOM_BYTES
    free = shutil.disk_usage(place).free
    if free < needed:
        raise Failure(
            f"not enough space for this build: {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB needed",
            where=str(place),
            hint="'osbuild cache --prune' frees what is no longer used; --store DIR (cache) and --output DIR (result) choose other disks",
        )

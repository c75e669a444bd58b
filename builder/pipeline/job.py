"""Making what was ordered, once :mod:`builder.pipeline.build` has found that there is something to do.

    definition + lock -> packages -> tree -> filesystem + kernel + initrd -> target

:func:`make` goes this way step by step; each step has its own module. This module calls them in turn and decides what
the store keeps.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

from builder.about import budget, filelist, manifest, sbom, sizes, timings
from builder.core import verity
from builder.core.store import Store
from builder.core.tree import Tree
from builder.debian import mirror, offline
from builder.debian.deb import Package
from builder.debian.mirror import Mirror
from builder.debian.packages import obtain
from builder.debian.tools import Tools, our_lock
from builder.formats import filesystem, pool
from builder.formats.boot import BootFiles
from builder.pipeline import assemble, cache, output
from builder.pipeline.boot_files import ARCHIVES, Early, early
from builder.pipeline.order import MIXED, BuildResult, Order, build_id
from builder.pipeline.workshop import Workshop
from builder.targets import ContainerTarget, Contents, Parts, Target
from terminal import Failure, Phases

ROOM_FACTOR: Final = 8
"""Free space that a build needs before it begins, by the size of its packages.

A node's packages unpack to five times their size, and what is made of them takes two to three times.
"""

ROOM_BYTES: Final = 64 << 20
"""The same, for all other files."""


@dataclass(frozen=True)
class _Made:
    """The result of a build in its folder, and the data that describe it.

    These are the packages, their tree, the sizes that can have a limit, and the bytes of the kernel and of the initrd's
    files.
    """

    packages: list[Package]
    tree: Tree
    sizes: dict[str, int]
    boot: dict[str, int] = field(default_factory=dict)


def make(order: Order, made_from: dict[str, object], begin: float) -> BuildResult:
    """Build ``order`` from the inputs ``made_from``.

    These are :meth:`Order.inputs` when the build began; ``begin`` is that time, in seconds of the monotonic clock.

    The artifacts are published with their descriptions: the lists of files and (for scanners) of packages, the page of
    sizes, the manifest, and the page of timings, which is not an artifact. The output is not changed before all is
    complete.
    """
    phases, lock = order.settings.phases, order.lock
    with _place(order) as (store, work):
        if order.is_done(build_id(made_from)):  # it was made while we waited
            return BuildResult.unchanged(order, begin)
        _check_room(order)
        source = _source(order, store)
        with phases.phase("tools"):
            tools = Tools.ours(store, source, detail=phases.detail, step=phases.step)
        with phases.phase(f"packages ({len(lock.packages)})"):
            packages = obtain(lock, store, source, phases.detail, phases.step, tools)
        shop = Workshop(order.what, lock, store, tools, phases.step)
        with phases.phase("tree"):
            base = assemble.base(shop, packages)
            tree = assemble.finish(shop, base.copy(), packages)
        folder = work / "out"
        folder.mkdir()
        if isinstance(order.target, ContainerTarget):
            made = _container(order, order.target, packages, tree, folder)
        else:
            made = _image(order, order.target, shop, packages, base, tree, folder)
        contents = _describe(order, made_from, made, folder, begin)
        manifest.publish(folder, order.directory, contents)
    return BuildResult(order.directory, True, dict(phases.seconds), tuple(phases.spans()), time.monotonic() - begin)


def _container(order: Order, target: ContainerTarget, packages: list[Package], tree: Tree, folder: Path) -> _Made:
    """Put the archives of the container into ``folder``."""
    what = order.what
    assert what.container is not None  # as target_of made sure
    with order.settings.phases.phase("packing the container"):
        target.write(Contents(what.name, what.architecture, tree, what.container, order.lock.epoch), folder)
    # All archives hold the same layer; the largest is what a budget is for.
    return _Made(packages, tree, {"archive": max(path.stat().st_size for path in folder.iterdir())})


def _image(
    order: Order, target: Target, shop: Workshop, packages: list[Package], base: Tree, tree: Tree, folder: Path
) -> _Made:
    """Put the artifacts of a node into ``folder``; intermediate files go beside it."""
    phases, what, work, release = order.settings.phases, order.what, folder.parent, order.settings.release
    assert what.root is not None  # as target_of made sure
    files = BootFiles.of(packages, what.architecture)
    with phases.phase(f"packing the root ({what.root.type})"):
        # Parallel to the packing, which sometimes leaves a processor idle; it mostly waits for programs.
        with ThreadPoolExecutor(1) as aside:
            beside = replace(shop, step=partial(phases.step, below=phases.here()))
            begun = aside.submit(early, beside, packages, base, files, tree.read("usr/lib/os-release"), release=release)
            if release:
                begun.result()  # it compresses for a while, which Ctrl-C could not interrupt from here
            protected = _root(order, shop, base, tree, work / "root")
            before = begun.result()
        for name in ("kernel", "initrd"):
            shutil.copyfile(before.folder / name, work / name)
        boot_size = sum((before.folder / name).stat().st_size for name in ("kernel", *ARCHIVES))
        parts = {"root": (work / "root").stat().st_size, "boot": boot_size}  # now: a target may move its parts
        with phases.step("target"):
            target.write(_parts(shop, files, before, protected, work), folder)
    return _Made(packages, tree, parts, before.owners)


def _root(order: Order, shop: Workshop, base: Tree, tree: Tree, root: Path) -> verity.Verity:
    """Write ``tree`` as the file system ``root``, with hashes.

    It uses already compressed contents (those of ``base``, which are most of ``tree``'s), or the file system's writer.
    """
    what, epoch = shop.what.root, shop.lock.epoch
    assert what is not None  # as target_of made sure
    if (options := order.pooled) is not None:
        with shop.step("compressing contents"):
            kept = pool.pool(base, options, shop.tools, shop.store)
        with shop.step("root"):
            kept.assemble(tree, root, epoch)
        with shop.step("hashes"):
            return kept.protect(root)
    with shop.step("root"):
        filesystem.pack(tree, what.type, what.release if order.settings.release else what.fast, root, epoch, shop.tools)
    with shop.step("hashes"):
        return verity.protect(root)


def _parts(shop: Workshop, files: BootFiles, before: Early, protected: verity.Verity, work: Path) -> Parts:
    """The finished pieces, for the target."""
    what = shop.what
    assert what.kernel is not None  # as target_of made sure
    return Parts(
        name=what.name,
        version=what.identity.version if what.identity else "0",
        architecture=what.architecture,
        kernel=work / "kernel",
        initrd=work / "initrd",
        drivers=before.folder / "drivers",
        uki=before.folder / "uki",
        root=work / "root",
        verity=protected,
        consoles=what.kernel.consoles,
        command_line=f"{what.kernel.parameters()} {protected.parameter}",
        boot=files,
        disk=what.disk,
        work=work,
        epoch=shop.lock.epoch,
        tools=shop.tools,
    )


def _describe(order: Order, made_from: dict[str, object], made: _Made, folder: Path, begin: float) -> dict[str, object]:
    """Check the budget, put the descriptions of the result into ``folder``, and return the manifest."""
    settings, what, lock, phases = order.settings, order.what, order.lock, order.settings.phases
    level: budget.Level = "release" if settings.release or what.container is not None else "fast"
    budget.check(what, order.path, level, budget.measured(made.sizes, manifest.owners(made.tree), made.boot))
    build = build_id(made_from)
    if order.inputs() != made_from:
        # The result is of mixed inputs: it is delivered, but never counts as up to date.
        build = MIXED
        phases.line("... files changed while they were built: build again to have all of them")
    title = f"{what.name} ({order.label})"
    with phases.phase("listing what is in it"):
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
                updates=order.updates,
            )
    # Not in the manifest: it differs each time.
    timings.write(folder, title, time.monotonic() - begin, phases.spans())
    return contents


@contextmanager
def _place(order: Order) -> Iterator[tuple[Store, Path]]:
    """This build's view of the store, and a folder to work in, while it holds the output.

    Waits for another build of the same output.
    """
    store, phases = Store(order.settings.store), order.settings.phases

    def waiting() -> None:
        phases.line(f"... another build into {order.directory} is running: waiting for it")

    with (
        _caching(store, order.settings.cache, phases) as view,
        output.held(order.directory, waiting) as work,
        cache.in_use(store),
    ):
        yield view, work


@contextmanager
def _caching(store: Store, how: Literal["use", "replace", "ignore"], phases: Phases) -> Iterator[Store]:
    """A build's view of the store, by the ``how`` of former work; its results are adopted if the block ends well."""
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


def _source(order: Order, store: Store) -> Callable[[], Mirror]:
    """The source of packages that the store lacks.

    Raises :class:`Failure` for what an offline build would have to fetch.
    """
    settings = order.settings
    if settings.offline:
        offline.check(order.lock, our_lock(), store)
        return offline.no_mirror
    return lambda: mirror.find(settings.mirror, settings.snapshot)


def _check_room(order: Order) -> None:
    needed = ROOM_FACTOR * sum(package.size for package in order.lock.packages) + ROOM_BYTES
    for place in (Store(order.settings.store).root, order.directory):
        free = shutil.disk_usage(place).free
        if free < needed:
            raise Failure(
                f"not enough space for this build: {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB needed",
                where=str(place),
                hint="'osbuild cache --prune' frees what is no longer used; --store DIR (cache) and --output DIR (result) choose other disks",
            )

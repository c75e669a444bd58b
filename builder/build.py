"""From a definition to a folder: the order of everything that ``osbuild image`` and ``osbuild container`` do.

    definition + lock -> packages -> tree -> filesystem + kernel + initrd -> target

Each arrow is a module of its own; this one only calls them in turn and says to the store what is worth keeping.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from builder import assemble, cpio, data, definition, filesystem, inputs, manifest, mirror, resolve
from builder.apt import Suite
from builder.deb import Package
from builder.definition import Definition
from builder.initrd import initrd
from builder.lockfile import Lock
from builder.packages import obtain
from builder.store import Store, disk_full, identify
from builder.targets import TARGETS, Parts, container
from builder.tools import Tools
from builder.tree import Tree
from terminal import Failure, Phases

ROOM_BYTES: Final = 2 << 30
"""Free space that a build must find before it begins: the unpacked packages of a node and its images, with a margin."""


@dataclass(frozen=True)
class Settings:
    """What a caller may choose; the defaults are what ``osbuild image`` does without options."""

    definition: Path | None = None
    target: str = "qemu"
    output: Path | None = None
    store: Path | None = None
    mirror: str | None = None
    release: bool = False
    force: bool = False
    phases: Phases = field(default_factory=Phases)


@dataclass(frozen=True)
class BuildResult:
    """Where the artifacts are, whether this call made them, and the seconds of each phase."""

    directory: Path
    changed: bool
    seconds: dict[str, float]


def build_image(settings: Settings) -> BuildResult:
    """Build a node image for a target.

    Raises :class:`Failure` for a definition or lock that is broken or out of step, a package that cannot be fetched or is not what the lock
    says, a tool that fails, a full disk. Whatever was in the output folder before is then still there.
    """
    begin = time.monotonic()
    path = settings.definition or data.image() / "node.yaml"
    what = definition.load(path)
    target = TARGETS.get(settings.target)
    if target is None:
        raise Failure(f"there is no target {settings.target!r}", hint="targets: " + ", ".join(sorted(TARGETS)))
    if what.kernel is None or what.root is None:
        raise Failure(
            "this definition has no kernel and no root", where=str(path), hint="use 'osbuild container' for it"
        )
    options = what.root.release if settings.release else what.root.fast
    with _prepared(settings, path, what, [settings.target, list(options)]) as job:
        if job.is_done:
            return BuildResult(job.output, False, {"check": time.monotonic() - begin})
        packages = job.packages()
        tree, base = job.tree(packages)
        with settings.phases.phase(f"packing the root ({what.root.type})"):
            kernel = job.work / "kernel"
            kernel.write_bytes(assemble.kernel_image(packages))
            initrd_file = job.work / "initrd"
            script = data.image() / "initrd" / "init"
            entries = initrd(base, what.kernel.initrd, script)
            initrd_file.write_bytes(b"".join(cpio.archive(entries)))
            root = job.work / "root"
            filesystem.pack(tree, what.root.type, options, root, job.lock.epoch, job.tools)
        folder = job.work / "out"
        folder.mkdir()
        target.write(Parts(kernel, initrd_file, root, what.kernel.command_line), folder)
        job.publish(folder, tree)
    return BuildResult(job.output, True, dict(settings.phases.seconds))


def build_container(settings: Settings) -> BuildResult:
    """Build a docker-archive ``<name>.tar`` from a definition with a ``container`` section; failures as :func:`build_image`."""
    begin = time.monotonic()
    path = settings.definition
    if path is None:
        raise Failure("which container?", hint="osbuild container image/containers/redis.yaml")
    what = definition.load(path)
    if what.container is None:
        raise Failure(
            "this definition has no 'container' section", where=str(path), hint="use 'osbuild image' for a node"
        )
    with _prepared(settings, path, what, "container") as job:
        if job.is_done:
            return BuildResult(job.output, False, {"check": time.monotonic() - begin})
        tree, _ = job.tree(job.packages())
        folder = job.work / "out"
        folder.mkdir()
        with settings.phases.phase("packing the container"):
            archive = folder / f"{what.name}.tar"
            container.write(tree, what.container, what.architecture, job.lock.epoch, archive)
        job.publish(folder, tree)
    return BuildResult(job.output, True, dict(settings.phases.seconds))


@dataclass
class _Job:
    settings: Settings
    what: Definition
    folder: Path
    lock: Lock
    tools_lock: Lock
    store: Store
    build: str
    output: Path
    work: Path
    target: str
    _tools: Tools | None = None

    @property
    def is_done(self) -> bool:
        return not self.settings.force and manifest.is_current(self.output, self.build)

    @property
    def tools(self) -> Tools:
        if self._tools is None:
            with self.settings.phases.phase("tools"):
                self._tools = Tools.open(self.tools_lock, self.store, self._mirror, detail=self.settings.phases.detail)
        return self._tools

    @property
    def _mirror(self) -> Callable[[], mirror.Mirror]:
        return lambda: mirror.find(self.settings.mirror, environment=os.environ)

    def packages(self) -> list[Package]:
        phases = self.settings.phases
        with phases.phase(f"packages ({len(self.lock.packages)})"):
            return obtain(self.lock, self.store, self._mirror, phases.detail)

    def tree(self, packages: list[Package]) -> tuple[Tree, Tree]:
        """The finished tree, and the tree as the packages made it (the initrd takes its program and modules there)."""
        tools = self.tools
        with self.settings.phases.phase("tree"):
            base = assemble.base(self.what, packages, self.lock, tools, self.store)
            tree = assemble.finish(self.what, base.copy(), self.folder, packages, self.lock, tools, self.store)
        return tree, base

    def publish(self, folder: Path, tree: Tree) -> None:
        contents = manifest.compose(self.build, self.what.name, self.target, self.lock, tree, folder.iterdir())
        manifest.publish(folder, self.output, contents)


@contextmanager
def _prepared(settings: Settings, path: Path, what: Definition, kind: object) -> Iterator[_Job]:
    """Everything that a build needs before it does anything, and a work folder on the output's own disk, gone afterwards."""
    lock_path = path.with_suffix(".lock")
    lock = Lock.load(lock_path)
    resolve.check(lock, request(what), where=str(lock_path))
    tools_lock = Lock.load(data.image() / "tools.lock")
    name = settings.target if what.container is None else f"container/{what.name}"
    output = (settings.output or Path("build") / name).absolute()
    build = identify(
        "build",
        1,
        {
            "code": inputs.code(),
            "kind": kind,
            "definition": hashlib.sha256(path.read_bytes()).hexdigest(),
            "lock": lock.id,
            "tools": tools_lock.id,
            "initrd": inputs.digest(data.image() / "initrd"),
            "units": inputs.digest(data.units() / "system"),
            "overlay": inputs.digest(path.parent / what.overlay) if what.overlay else None,
            "node_code": [inputs.digest(data.packages(name)) for name in what.node_code],
        },
    )
    store = Store(settings.store)
    _make_folder(output.parent)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        job = _Job(settings, what, path.parent, lock, tools_lock, store, build, output, work, name)
        if not job.is_done:
            for place in (store.root, output.parent):
                if shutil.disk_usage(place).free < ROOM_BYTES:
                    raise disk_full(place)
        yield job
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(
            f"cannot make the output's folder: {error.strerror}",
            where=str(path),
            hint="choose another with --output DIR",
        ) from error


def request(what: Definition) -> resolve.Request:
    """The part of a definition that its lock answers."""
    return resolve.Request(
        architecture=what.architecture,
        suites=tuple(Suite(suite.suite, suite.archive, suite.components, suite.pin_only) for suite in what.suites),
        packages=tuple(resolve.Want(name, suite) for name, suite in what.wants()),
        assume=what.assume,
    )

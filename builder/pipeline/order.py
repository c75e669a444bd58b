"""An order to the builder: the definition, its lock, the target, and the place of the result. Nothing is built here."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from builder.about import manifest
from builder.core import architecture, data, inputs
from builder.core.store import identify
from builder.debian.lockfile import Lock
from builder.debian.tools import our_lock
from builder.definition import definition
from builder.definition.definition import Definition
from builder.formats import pool
from builder.lock import resolve
from builder.targets import TARGETS, ContainerTarget, Target
from terminal import Failure, Phases, Span

MIXED: Final = "inputs changed during the build"
"""In place of a build's id, when its inputs are uncertain."""
NODE: Final = "qemu"
"""The default target of a node."""
CONTAINER: Final = "container"
"""The default target of a container."""


@dataclass(frozen=True)
class Settings:
    """The options of a caller; the defaults are those of ``osbuild image``.

    So the default target is the usual one of what is defined.

    ``offline`` builds from the store alone. ``cache`` decides about packages unpacked and steps done by former builds:
    they are used; or all is made again (and the output, too, if it is up to date) and replaces them, or replaces
    nothing. Downloads and tools are kept in any case. ``outdated`` decides about a release for which security updates
    wait: it is refused, or allowed, or there is no check (:mod:`builder.pipeline.outdated`).
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
    outdated: Literal["refuse", "allow", "ignore"] = "refuse"
    phases: Phases = field(default_factory=Phases)


@dataclass(frozen=True)
class Order:
    """The order by ``settings``: the definition at ``path``, its lock, and the target.

    ``updates`` is the archive's answer about security updates, if it was to be queried
    (:func:`builder.pipeline.outdated.ask`).
    """

    settings: Settings
    path: Path
    what: Definition
    target: Target | ContainerTarget
    lock: Lock
    updates: dict[str, object] | None = None

    @classmethod
    def of(cls, settings: Settings) -> Order:
        """Read the order.

        Raises :class:`Failure` for a definition or lock that is broken or out of date, and a target that does not fit.
        """
        path = settings.definition or data.image() / "node.yaml"
        what = definition.load(path, settings.architecture)
        target = target_of(settings, what, path)
        return cls(settings, path, what, target, locked(path, what, is_ours=settings.definition is None))

    @property
    def label(self) -> str:
        """The name of the folder, and the target in the manifest: a container's includes its name, too."""
        name = self.target.name
        return f"{name}/{self.what.name}" if isinstance(self.target, ContainerTarget) else name

    @property
    def directory(self) -> Path:
        """Where the artifacts go."""
        return output_folder(self.settings, self.label, self.what)

    def inputs(self) -> dict[str, object]:
        """The id of each thing that shapes the artifacts, as it is now."""
        what = self.what
        return {
            "code": inputs.code(),
            "kind": self._kind(),
            # Merged from all included files; the contents of overlays matter, not their places.
            "definition": hashlib.sha256(what.model_dump_json(exclude={"overlay"}).encode()).hexdigest(),
            "lock": self.lock.id,
            "tools": our_lock().id,
            "initrd": inputs.digest(data.image() / "initrd"),
            "units": inputs.digest(data.units() / "system"),
            "overlay": [inputs.digest(folder) for folder in what.overlays()],
            "node_code": [inputs.digest(data.packages(name)) for name in what.node_code],
        }

    def _kind(self) -> object:
        """What distinguishes builds of the same definition."""
        root = self.what.root
        if root is None or isinstance(self.target, ContainerTarget):
            return self.target.name
        return [self.target.name, list(root.release if self.settings.release else root.fast)]

    @property
    def pooled(self) -> Sequence[str] | None:
        """The compression of a root's contents, if the pool keeps them (:mod:`builder.formats.pool`).

        A release has none, since it is packed for size.
        """
        root = self.what.root
        if root is None or isinstance(self.target, ContainerTarget) or self.settings.release:
            return None
        return root.fast if pool.fits(root.type, root.fast) else None

    def is_done(self, build: str) -> bool:
        """Is the build with this id there, and is that sufficient?"""
        forced = self.settings.force or self.settings.cache != "use"
        return not forced and manifest.is_current(self.directory, build, self.updates)


@dataclass(frozen=True)
class BuildResult:
    """The folder of the artifacts, whether this call made them, and the seconds: by phase, in total, and all spans."""

    directory: Path
    changed: bool
    seconds: dict[str, float]
    spans: tuple[Span, ...] = ()
    total: float = 0.0

    @classmethod
    def unchanged(cls, order: Order, begin: float) -> BuildResult:
        """Of a call that began at ``begin`` and found all there."""
        checked = time.monotonic() - begin
        return cls(order.directory, False, {"check": checked}, tuple(order.settings.phases.spans()), checked)


def target_of(settings: Settings, what: Definition, path: Path) -> Target | ContainerTarget:
    """The target that ``settings`` name, or the usual one of the definition.

    Raises :class:`Failure` if it does not fit the definition.
    """
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


def output_folder(settings: Settings, target: str, what: Definition) -> Path:
    """Where the artifacts go."""
    return (settings.output or Path("build") / f"{target}{architecture.suffix(what.architecture)}").absolute()


def locked(path: Path, what: Definition, *, is_ours: bool) -> Lock:
    """The lock beside the definition.

    Raises :class:`Failure` if there is none, or if it does not answer the definition.
    """
    lock_path = architecture.lock_path(path, what.architecture)
    try:
        lock = Lock.load(lock_path)
        resolve.check(lock, resolve.Request.of(what), where=str(lock_path))
    except Failure as failure:
        if words := _lock_words(path, what, is_ours=is_ours):
            failure.hint = f"run 'osbuild lock {' '.join(words)}'"
        raise
    return lock


def lock_command(order: Order) -> str:
    """The arguments that make the lock of ``order`` again."""
    return " ".join(["osbuild lock", *_lock_words(order.path, order.what, is_ours=order.settings.definition is None)])


def _lock_words(path: Path, what: Definition, *, is_ours: bool) -> list[str]:
    arch = [] if what.architecture == architecture.HOST else [f"--arch {what.architecture}"]
    return [*([] if is_ours else [str(path)]), *arch]


def build_id(made_from: dict[str, object]) -> str:
    """The id of a build, from its :meth:`Order.inputs`."""
    return identify("build", 1, made_from)

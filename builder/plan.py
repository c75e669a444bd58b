"""``osbuild plan``: what a build would fetch, reuse and make, before anything is done."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from builder import assemble, build, data, deb, definition, manifest
from builder.build import Settings
from builder.fetch import downloaded
from builder.lockfile import Lock, LockedPackage
from builder.sizes import megabytes
from builder.store import Store
from builder.targets import TARGETS
from builder.tools import closure_id, our_lock
from terminal import Failure, table

EXAMPLES: Final = {
    "plan": """
  osbuild plan                           what 'osbuild image' would fetch, reuse and make
  osbuild plan --definition image/containers/redis.yaml
                                         the same for a container""",
}


@dataclass(frozen=True, slots=True)
class Step:
    """Some things that meet one fate: ``action`` is ``fetch``, ``unpack``, ``reuse`` or ``make``; ``bytes`` are those of packages, packed."""

    what: str
    action: str
    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build into ``directory`` would do; no steps if it is up to date."""

    directory: Path
    steps: tuple[Step, ...]

    @property
    def fetched(self) -> int:
        """Bytes that would come over the network."""
        return sum(step.bytes for step in self.steps if step.action == "fetch")


def plan(settings: Settings) -> Plan:
    """The plan of the build that :func:`builder.build.build_image` (or ``build_container``, as the definition says) would do.

    Raises :class:`terminal.Failure` for a definition or a lock that is broken or out of step.
    """
    path = settings.definition or data.image() / "node.yaml"
    what = definition.load(path)
    lock = build.locked(path, what, is_ours=settings.definition is None)
    if what.root is not None and what.kernel is not None:
        target, kind = settings.target, build.image_kind(settings, what.root)
    elif what.container is None:
        raise Failure(
            "this definition has neither a root nor a container",
            where=str(path),
            hint="give it one: docs/definition.md has every key",
        )
    else:
        target, kind = build.container_target(what), build.CONTAINER_KIND
    directory = build.output_folder(settings, target)
    if not settings.force and manifest.is_current(directory, build.build_id(build.build_inputs(what, lock, kind))):
        return Plan(directory, ())
    store = Store(settings.store)
    return Plan(directory, (*_packages("package", lock, store), *_made(what, lock, store)))


def _made(what: definition.Definition, lock: Lock, store: Store) -> Iterator[Step]:
    """What is not a package of the definition: the tools, the slow steps of the tree, what is always made."""
    tools = our_lock()
    closure = closure_id(tools)
    if store.has("tools", closure):
        yield Step("tools", "reuse", 1, 0)
    else:
        yield from _packages("package of the tools", tools, store)
        yield Step("tools", "make", 1, 0)
    has_base = store.has("steps", assemble.base_id(what, lock, closure))
    yield Step("slow steps of the tree", "reuse" if has_base else "make", 1, 0)
    yield Step("artifacts", "make", 1, 0)


def _packages(noun: str, lock: Lock, store: Store) -> Iterator[Step]:
    fates: dict[str, list[LockedPackage]] = {"fetch": [], "unpack": [], "reuse": []}
    for package in lock.packages:
        if deb.is_unpacked(package.sha256, store):
            fates["reuse"].append(package)
        else:
            fates["fetch" if downloaded(package, store) is None else "unpack"].append(package)
    for action, packages in fates.items():
        if packages:
            yield Step(noun, action, len(packages), sum(package.size for package in packages))


def add_verb(verb: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the parser of this module's verb, made by ``verb(name, text)``."""
    parser = verb("plan", "show what a build would fetch, reuse and make")
    parser.add_argument("--target", default="qemu", choices=sorted(TARGETS), help="as for image (default: %(default)s)")
    parser.add_argument("--definition", type=Path, metavar="FILE", help="default: image/node.yaml")
    parser.add_argument("--release", action="store_true", help="as for image")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the artifacts would go (default: build/...)")
    parser.add_argument("--force", action="store_true", help="plan to build even if the output is up to date")
    parser.add_argument("--store", type=Path, metavar="DIR", help="the cache (default: ~/.cache/flotilla)")
    parser.add_argument("--json", action="store_true", help="print the result for a machine")


def run(arguments: argparse.Namespace) -> int:
    """``osbuild plan``; returns the exit code."""
    found = plan(
        Settings(
            definition=arguments.definition,
            target=arguments.target,
            output=arguments.output,
            store=arguments.store,
            release=arguments.release,
            force=arguments.force,
        )
    )
    if arguments.json:
        steps = [asdict(step) for step in found.steps]
        print(json.dumps({"directory": str(found.directory), "fetched": found.fetched, "steps": steps}))
    elif found.steps:
        print(_told(found.steps))
        print(f"\n{megabytes(found.fetched)} to fetch; the result goes into {found.directory}")
    else:
        print(f"{found.directory} is up to date: nothing to do")
    return 0


def _told(steps: Sequence[Step]) -> str:
    rows = [
        [step.action, str(step.count), step.what, megabytes(step.bytes) if step.bytes else ""]
        for step in sorted(steps, key=lambda step: ("fetch", "unpack", "make", "reuse").index(step.action))
    ]
    return table(rows, ["action", "count", "what", "size"])

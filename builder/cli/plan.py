"""``osbuild plan``: what a build would fetch, reuse and make, before anything is done."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from builder.about.sizes import megabytes
from builder.cli.verb import Verb
from builder.core.architecture import NAMES
from builder.core.store import Store
from builder.debian import deb, offline
from builder.debian.downloads import downloaded
from builder.debian.lockfile import Lock, LockedPackage
from builder.debian.tools import closure_id, our_lock
from builder.formats.pool import contents, pool_id
from builder.pipeline import assemble
from builder.pipeline.order import Order, Settings, build_id
from builder.targets import TARGETS
from terminal import table

EXAMPLES: Final = {
    "plan": """
  osbuild plan                           what 'osbuild image' would fetch, reuse and make
  osbuild plan --packages                and name every package that is to be fetched or unpacked
  osbuild plan --definition image/containers/redis.yaml
                                         the same for a container""",
}


@dataclass(frozen=True, slots=True)
class Step:
    """Things with the same ``action``: ``fetch``, ``unpack``, ``reuse`` or ``make``; ``bytes`` count packed packages.

    A package that is fetched is unpacked, too. ``packages`` are the names, versions and bytes of the counted ones, the
    largest first.
    """

    what: str
    action: str
    count: int
    bytes: int
    packages: tuple[tuple[str, str, int], ...] = ()


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
    """The plan of the build that :func:`builder.pipeline.build.build_image` would do.

    It writes nothing, not even the store's folders. Like the build, it raises :class:`terminal.Failure` for a
    definition or a lock that is broken or out of date, and for a build from the store alone that lacks something.
    """
    order = Order.of(settings)
    lock, directory, fresh = order.lock, order.directory, settings.cache != "use"
    if order.is_done(build_id(order.inputs())):
        return Plan(directory, ())
    store = Store(settings.store, look=True)
    if settings.offline:
        offline.check(lock, our_lock(), store)
    return Plan(directory, (*_packages("package", lock, store, fresh), *_made(order, store, fresh)))


def _made(order: Order, store: Store, fresh: bool) -> Iterator[Step]:
    """All steps except the definition's packages: the tools, the slow steps of the tree, what is always made."""
    what, tools = order.what, our_lock()
    closure = closure_id(tools)
    if store.has("tools", closure):
        yield Step("tools", "reuse", 1, 0)
    else:
        yield from _packages("package of the tools", tools, store, fresh)
        yield Step("tools", "make", 1, 0)
    base = assemble.base_id(what, order.lock, closure)
    steps = {"slow steps of the tree": base}
    if what.node_code:
        steps["bytecode of our code"] = assemble.bytecode_id(what, closure)
    if (options := order.pooled) is not None:
        # Its id is that of the slow steps' result: before that there is none.
        is_there = store.has("steps", base) and not fresh
        steps["compressed contents"] = (
            pool_id(contents(assemble.stored(base, store)), options, closure) if is_there else ""
        )
    for name, key in steps.items():
        yield Step(name, "reuse" if key and store.has("steps", key) and not fresh else "make", 1, 0)
    yield Step("artifacts", "make", 1, 0)


def _packages(noun: str, lock: Lock, store: Store, fresh: bool) -> Iterator[Step]:
    fates: dict[str, list[LockedPackage]] = {"fetch": [], "unpack": [], "reuse": []}
    for package in lock.packages:
        if deb.is_unpacked(package.sha256, store) and not fresh:
            fates["reuse"].append(package)
        else:
            fates["fetch" if downloaded(package, store) is None else "unpack"].append(package)
    for action, packages in fates.items():
        if packages:
            largest = sorted(packages, key=lambda package: (-package.size, package.name))
            named = tuple((package.name, package.version, package.size) for package in largest)
            yield Step(noun, action, len(packages), sum(package.size for package in packages), named)


def add_verbs(verb: Verb) -> None:
    """Add the parser of this module's verb, made by ``verb(name, text)``."""
    parser = verb("plan", "show what a build would fetch, reuse and make")
    parser.add_argument("--target", choices=[*TARGETS], help="as for image")
    parser.add_argument("--definition", type=Path, metavar="FILE", help="default: image/node.yaml")
    parser.add_argument("--arch", choices=NAMES, help="as for image")
    parser.add_argument("--release", action="store_true", help="as for image")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the artifacts would go (default: build/...)")
    parser.add_argument("--force", action="store_true", help="plan to build even if the output is up to date")
    parser.add_argument("--offline", action="store_true", help="fail, as the build would, if anything is to be fetched")
    parser.add_argument("--no-cache", action="store_true", help="as for image: plan to do every step again")
    parser.add_argument("--packages", action="store_true", help="name every package that is not reused, with its size")
    parser.add_argument("--store", type=Path, metavar="DIR", help="the cache (default: ~/.cache/flotilla)")
    parser.add_argument("--json", action="store_true", help="print the result for a machine")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``osbuild plan``; returns the exit code."""
    found = plan(
        Settings(
            definition=arguments.definition,
            target=arguments.target,
            output=arguments.output,
            store=arguments.store,
            architecture=arguments.arch,
            release=arguments.release,
            force=arguments.force,
            offline=arguments.offline,
            cache="replace" if arguments.no_cache else "use",
        )
    )
    if arguments.json:
        steps = [asdict(step) for step in found.steps]
        print(json.dumps({"directory": str(found.directory), "fetched": found.fetched, "steps": steps}))
    elif found.steps:
        print(_table(found.steps))
        if arguments.packages and (named := _named(found.steps)):
            print(f"\n{table(named, ['action', 'package', 'version', 'size'])}")
        print(f"\n{megabytes(found.fetched)} to fetch; the result goes into {found.directory}")
    else:
        print(f"{found.directory} is up to date: nothing to do")
    return 0


def _named(steps: Sequence[Step]) -> list[list[str]]:
    """A row for each package that is fetched or unpacked."""
    return [
        [step.action, name, version, megabytes(size)]
        for step in steps
        if step.action in ("fetch", "unpack")
        for name, version, size in step.packages
    ]


def _table(steps: Sequence[Step]) -> str:
    rows = [
        [step.action, str(step.count), step.what, megabytes(step.bytes) if step.bytes else ""]
        for step in sorted(steps, key=lambda step: ("fetch", "unpack", "make", "reuse").index(step.action))
    ]
    return table(rows, ["action", "count", "what", "size"])

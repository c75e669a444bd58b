"""The command ``osbuild``."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from builder import (
    allowance,
    build,
    cache,
    data,
    diff,
    inspect,
    locking,
    mirror,
    plan,
    schema,
    starter,
    timings,
    verify,
)
from builder.architecture import NAMES
from builder.build import BuildResult, Settings
from builder.lockfile import Lock
from builder.store import Store
from builder.targets import TARGETS
from builder.tools import Tools, our_lock
from terminal import Phases, command, table
from terminal.release import VERSION

_EXAMPLES: Final = {
    "image": """
  osbuild image --target qemu            build the node image into build/qemu/
  osbuild image --output /srv/image      the same, elsewhere
  osbuild image --arch arm64             for 64-bit ARM, into build/qemu-arm64/
  osbuild image --definition image/containers/redis.yaml
                                         a container: its target is 'container' unless told""",
    "container": """
  osbuild container image/containers/redis.yaml
                                         the same as with image, by a shorter name""",
    "verify": """
  osbuild verify build/qemu              build it once more, with nothing made before, and compare""",
    "lock": locking.LOCK_EXAMPLES,
    "scripts": locking.SCRIPTS_EXAMPLES,
    "tools": """
  osbuild tools etcd                     print how to run a tool of the closure""",
    "cache": """
  osbuild cache                          show what the store holds
  osbuild cache --prune                  drop what no lock needs any more""",
    "schema": schema.EXAMPLES,
    "new": starter.EXAMPLES,
    **inspect.EXAMPLES,
    **diff.EXAMPLES,
    **plan.EXAMPLES,
    **allowance.EXAMPLES,
}


def main() -> int:
    """Console script."""
    return command("osbuild", run)


def run(argv: Sequence[str]) -> int:
    """Run ``osbuild`` with these arguments; returns the exit code."""
    arguments = new_parser().parse_args(argv)
    handlers = {
        "image": _image,
        "container": _container,
        "verify": _verify,
        "lock": locking.lock,
        "scripts": locking.review,
        "tools": _tools,
        "cache": _cache,
        "schema": schema.command,
        "new": starter.command,
        "inspect": inspect.run,
        "diff": diff.run,
        "budget": allowance.run,
        "plan": plan.run,
    }
    return handlers[arguments.verb](arguments)


def new_parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        prog="osbuild",
        description="Build node images and containers from Debian packages: no root, no dpkg, from a hash lock.",
        epilog="examples:" + "".join(_EXAMPLES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"osbuild {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, text: str, further: str = "") -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"{further}examples:{_EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    image = verb("image", "build an image of a node, or a container, for a target", _targets())
    image.add_argument(
        "--target",
        choices=[*TARGETS],
        help=f"what to deliver (default: {build.NODE}, {build.CONTAINER} of a container)",
    )
    image.add_argument("--definition", type=Path, metavar="FILE", help="default: image/node.yaml")
    image.add_argument("--release", action="store_true", help="compress for size instead of for time")
    container = verb("container", "build a container for 'docker load'")
    container.add_argument("definition", type=Path, metavar="DEFINITION")
    check = verb("verify", "build what is in a folder once more and compare all bytes")
    check.add_argument("directory", type=Path, metavar="DIR", help="what 'osbuild image' or 'container' made")
    check.add_argument("--definition", type=Path, metavar="FILE", help="default: ours of that name")
    check.add_argument("--offline", action="store_true", help="build from the store alone; ask no mirror")
    lock = verb("lock", "resolve a definition's packages anew and write its lock")
    locking.add_lock_arguments(lock)
    scripts = verb(
        "scripts", "list the maintainer scripts of locked packages with their review, or accept what you have read"
    )
    locking.add_scripts_arguments(scripts)
    tools = verb("tools", "print the command line that runs a program of the tools closure")
    tools.add_argument("program", nargs="?", metavar="PROGRAM", help="without it, all programs are listed")
    store = verb("cache", "show what the store holds, or drop what no lock needs any more")
    store.add_argument("--prune", action="store_true", help="drop what is neither in our locks nor in those of --keep")
    store.add_argument("--keep", type=Path, metavar="LOCK", action="append", default=[], help="a lock of yours, too")
    schema.add_arguments(verb("schema", "print what a definition may hold, for editors and readers"))
    starter.add_arguments(verb("new", "begin a definition of your own that adds to ours"))
    for each in (image, container):
        each.add_argument("--arch", choices=NAMES, help="build for this one (default: as the definition says, amd64)")
        each.add_argument("--output", type=Path, metavar="DIR", help="where the artifacts go (default: build/...)")
        each.add_argument("--force", action="store_true", help="build even if the output is up to date")
        each.add_argument("--timings", action="store_true", help="print where the time went (--json always does)")
        each.add_argument("--offline", action="store_true", help="build from the store alone; ask no mirror")
        each.add_argument("--no-cache", action="store_true", help="do every step anew; only downloads are kept")
    for each in (image, container, check, lock, scripts, tools):
        each.add_argument("--mirror", metavar="URL", help="archive to fetch from (default: as the host's apt)")
        each.add_argument("--snapshot", metavar="URL", help="archive to ask for packages that the mirror has no more")
    for each in (image, container, check, lock, scripts, tools, store):
        each.add_argument("--store", type=Path, metavar="DIR", help="the cache (default: ~/.cache/flotilla)")
        each.add_argument("--json", action="store_true", help="print the result for a machine")
        each.add_argument("--quiet", action="store_true", help="no progress")
    inspect.add_verb(verb)
    diff.add_verb(verb)
    plan.add_verb(verb)
    allowance.add_verb(verb)
    return parser


def _targets() -> str:
    """All targets, a line each."""
    width = max(map(len, TARGETS))
    return (
        "\n".join(["targets:", *(f"  {name:{width}}  {target.summary}" for name, target in TARGETS.items())]) + "\n\n"
    )


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        definition=arguments.definition,
        target=getattr(arguments, "target", None),
        output=arguments.output,
        store=arguments.store,
        mirror=arguments.mirror,
        snapshot=arguments.snapshot,
        architecture=arguments.arch,
        release=getattr(arguments, "release", False),
        force=arguments.force,
        offline=arguments.offline,
        cache="replace" if arguments.no_cache else "use",
        phases=Phases(quiet=arguments.quiet),
    )


def _image(arguments: argparse.Namespace) -> int:
    return _told(build.build_image(_settings(arguments)), arguments)


def _container(arguments: argparse.Namespace) -> int:
    return _told(build.build_container(_settings(arguments)), arguments)


def _verify(arguments: argparse.Namespace) -> int:
    settings = Settings(
        definition=arguments.definition,
        store=arguments.store,
        mirror=arguments.mirror,
        snapshot=arguments.snapshot,
        offline=arguments.offline,
        phases=Phases(quiet=arguments.quiet),
    )
    verdict = verify.verify(arguments.directory, settings)
    if arguments.json:
        told = {"directory": str(verdict.directory), "same": verdict.is_same, "inputs": verdict.inputs}
        print(json.dumps({**told, "artifacts": [asdict(artifact) for artifact in verdict.artifacts]}))
    else:
        print(verify.describe(verdict))
    return 0 if verdict.is_same else 1


def _told(result: BuildResult, arguments: argparse.Namespace) -> int:
    if arguments.json:
        told = {"directory": str(result.directory), "changed": result.changed, "seconds": result.seconds}
        print(json.dumps({**told, "spans": [asdict(span) for span in result.spans], "total": result.total}))
    elif result.changed:
        print(f"built {result.directory}")
    else:
        print(f"{result.directory} is up to date")
    if arguments.timings and not arguments.json:
        print(timings.describe(result.total, result.spans))
    return 0


def _tools(arguments: argparse.Namespace) -> int:
    store, phases = Store(arguments.store), Phases(quiet=arguments.quiet)
    with cache.in_use(store):
        tools = Tools.ours(store, lambda: mirror.find(arguments.mirror, arguments.snapshot), detail=phases.detail)
    if arguments.program is None:
        programs = tools.programs()
        print(json.dumps(programs) if arguments.json else "\n".join(programs))
        return 0
    words = tools.command(arguments.program)
    print(json.dumps(words) if arguments.json else shlex.join(words))
    return 0


def _cache(arguments: argparse.Namespace) -> int:
    store = Store(arguments.store)
    gone: list[cache.Holding] = []
    if arguments.prune:
        keep = [Lock.load(path) for path in [*sorted(data.image().rglob("*.lock")), *arguments.keep]]
        with Phases(quiet=arguments.quiet).phase("pruning"):
            gone = cache.prune(store, keep, our_lock())
    held = cache.holdings(store)
    if arguments.json:
        print(json.dumps({"store": str(store.root), "held": [*map(asdict, held)], "pruned": [*map(asdict, gone)]}))
        return 0
    if gone:
        count, size = sum(each.artifacts for each in gone), sum(each.bytes for each in gone)
        print(f"pruned {count} artifacts, {size / 1e6:.1f} MB")
    total = cache.Holding("all", sum(each.artifacts for each in held), sum(each.bytes for each in held))
    rows = [[each.kind, str(each.artifacts), f"{each.bytes / 1e6:.1f} MB"] for each in [*held, total]]
    print(table(rows, [str(store.root), "artifacts", "size"]))
    return 0

"""The command ``osbuild``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from builder import apt, build, cache, data, definition, explain, mirror, plan, resolve
from builder.build import BuildResult, Settings
from builder.fetch import FetchFailure
from builder.lockfile import Lock
from builder.mirror import Mirror
from builder.store import Store
from builder.targets import TARGETS
from builder.tools import Tools, our_lock
from terminal import Failure, Phases, command, table
from terminal.release import VERSION

_EXAMPLES: Final = {
    "image": """
  osbuild image --target qemu            build the node image into build/qemu/
  osbuild image --output /srv/image      the same, elsewhere""",
    "container": """
  osbuild container image/containers/redis.yaml
                                         build a docker-archive into build/container/redis/""",
    "lock": """
  osbuild lock                           take the archive's newest versions into image/node.lock
  osbuild lock --check                   would that change anything? 1 if it would
  osbuild lock image/tools.yaml          the same for the tools that builds run""",
    "tools": """
  osbuild tools etcd                     print how to run a tool of the closure""",
    "cache": """
  osbuild cache                          show what the store holds
  osbuild cache --prune                  drop what no lock needs any more""",
    **explain.EXAMPLES,
    **plan.EXAMPLES,
}


def main() -> int:
    """Console script."""
    return command("osbuild", run)


def run(argv: Sequence[str]) -> int:
    """Run ``osbuild`` with these arguments; returns the exit code."""
    arguments = _parser().parse_args(argv)
    handlers = {"image": _image, "container": _container, "lock": _lock, "tools": _tools, "cache": _cache}
    handlers |= {"inspect": explain.inspect, "diff": explain.diff, "plan": plan.run}
    return handlers[arguments.verb](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="osbuild",
        description="Build node images and containers from Debian packages: no root, no dpkg, from a hash lock.",
        epilog="examples:" + "".join(_EXAMPLES.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"osbuild {VERSION}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"examples:{_EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    image = verb("image", "build a node image")
    image.add_argument(
        "--target", default="qemu", choices=sorted(TARGETS), help="what to deliver (default: %(default)s)"
    )
    image.add_argument("--definition", type=Path, metavar="FILE", help="default: image/node.yaml")
    image.add_argument("--release", action="store_true", help="compress for size instead of for time")
    container = verb("container", "build a container for 'docker load'")
    container.add_argument("definition", type=Path, metavar="DEFINITION")
    lock = verb("lock", "resolve a definition's packages anew and write its lock")
    lock.add_argument(
        "definition", type=Path, nargs="?", metavar="DEFINITION", help="default: image/node.yaml; its lock is beside it"
    )
    lock.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the lock would change")
    lock.add_argument("--allow-expired", action="store_true", help="accept an archive that stands still (a snapshot)")
    # For one case, which the failure that leads there names: the mirror has dropped a package of image/tools.lock.
    lock.add_argument("--host-apt", action="store_true", help=argparse.SUPPRESS)
    tools = verb("tools", "print the command line that runs a program of the tools closure")
    tools.add_argument("program", nargs="?", metavar="PROGRAM", help="without it, all programs are listed")
    store = verb("cache", "show what the store holds, or drop what no lock needs any more")
    store.add_argument("--prune", action="store_true", help="drop what is neither in our locks nor in those of --keep")
    store.add_argument("--keep", type=Path, metavar="LOCK", action="append", default=[], help="a lock of yours, too")
    for each in (image, container):
        each.add_argument("--output", type=Path, metavar="DIR", help="where the artifacts go (default: build/...)")
        each.add_argument("--force", action="store_true", help="build even if the output is up to date")
    for each in (image, container, lock, tools):
        each.add_argument("--mirror", metavar="URL", help="archive to fetch from (default: as the host's apt)")
    for each in (image, container, lock, tools, store):
        each.add_argument("--store", type=Path, metavar="DIR", help="the cache (default: ~/.cache/flotilla)")
        each.add_argument("--json", action="store_true", help="print the result for a machine")
        each.add_argument("--quiet", action="store_true", help="no progress")
    explain.add_verbs(verb)
    plan.add_verb(verb)
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        definition=arguments.definition,
        target=getattr(arguments, "target", "qemu"),
        output=arguments.output,
        store=arguments.store,
        mirror=arguments.mirror,
        release=getattr(arguments, "release", False),
        force=arguments.force,
        phases=Phases(quiet=arguments.quiet),
    )


def _image(arguments: argparse.Namespace) -> int:
    return _told(build.build_image(_settings(arguments)), arguments)


def _container(arguments: argparse.Namespace) -> int:
    return _told(build.build_container(_settings(arguments)), arguments)


def _told(result: BuildResult, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps({"directory": str(result.directory), "changed": result.changed, "seconds": result.seconds}))
    elif result.changed:
        print(f"built {result.directory}")
    else:
        print(f"{result.directory} is up to date")
    return 0


def _lock(arguments: argparse.Namespace) -> int:
    path = arguments.definition or data.image() / "node.yaml"
    what = definition.load(path)
    lock_path = path.with_suffix(".lock")
    if not os.access(lock_path.parent, os.W_OK):
        raise Failure(
            "the lock's folder is not yours to write",
            where=str(lock_path.parent),
            hint="copy the definition to a folder of your own and name it: osbuild lock FILE",
        )
    store, phases, source = Store(arguments.store), Phases(quiet=arguments.quiet), mirror.find(arguments.mirror)
    with cache.in_use(store), store.scratch() as state:
        programs = apt.host_programs() if arguments.host_apt else _closure_apt(store, source, phases)
        with phases.phase(f"resolving {len(what.packages)} packages"):
            found = resolve.lock_command(
                resolve.Request.of(what),
                lock_path,
                programs=programs,
                mirror=source,
                state=state,
                check_only=arguments.check,
                allow_expired=arguments.allow_expired,
                detail=phases.detail,
            )
    if arguments.json:
        print(json.dumps([{"name": change.name, "change": change.verb} for change in found]))
    elif found:
        print(resolve.describe(found))
    else:
        print(f"{lock_path}: nothing changed")
    return 1 if arguments.check and found else 0


def _closure_apt(store: Store, source: Mirror, phases: Phases) -> apt.Programs:
    try:
        with phases.phase("tools"):
            return Tools.ours(store, lambda: source, detail=phases.detail).apt()
    except FetchFailure as failure:
        # Its own advice, 'osbuild lock', is what is being done.
        failure.hint = (
            "if the mirror has dropped it: on a Debian host 'osbuild lock --host-apt image/tools.yaml' takes the newest tools, with "
            "the host's own apt; or name a mirror that keeps old versions (a snapshot) with --mirror URL"
        )
        raise


def _tools(arguments: argparse.Namespace) -> int:
    store, phases = Store(arguments.store), Phases(quiet=arguments.quiet)
    with cache.in_use(store):
        tools = Tools.ours(store, lambda: mirror.find(arguments.mirror), detail=phases.detail)
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

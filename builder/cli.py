"""The command ``osbuild``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from builder import build, data, definition, lockfile, mirror, resolve
from builder.build import BuildResult, Settings
from builder.store import Store
from builder.targets import TARGETS
from builder.tools import Tools
from terminal import Failure, Phases, command

_EXAMPLES: Final = """examples:
  osbuild image --target qemu            build the node image into build/qemu/
  osbuild image --output /srv/image      the same, elsewhere
  osbuild container image/containers/redis.yaml
                                         build a docker-archive into build/container/redis/
  osbuild lock                           take the archive's newest versions into image/node.lock
  osbuild lock image/tools.yaml          the same for the tools that builds run
  osbuild tools etcd                     print how to run a tool of the closure
"""


def main() -> int:
    """Console script."""
    return command("osbuild", run)


def run(argv: Sequence[str]) -> int:
    """Run ``osbuild`` with these arguments; returns the exit code."""
    arguments = _parser().parse_args(argv)
    handlers = {"image": _image, "container": _container, "lock": _lock, "tools": _tools}
    return handlers[arguments.verb](arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="osbuild",
        description="Build node images and containers from Debian packages: no root, no dpkg, from a hash lock.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"osbuild {version('flotilla')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    image = verbs.add_parser("image", help="build a node image", epilog=_EXAMPLES, formatter_class=_formatter())
    image.add_argument(
        "--target", default="qemu", choices=sorted(TARGETS), help="what to deliver (default: %(default)s)"
    )
    image.add_argument("--definition", type=Path, metavar="FILE", help="default: image/node.yaml")
    image.add_argument("--release", action="store_true", help="compress for size instead of for time")
    container = verbs.add_parser("container", help="build a container for 'docker load'")
    container.add_argument("definition", type=Path, metavar="DEFINITION")
    lock = verbs.add_parser("lock", help="resolve a definition's packages anew and write its lock")
    lock.add_argument(
        "definition", type=Path, nargs="?", metavar="DEFINITION", help="default: image/node.yaml; its lock is beside it"
    )
    lock.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the lock would change")
    tools = verbs.add_parser("tools", help="print the command line that runs a program of the tools closure")
    tools.add_argument("program")
    for verb in (image, container):
        verb.add_argument("--output", type=Path, metavar="DIR", help="where the artifacts go (default: build/...)")
        verb.add_argument("--force", action="store_true", help="build even if the output is up to date")
    for verb in (image, container, lock, tools):
        verb.add_argument("--store", type=Path, metavar="DIR", help="the cache (default: ~/.cache/flotilla)")
        verb.add_argument("--mirror", metavar="URL", help="archive to fetch from (default: as the host's apt)")
        verb.add_argument("--json", action="store_true", help="print the result for a machine")
        verb.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _formatter() -> type[argparse.HelpFormatter]:
    return argparse.RawDescriptionHelpFormatter


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
    store = Store(arguments.store)
    mirrors = mirror.find(arguments.mirror, environment=os.environ)
    phases = Phases(quiet=arguments.quiet)
    tools = Tools.open(lockfile.Lock.load(data.image() / "tools.lock"), store, lambda: mirrors, detail=phases.detail)
    lock_path = path.with_suffix(".lock")
    if not os.access(lock_path.parent, os.W_OK):
        raise Failure(
            "the lock's folder is not yours to write",
            where=str(lock_path.parent),
            hint="copy the definition to a folder of your own and name it: osbuild lock FILE",
        )
    with phases.phase(f"resolving {len(what.packages)} packages"), store.scratch() as state:
        found = resolve.lock_command(
            build.request(what),
            lock_path,
            programs=tools.apt(),
            mirror=mirrors,
            state=state,
            check_only=arguments.check,
            detail=phases.detail,
        )
    if arguments.json:
        print(json.dumps([{"name": change.name, "change": change.verb} for change in found]))
    elif found:
        print(resolve.describe(found))
    else:
        print(f"{lock_path}: nothing changed")
    return 1 if arguments.check and found else 0


def _tools(arguments: argparse.Namespace) -> int:
    tools = Tools.open(
        lockfile.Lock.load(data.image() / "tools.lock"),
        Store(arguments.store),
        lambda: mirror.find(arguments.mirror, environment=os.environ),
    )
    words = tools.command(arguments.program)
    print(json.dumps(words) if arguments.json else " ".join(words))
    return 0

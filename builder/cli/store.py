"""``osbuild tools`` and ``osbuild cache``: what lies in the store."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Final

from builder.cli.verb import Verb, add_common, add_mirror
from builder.core import data
from builder.core.store import Store
from builder.debian import mirror
from builder.debian.lockfile import Lock
from builder.debian.tools import Tools, our_lock
from builder.pipeline import cache
from terminal import Phases, table

EXAMPLES: Final = {
    "tools": """
  osbuild tools etcd                     print how to run a tool of the closure""",
    "cache": """
  osbuild cache                          show what the store holds
  osbuild cache --prune                  drop what no lock needs any more""",
}


def add_verbs(verb: Verb) -> None:
    """Add the parsers of both."""
    tools = verb("tools", "print the command line that runs a program of the tools closure")
    tools.add_argument("program", nargs="?", metavar="PROGRAM", help="without it, all programs are listed")
    store = verb("cache", "show what the store holds, or drop what no lock needs any more")
    store.add_argument("--prune", action="store_true", help="drop what is neither in our locks nor in those of --keep")
    store.add_argument("--keep", type=Path, metavar="LOCK", action="append", default=[], help="a lock of yours, too")
    tools.set_defaults(run=_tools)
    store.set_defaults(run=_cache)
    add_mirror(tools)
    add_common(tools)
    add_common(store)


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

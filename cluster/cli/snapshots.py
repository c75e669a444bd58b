"""``cluster snapshot``, ``restore`` and ``snapshots``."""

from __future__ import annotations

import argparse
import json
import time

from cluster.cli.verbs import Verbs, json_argument, with_name
from cluster.client.cluster import Cluster
from cluster.lifecycle import snapshot
from cluster.lifecycle.restore import restore, take
from cluster.lifecycle.snapshot import Snapshot
from terminal import Failure, Phases, table

EXAMPLES = """\
examples:
  cluster snapshot healthy                 the cluster goes on; what it was is kept
  cluster restore healthy                  it is as it was, in seconds
  cluster restore healthy --name copy      another cluster beside it, from the same moment
  cluster snapshots                        what there is
  cluster snapshots --remove healthy
"""


def add(verbs: Verbs) -> None:
    """The three verbs."""
    sub = verbs.add("snapshot", "keep a running cluster as it is: memory, disks and devices", _take, examples=EXAMPLES)
    sub.add_argument("tag", metavar="TAG")
    sub = verbs.add("restore", "make a cluster from a snapshot", _restore, examples=EXAMPLES)
    sub.add_argument("tag", metavar="TAG")
    sub = verbs.add("snapshots", "list or remove snapshots", _snapshots, examples=EXAMPLES, named=False)
    sub.add_argument("--remove", metavar="TAG", action="append", default=[], help="remove this one (may be repeated)")
    json_argument(sub)


def _take(arguments: argparse.Namespace) -> int:
    snapshot.folder_of(arguments.tag)  # report an invalid tag first
    made = take(Cluster.open(arguments.name), arguments.tag, Phases())
    print(f"snapshot {made.tag!r}: {made.description.size} nodes, {made.bytes >> 20} MiB in {made.folder}")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    cluster = restore(arguments.tag, arguments.name, Phases())
    print(f"cluster {cluster.name!r} is back: {len(cluster.nodes)} nodes, healthy")
    print(f'next: eval "$({with_name("cluster env", cluster.name)})"')
    return 0


def _snapshots(arguments: argparse.Namespace) -> int:
    for tag in arguments.remove:
        if not snapshot.discard(tag):
            raise Failure(f"there is no snapshot {tag!r}", hint="cluster snapshots")
    found = [Snapshot.open(tag) for tag in snapshot.tags()]
    if arguments.json:
        entries = [
            {
                "tag": one.tag,
                "made_at": one.made_at,
                "nodes": one.description.size,
                "of": one.description.name,
                "bytes": one.bytes,
                "machinery": one.machinery,
                "folder": str(one.folder),
            }
            for one in found
        ]
        print(json.dumps(entries))
    elif not arguments.remove:
        rows = [
            [
                one.tag,
                one.description.name,
                str(one.description.size),
                f"{one.bytes >> 20} MiB",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(one.made_at)),
            ]
            for one in found
        ]
        print(table(rows, ["TAG", "OF", "NODES", "SIZE", "MADE"]))
    return 0

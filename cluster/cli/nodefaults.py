"""``cluster fault kill``, ``pause``, ``disk-slow`` and so on: what can happen to single nodes."""

from __future__ import annotations

import argparse

from cluster.cli.verbs import Verbs, byte_count, told
from cluster.cluster import Cluster
from cluster.disk import KINDS
from cluster.node import Node

SLOW_EXAMPLES = """\
examples:
  cluster fault disk-slow node-2 --iops 20          twenty requests a second
  cluster fault disk-slow node-2 --rate 1M          one MiB a second
"""
ERRORS_EXAMPLES = """\
examples:
  cluster fault disk-errors node-2                  its writes fail: the file system goes read-only
  cluster fault disk-errors node-2 --read           its reads, too
  cluster fault disk-errors node-2 --kind enospc    this computer's disk is full: it stands still until that is healed
"""
CORRUPT_EXAMPLES = """\
examples (the node must be off: cluster fault kill node-2):
  cluster fault disk-corrupt node-2 /var/lib/etcd/data/member/snap/db --offset 16384 --bytes 512
  cluster fault disk-corrupt node-2 --offset 1080   of the disk: the magic number of its file system
"""


def add_faults(faults: Verbs) -> None:
    """``kill``, ``pause``, ``resume`` and those of disks."""
    for name, text, run in (
        ("kill", "pull a node's plug; 'cluster start' boots it again", _kill),
        ("pause", "stop a node's time", _pause),
        ("resume", "let a paused node's time go on", _resume),
    ):
        _node_argument(faults.add(name, text, run))
    sub = _node_argument(faults.add("disk-slow", "make a node's state disk slow", _slow, examples=SLOW_EXAMPLES))
    sub.add_argument("--iops", type=int, metavar="N", help="at most so many requests a second")
    sub.add_argument("--rate", type=byte_count, metavar="SIZE", help="at most so many bytes a second: 512K, 1M")
    sub = _node_argument(faults.add("disk-errors", "have a node's state disk fail", _errors, examples=ERRORS_EXAMPLES))
    sub.add_argument("--read", action="store_true", help="reads fail, too")
    sub.add_argument("--read-only", action="store_true", help="reads fail, writes do not")
    sub.add_argument("--kind", choices=sorted(KINDS), default="eio", help="what it says (%(default)s)")
    sub = _node_argument(faults.add("disk-full", "fill a node's state file system", _full))
    sub.add_argument("--leave", type=byte_count, default=0, metavar="SIZE", help="but for so many bytes (0)")
    sub = faults.add(
        "disk-corrupt", "invert bytes on the disk of a node that is off", _corrupt, examples=CORRUPT_EXAMPLES
    )
    _node_argument(sub).add_argument(
        "path", metavar="PATH", nargs="?", help="of the file on the node; without it, the disk"
    )
    sub.add_argument("--offset", type=byte_count, default=0, metavar="N", help="from this byte (0)")
    sub.add_argument("--bytes", type=byte_count, default=1, metavar="N", help="so many (1)")


def _node_argument(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("node", metavar="NODE", help="node-2, or just 2")
    return parser


def _node(arguments: argparse.Namespace) -> Node:
    return Cluster.open(arguments.name).running_node(arguments.node)


def _kill(arguments: argparse.Namespace) -> int:
    _node(arguments).kill()
    return 0


def _pause(arguments: argparse.Namespace) -> int:
    _node(arguments).pause()
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    _node(arguments).resume()
    return 0


def _slow(arguments: argparse.Namespace) -> int:
    return told(arguments, _node(arguments).disk.slow(arguments.iops, arguments.rate))


def _errors(arguments: argparse.Namespace) -> int:
    reads, writes = arguments.read or arguments.read_only, not arguments.read_only
    return told(arguments, _node(arguments).disk.errors(write=writes, read=reads, kind=arguments.kind))


def _full(arguments: argparse.Namespace) -> int:
    return told(arguments, _node(arguments).disk.full(arguments.leave))


def _corrupt(arguments: argparse.Namespace) -> int:
    fault = _node(arguments).disk.corrupt(arguments.path, arguments.offset, arguments.bytes)
    return told(arguments, fault)

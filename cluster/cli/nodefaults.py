"""``cluster fault kill``, ``pause``, ``disk-slow`` and so on: what can happen to single nodes."""

from __future__ import annotations

import argparse

from cluster.cli.verbs import TIME, Verbs, byte_count, report_fault, seconds
from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.faults.disk import KINDS
from terminal import Phases, UsageFailure

SLOW_EXAMPLES = """\
examples:
  cluster fault disk-slow node-2 --iops 20          twenty requests a second
  cluster fault disk-slow node-2 --rate 1M          one MiB a second
"""
ERRORS_EXAMPLES = """\
examples:
  cluster fault disk-errors node-2                  its writes fail: the file system goes read-only
  cluster fault disk-errors node-2 --read           its reads, too
  cluster fault disk-errors node-2 --kind enospc    this computer's disk is full: it is stalled until that is healed
"""
CLOCK_EXAMPLES = """\
examples:
  cluster fault clock node-2 --step -3600s                     it is an hour ago there
  cluster fault clock node-2 --strobe 60s --period 500ms --duration 20s
"""
POWER_CUT_EXAMPLES = """\
examples:
  cluster fault power-cut node-2           its plug is pulled and put back: it boots with what was on its disk
  cluster fault power-cut --all            all nodes at one moment
"""
CORRUPT_EXAMPLES = """\
examples (the node must be off: cluster fault kill node-2):
  cluster fault disk-corrupt node-2 /var/lib/etcd/data/member/snap/db --offset 16384 --bytes 512
  cluster fault disk-corrupt node-2 --offset 1080   of the disk: the magic number of its file system
"""


def add_faults(faults: Verbs) -> None:
    """``kill``, ``pause``, ``resume``, those of disks and clocks, ``reboot`` and ``power-cut``."""
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
    sub.add_argument("--kind", choices=sorted(KINDS), default="eio", help="the error (%(default)s)")
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
    clock = faults.add("clock", "step a node's clock", _clock, examples=CLOCK_EXAMPLES)
    # argparse takes "-5" for a value, but "-5s" for an option, unless it has a pattern for times.
    clock._negative_number_matcher = TIME
    how = _node_argument(clock).add_mutually_exclusive_group(required=True)
    how.add_argument("--step", type=seconds, metavar="TIME", help="by so much, back if negative: -3600s, 90m")
    how.add_argument("--strobe", type=seconds, metavar="TIME", help="by so much and back to right, again and again")
    clock.add_argument("--period", type=seconds, default=1.0, metavar="TIME", help="of a strobe (1s)")
    clock.add_argument("--duration", type=seconds, default=30.0, metavar="TIME", help="of a strobe (30s)")
    sub = _node_argument(faults.add("reboot", "have a node's system reboot", _reboot))
    sub.add_argument("--hard", action="store_true", help="press the reset button instead")
    sub = faults.add("power-cut", "cut the power of nodes for a moment", _power_cut, examples=POWER_CUT_EXAMPLES)
    sub.add_argument("nodes", metavar="NODE", nargs="*", help="node-2, or just 2")
    sub.add_argument("--all", action="store_true", help="of every node")


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
    return report_fault(arguments, _node(arguments).disk.slow(arguments.iops, arguments.rate))


def _errors(arguments: argparse.Namespace) -> int:
    reads, writes = arguments.read or arguments.read_only, not arguments.read_only
    return report_fault(arguments, _node(arguments).disk.errors(write=writes, read=reads, kind=arguments.kind))


def _full(arguments: argparse.Namespace) -> int:
    return report_fault(arguments, _node(arguments).disk.full(arguments.leave))


def _corrupt(arguments: argparse.Namespace) -> int:
    fault = _node(arguments).disk.corrupt(arguments.path, arguments.offset, arguments.bytes)
    return report_fault(arguments, fault)


def _clock(arguments: argparse.Namespace) -> int:
    clock = _node(arguments).clock
    if arguments.step is not None:
        return report_fault(arguments, clock.step(arguments.step))
    return report_fault(
        arguments, clock.strobe(arguments.strobe, period_s=arguments.period, duration_s=arguments.duration)
    )


def _reboot(arguments: argparse.Namespace) -> int:
    node = _node(arguments)
    with Phases().phase(f"rebooting {node.name}"):
        node.reboot(graceful=not arguments.hard)
    return 0


def _power_cut(arguments: argparse.Namespace) -> int:
    if bool(arguments.nodes) == arguments.all:
        raise UsageFailure("which nodes?", hint="cluster fault power-cut node-2 node-3, or --all")
    cluster = Cluster.open(arguments.name)
    cluster.require_running()
    cluster.power_cut(cluster.nodes if arguments.all else [cluster.node(text) for text in arguments.nodes])
    return 0

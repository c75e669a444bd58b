"""``cluster fault cut``, ``partition``, ``degrade``, and ``cluster pcap``: what can be wrong with the network."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from cluster.cli.verbs import Verbs, report_fault
from cluster.client.cluster import Cluster
from cluster.client.net import Net
from cluster.network.pcap import BYTES_MAX
from terminal import Failure, UsageFailure

CUT_EXAMPLES = """\
examples:
  cluster fault cut node-1 node-2              neither hears the other
  cluster fault cut node-1 node-2 --one-way    node-2 does not hear node-1
  cluster fault cut node-1 host                node-1 does not see this computer's services
"""
PARTITION_EXAMPLES = """\
examples:
  cluster fault partition --halves             two halves; the higher numbers have the majority
  cluster fault partition --isolate node-2     node-2 sees no other node
  cluster fault partition --ring               every node sees a different majority (four nodes or more)
  cluster fault partition --bridge node-2      two halves, and node-2 which sees both
  cluster fault partition --groups 1,2/3       nodes 1 and 2 see each other, not 3
"""
DEGRADE_EXAMPLES = """\
examples:
  cluster fault degrade node-1 node-2 --delay 75ms --jitter 50ms --loss 20%
  cluster fault degrade 1 2 --rate 1mbit --one-way     from node-1 to node-2 only
  cluster fault degrade 1 2 --duplicate 1% --reorder 10% --corrupt 1% --seed 7
"""
PCAP_EXAMPLES = """\
examples:
  cluster pcap node-2 node-2.pcap                      until Ctrl-C; then: tcpdump -nr node-2.pcap
  cluster pcap node-2 node-2.pcap --seconds 30 --missed lost.pcap
"""


def add_faults(faults: Verbs) -> None:
    """``cut``, ``partition`` and ``degrade``."""
    sub = faults.add("cut", "cut the link between two nodes", _cut, examples=CUT_EXAMPLES)
    _link_arguments(sub)
    sub = faults.add(
        "partition", "cut links so that nodes see only some others", _partition, examples=PARTITION_EXAMPLES
    )
    shape = sub.add_mutually_exclusive_group(required=True)
    shape.add_argument("--halves", action="store_true", help="two halves")
    shape.add_argument("--isolate", metavar="NODE", help="one node sees no other")
    shape.add_argument("--ring", action="store_true", help="every node sees a different majority")
    shape.add_argument("--bridge", metavar="NODE", help="two halves, and one node which sees both")
    shape.add_argument(
        "--groups", metavar="1,2/3", help="groups of nodes ('host' is this computer), with / between them"
    )
    sub.add_argument("--host", action="store_true", help="with --isolate: nor this computer's services")
    sub = faults.add("degrade", "make the link between two nodes bad", _degrade, examples=DEGRADE_EXAMPLES)
    _link_arguments(sub)
    for name, metavar, text in (
        ("delay", "TIME", "every frame is so much later"),
        ("jitter", "TIME", "the delay varies by so much, up and down"),
        ("loss", "SHARE", "this share is lost"),
        ("duplicate", "SHARE", "this share arrives twice"),
        ("reorder", "SHARE", "this share is overtaken by what was sent later"),
        ("corrupt", "SHARE", "this share has one byte changed"),
        ("rate", "RATE", "no more than so many bits a second"),
    ):
        # A percent sign in a help text of argparse is written twice; none of these has one.
        sub.add_argument(f"--{name}", metavar=metavar, help=text)
    sub.add_argument("--seed", type=int, metavar="N", help="of the random generator (default: a new one, printed)")


def add(verbs: Verbs) -> None:
    """``pcap``."""
    sub = verbs.add("pcap", "record a node's cluster card in a file", _pcap, examples=PCAP_EXAMPLES)
    sub.add_argument("node", metavar="NODE", help="node-2, or just 2, or 'host' for this computer")
    sub.add_argument("file", metavar="FILE", type=Path, help="what it sends (before faults) and is given (after them)")
    sub.add_argument("--missed", metavar="FILE", type=Path, help="what was dropped on the way to it")
    sub.add_argument("--seconds", metavar="S", type=float, help="end after so long (until Ctrl-C)")
    sub.add_argument(
        "--mib", metavar="N", type=int, default=BYTES_MAX >> 20, help="a file's size at most (%(default)s)"
    )


def _link_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("one", metavar="A", help="node-1, or just 1, or 'host' for this computer")
    parser.add_argument("other", metavar="B")
    parser.add_argument("--one-way", action="store_true", help="from A to B only")


def _net(arguments: argparse.Namespace) -> Net:
    cluster = Cluster.open(arguments.name)
    cluster.require_running()
    return cluster.net


def _cut(arguments: argparse.Namespace) -> int:
    return report_fault(arguments, _net(arguments).cut(arguments.one, to=arguments.other, one_way=arguments.one_way))


def _partition(arguments: argparse.Namespace) -> int:
    if arguments.host and arguments.isolate is None:
        raise UsageFailure("--host goes with --isolate", hint="--groups 1,host/2,3 says where this computer is")
    net = _net(arguments)
    if arguments.isolate is not None:
        fault = net.isolate(arguments.isolate, host=arguments.host)
    elif arguments.bridge is not None:
        fault = net.bridge(arguments.bridge)
    elif arguments.groups is not None:
        fault = net.partition(*([word.strip() for word in part.split(",")] for part in arguments.groups.split("/")))
    else:
        fault = net.halves() if arguments.halves else net.majority_ring()
    return report_fault(arguments, fault)


def _degrade(arguments: argparse.Namespace) -> int:
    shares = {name: getattr(arguments, name) or 0.0 for name in ("loss", "duplicate", "reorder", "corrupt")}
    fault = _net(arguments).degrade(
        arguments.one,
        arguments.other,
        delay=arguments.delay or 0.0,
        jitter=arguments.jitter or 0.0,
        rate=arguments.rate,
        one_way=arguments.one_way,
        seed=arguments.seed,
        **shares,
    )
    return report_fault(arguments, fault)


def _pcap(arguments: argparse.Namespace) -> int:
    if arguments.mib < 1:
        raise UsageFailure(f"--mib {arguments.mib}: at least 1")
    if arguments.seconds is not None and arguments.seconds <= 0:
        raise UsageFailure(f"--seconds {arguments.seconds:g}: more than 0")
    net = _net(arguments)
    with net.pcap(arguments.node, arguments.file, missed=arguments.missed, bytes_max=arguments.mib << 20) as captured:
        _wait(arguments.seconds)
    for part in captured.values():
        if part["trouble"] is not None:
            raise Failure(f"the capture is incomplete: {part['trouble']}", where=part["path"])
        rest = f", {part['left_out']} more did not fit: --mib" if part["left_out"] else ""
        print(f"{part['path']}: {part['frames']} frames{rest}")
    return 0


def _wait(limit_s: float | None) -> None:
    """Until the time is over, or until Ctrl-C or SIGTERM, which is how a recording without an end is ended."""
    wanted = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        if limit_s is None:
            print("recording until Ctrl-C", file=sys.stderr, flush=True)
            signal.sigwait(wanted)
        else:
            signal.sigtimedwait(wanted, limit_s)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

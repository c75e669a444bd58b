"""The commands ``cluster``, ``cluster-up`` and ``cluster-down``.

Each module here is a group of verbs with a function ``add``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cluster.cli import completion, console, doctor, faults, lifecycle, network, nodes, snapshots, view
from cluster.cli.lifecycle import check, down, up_arguments
from cluster.cli.verbs import Verbs, name_argument, new_parser
from cluster.lifecycle.cleanup import sweep
from terminal import command

EXAMPLES = """\
examples:
  cluster up 3                         three nodes; builds the image if it is missing or stale
  eval "$(cluster env)"                a plain fleetctl now talks to that cluster
  cluster status                       what runs, and where
  cluster ssh node-2                   a shell on a node
  cluster ssh node-2 docker ps         or one command
  cluster console node-2               a root shell on it that needs no network (Ctrl-] leaves)
  cluster logs -u fleet                what fleet logged, on all nodes
  cluster fault kill node-2            pull its plug
  cluster fault partition --isolate node-2
  cluster fault degrade node-1 node-2 --delay 75ms --loss 20%
  cluster fault heal                   the network is whole again
  cluster start node-2                 switch it on again, with the disk it has
  cluster snapshot healthy             keep it as it is now
  cluster restore healthy              and go back to that in seconds
  cluster up 3 --name lab              another cluster beside the first
  cluster down                         remove every process and file of it
"""
UP_EXAMPLES = """\
examples:
  cluster-up 3                                       three nodes of the cluster "default"
  cluster-up 3 --load-image build/container/redis/redis.tar
  cluster-up 5 --name lab --memory 768               five small ones, beside it
  cluster-up 3 --image build/qemu --user-data my.yaml.j2
  cluster-up 3 --ssh-port 3001 --keep                ports 3001 to 3003; a failed start is left to look at
"""
DOWN_EXAMPLES = """\
examples:
  cluster-down               remove the cluster "default"
  cluster-down --name lab    remove the cluster "lab"
"""


def main() -> int:
    """Entry point of ``cluster``."""
    return command("cluster", lambda argv: _run(_parser(), argv), remote=("ssh", "console"))


def main_up() -> int:
    """Entry point of ``cluster-up``."""
    parser = _up_parser()
    return command("cluster-up", lambda argv: _run(parser, argv))


def check_up() -> int:
    """For ``scripts/cluster-up``, before anything is installed: are these arguments of ``cluster-up`` right?

    Needs nothing but the standard library.
    """
    parser = _up_parser()
    return command("cluster-up", lambda argv: check(parser.parse_args(argv)))


def main_down() -> int:
    """Entry point of ``cluster-down``."""
    return command("cluster-down", lambda argv: _run(_down_parser(), argv))


def _down_parser() -> argparse.ArgumentParser:
    parser = new_parser("cluster-down", "Remove every process and file of a cluster.", DOWN_EXAMPLES)
    name_argument(parser)
    parser.set_defaults(run=down)
    return parser


def _up_parser() -> argparse.ArgumentParser:
    parser = new_parser("cluster-up", "Bring up a cluster of virtual machines on this computer.", UP_EXAMPLES)
    up_arguments(parser)
    return parser


def _run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    arguments = parser.parse_args(argv)
    arguments.swept = sweep()
    for leftover in arguments.swept:
        print(f"cleaned up {leftover.what}: {leftover.name}", file=sys.stderr)
    code: int = arguments.run(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("cluster", "Clusters of virtual machines on this computer.", EXAMPLES)
    verbs = Verbs(parser, "commands", "COMMAND")
    up_arguments(
        verbs.add("up", "bring up a cluster", examples=UP_EXAMPLES.replace("cluster-up", "cluster up"), named=False)
    )
    for group in (lifecycle, view, nodes, console, snapshots, faults, network, doctor):
        group.add(verbs)
    completion.add(verbs, {"cluster": _parser, "cluster-up": _up_parser, "cluster-down": _down_parser})
    return parser

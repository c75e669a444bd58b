"""``cluster fault``: breaking something on purpose."""

from __future__ import annotations

import argparse

from cluster.cli import network
from cluster.cli.verbs import Verbs
from cluster.cluster import Cluster


def add(verbs: Verbs) -> None:
    """``fault`` and its own verbs."""
    faults = Verbs(verbs.add("fault", "break something on purpose", named=False), "faults", "FAULT")
    for name, text, run in (
        ("kill", "pull a node's plug; 'cluster start' boots it again", _kill),
        ("pause", "stop a node's time", _pause),
        ("resume", "let a paused node's time go on", _resume),
    ):
        faults.add(name, text, run).add_argument("node", metavar="NODE")
    network.add_faults(faults)


def _kill(arguments: argparse.Namespace) -> int:
    Cluster.open(arguments.name).running_node(arguments.node).kill()
    return 0


def _pause(arguments: argparse.Namespace) -> int:
    Cluster.open(arguments.name).running_node(arguments.node).pause()
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    Cluster.open(arguments.name).running_node(arguments.node).resume()
    return 0

"""``cluster fault``: breaking something on purpose."""

from __future__ import annotations

import argparse
import json

from cluster.cli import network, nodefaults
from cluster.cli.verbs import Verbs, json_argument, report_fault
from cluster.client.cluster import Cluster
from terminal import UsageFailure, table

TIME_SHIFT_S_MAX = 1e9
"""Some thirty years: further away, dates end in one direction or the other."""


def add(verbs: Verbs) -> None:
    """``fault`` and its own verbs."""
    faults = Verbs(verbs.add("fault", "break something on purpose", named=False), "faults", "FAULT")
    nodefaults.add_faults(faults)
    network.add_faults(faults)
    sub = faults.add("time", "have the time server that nodes ask be wrong", _time)
    sub.add_argument("seconds", metavar="SECONDS", type=float, help="late by these, early with a minus: -3600")
    json_argument(faults.add("list", "show what is broken on purpose", _list))
    sub = faults.add("heal", "end a fault, or all of them", _heal)
    sub.add_argument("id", metavar="ID", type=int, nargs="?", help="from 'cluster fault list'; without it, all")


def _time(arguments: argparse.Namespace) -> int:
    if not abs(arguments.seconds) < TIME_SHIFT_S_MAX:  # nor is nan
        raise UsageFailure(
            f"not a time to shift the clock by: {arguments.seconds:g}", hint="seconds, such as 3600 or -0.5"
        )
    return report_fault(arguments, _running(arguments).shift_time(arguments.seconds))


def _list(arguments: argparse.Namespace) -> int:
    faults = _running(arguments).faults()
    if arguments.json:
        print(json.dumps(faults))
    elif not faults:
        print("nothing is broken on purpose")
    else:
        print(table([[str(fault["id"]), fault["what"]] for fault in faults], ["ID", "FAULT"]))
    return 0


def _heal(arguments: argparse.Namespace) -> int:
    healed = _running(arguments).heal(arguments.id)
    print(f"healed: {', '.join(map(str, healed)) or 'nothing was broken'}")
    return 0


def _running(arguments: argparse.Namespace) -> Cluster:
    cluster = Cluster.open(arguments.name)
    cluster.require_running()
    return cluster

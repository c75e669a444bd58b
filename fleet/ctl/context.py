"""The command ``fleetctl context``: list, use, show, add and remove contexts."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from fleet.ctl import contexts
from fleet.ctl.contexts import Options
from fleet.ctl.endpoint import Credentials, parse_endpoints
from fleet.ctl.transport import parse_tunnel
from terminal import UsageFailure, table

NAME = "context"
SUMMARY = "clusters by name: where they are, and with which certificate"
EXAMPLES = (
    "fleetctl context add lab --endpoint https://10.0.0.1:2378,https://10.0.0.2:2378 --certificates ~/kim",
    "fleetctl context add far --tunnel 192.0.2.1 --ssh-username kim",
    "fleetctl context use lab",
    "fleetctl --context far list-units",
    "fleetctl context list",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("action", choices=tuple(_ACTIONS), metavar="ACTION", help="list, use, show, add or remove")
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="of a context; 'use' without it: none")
    parser.add_argument("--certificates", metavar="FOLDER", help="add: those that 'trust issue --user' put there")
    parser.add_argument("--json", action="store_true", help="list, show: as JSON")


def run(options: argparse.Namespace, given: Options) -> int:
    """Carry out the command; ``given`` are the global options on the command line. Returns the exit code."""
    action: Callable[[argparse.Namespace, Options, Mapping[str, str]], int] = _ACTIONS[options.action]
    if options.action not in ("list", "use", "show") and not options.name:
        raise UsageFailure("which context?", where=f"context {options.action}", hint="give its name")
    if given and options.action != "add":
        raise UsageFailure(f"--{min(given)} is for 'context add'", where=f"context {options.action}")
    return action(options, given, os.environ)


def _list(options: argparse.Namespace, _: Options, environment: Mapping[str, str]) -> int:
    known = contexts.load(contexts.file(environment))
    if options.json:
        rows = [{"name": name, "current": name == known.current, **one} for name, one in sorted(known.contexts.items())]
        print(json.dumps(rows, indent=1))
    elif known.contexts:
        shown = [
            ("*" if name == known.current else "", name, one.get("tunnel") or one.get("endpoint", "-"), _who(one))
            for name, one in sorted(known.contexts.items())
        ]
        print(table(shown, ("", "NAME", "ENDPOINT OR TUNNEL", "CERTIFICATE")))
    else:
        print("no contexts; fleetctl context add makes one")
    return 0


def _who(one: Options) -> str:
    return one.get("cert-file") or "-"


def _show(options: argparse.Namespace, _: Options, environment: Mapping[str, str]) -> int:
    known = contexts.load(contexts.file(environment))
    name = options.name or known.current
    if not name:
        raise UsageFailure("no context is in use", hint="fleetctl context list; fleetctl context use NAME")
    found = known.named(name)
    if options.json:
        print(json.dumps({"name": name, "current": name == known.current, **found}, indent=1))
    else:
        print("\n".join((name, *(f"  --{option} {value}" for option, value in sorted(found.items())))))
    return 0


def _use(options: argparse.Namespace, _: Options, environment: Mapping[str, str]) -> int:
    with contexts.changing(contexts.file(environment)) as known:
        known[0] = known[0].used(options.name)
    print(f"context {options.name} is in use" if options.name else "no context is in use")
    return 0


def _add(options: argparse.Namespace, given: Options, environment: Mapping[str, str]) -> int:
    folder = Path(options.certificates).expanduser() if options.certificates else None
    wanted = contexts.absolute({name: value for name, value in given.items() if name != NAME}, folder)
    if not wanted.get("endpoint") and not wanted.get("tunnel"):
        raise UsageFailure("where is the cluster?", where=options.name, hint="give --endpoint or --tunnel")
    parse_tunnel(wanted.get("tunnel", ""))
    if wanted.get("endpoint"):
        parse_endpoints(wanted["endpoint"], Credentials(*(wanted.get(name, "") for name in contexts.ISSUED)))
    with contexts.changing(contexts.file(environment)) as known:
        known[0] = known[0].with_one(options.name, wanted)
        if not known[0].current:
            known[0] = known[0].used(options.name)
        is_used = known[0].current == options.name
    print(
        f"context {options.name} is there" + (", and in use" if is_used else f"; fleetctl context use {options.name}")
    )
    return 0


def _remove(options: argparse.Namespace, _: Options, environment: Mapping[str, str]) -> int:
    with contexts.changing(contexts.file(environment)) as known:
        known[0] = known[0].without(options.name)
    print(f"context {options.name} is gone; its certificates stay where they are")
    return 0


_ACTIONS = {"list": _list, "use": _use, "show": _show, "add": _add, "remove": _remove}

"""The command ``flotilla-trust``, on a node: its certificates, as an issuer gives them.

Two units run it: flotilla-enrol.service before etcd, and flotilla-trust.service for as long as the node is up.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from terminal import Failure, Parser, command

PROG: Final = "flotilla-trust"
_EPILOG = """\
examples:
  flotilla-trust show                          who gave this node its certificates, and until when they are valid
  sudo flotilla-trust renew                    new keys and certificates, now; then restart what it says
  sudo flotilla-trust enrol                    what flotilla-enrol.service does: as user-data says (flotilla.trust)
  sudo flotilla-trust keep                     what flotilla-trust.service does
exit codes: 0 done, 1 refused or failed, 2 wrong usage
"""


def main() -> int:
    """The console script."""
    return command(PROG, run)


def run(arguments: Sequence[str]) -> int:
    """Run ``flotilla-trust ARGUMENTS``; returns the exit code, raises Failure."""
    options = new_parser().parse_args(arguments)
    return int(options.run(options))


def new_parser() -> Parser:
    """The command's arguments."""
    from enrolment import files
    from enrolment.node import ORDERS
    from enrolment.place import STORE

    parser = Parser(prog=PROG, description="This node's certificates, as an issuer gives them.", epilog=_EPILOG)
    parser.add_argument("--folder", metavar="DIR", type=Path, default=Path(files.FOLDER), help="default: %(default)s")
    parser.add_argument("--store", metavar="DIR", type=Path, default=STORE, help="default: %(default)s")
    parser.add_argument("--orders", metavar="FILE", type=Path, default=ORDERS, help="default: %(default)s")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("enrol", help="get the first certificates, as user-data says").set_defaults(run=_enrol)
    commands.add_parser("renew", help="get new certificates now").set_defaults(run=_renew)
    commands.add_parser("keep", help="renew in time, and read what was revoked, for ever").set_defaults(run=_keep)
    show = commands.add_parser("show", help="who gave the certificates, and until when they are valid")
    show.add_argument("--json", action="store_true", help="as JSON on standard output")
    show.set_defaults(run=_show)
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _enrol(options: argparse.Namespace) -> int:
    import socket

    from enrolment import keeper
    from enrolment.place import Place

    keeper.enrol(Place(options.folder, options.store), socket.gethostname(), _say, orders=options.orders)
    return 0


def _renew(options: argparse.Namespace) -> int:
    from enrolment import keeper, node
    from enrolment.place import Place

    given, authorities = node.renew(Place(options.folder, options.store))
    print(f"{given.name}: valid until {given.not_after}; restart {' '.join(keeper.restarted(authorities))}")
    return 0


def _keep(options: argparse.Namespace) -> int:
    from enrolment.keeper import Keeper, run
    from enrolment.place import Place

    place = Place(options.folder, options.store)
    keeper = Keeper(place, _say, run=lambda words: run(words, _say), orders=options.orders)
    while True:
        time.sleep(keeper.step())


def _show(options: argparse.Namespace) -> int:
    import datetime
    from dataclasses import asdict

    from enrolment import keeper
    from enrolment.place import Place

    known = Place(options.folder, options.store).enrolment()
    if known is None:
        raise Failure(
            "no issuer gave this node certificates",
            where=str(options.folder),
            hint="user-data names one (flotilla.trust), or brings certificates itself",
        )
    due = keeper.due(known).isoformat(timespec="seconds")
    if options.json:
        print(json.dumps({**asdict(known), "due": due}, indent=1))
        return 0
    left = datetime.datetime.fromisoformat(known.not_after) - datetime.datetime.now(datetime.UTC)
    state = f"in {left.days} days" if left > datetime.timedelta() else "expired"
    print(f"{known.name}: by {known.url}, valid until {known.not_after} ({state}), to be renewed {due}")
    return 0

"""The command ``trust``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from terminal import Parser, UsageFailure, command

if TYPE_CHECKING:
    from trust.issuer import Certificates

_EPILOG = """\
examples:
  trust init lab                                                 three authorities, in a new folder
  trust issue lab --node node-1 --address 10.0.0.1 fd00::1 --out node-1
  trust issue lab --user kim --role operator --days 30 --out kim
  trust show lab                                                 what was issued, and until when it is valid
  trust renew lab --node node-1 --out node-1.new
  trust revoke lab --user kim
Who has this folder's keys is root on every node: keep it, and its copy, where you keep such things.
"""
_INIT = """\
examples:
  trust init lab
  trust init ~/clusters/lab
"""
_SHOW = """\
examples:
  trust show lab
  trust show lab --json | jq -r '.certificates[] | select(.state == "due") | .name' | sort -u
states: valid, due (less than a third of its time is left: renew it), expired, revoked
"""
_ISSUE = """\
examples:
  trust issue lab --node node-1 --address 10.0.0.1 fd00::1 n1.example.net --out node-1
  trust issue lab --user kim --role reader --out kim
  trust issue lab --user lee --role operator --days 7 --etcd --out lee
"""
_RENEW = """\
examples:
  trust renew lab --node node-1 --out node-1.new          like the last ones: names, addresses, days
  trust renew lab --user kim --out kim.new
"""
_REVOKE = """\
examples:
  trust revoke lab --user kim
  trust revoke lab --node node-3 --json | jq -r '.lists[]'
"""


def main() -> int:
    """Entry point of the console script."""
    return command("trust", run)


def run(arguments: Sequence[str]) -> int:
    """Parse ``arguments`` and run the subcommand; returns the exit code. Raises Failure."""
    options = new_parser().parse_args(arguments)
    return int(options.run(options))


def new_parser() -> Parser:
    """What the command takes."""
    parser = Parser(
        prog="trust", description="Authorities, and the certificates of a cluster's nodes and users.", epilog=_EPILOG
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    sub = _verb(commands, "init", "make a trust folder with new authorities", _INIT)
    sub.set_defaults(run=_init)

    sub = _verb(commands, "show", "what a trust folder has issued", _SHOW)
    sub.add_argument("--json", action="store_true", help="as JSON on standard output")
    sub.set_defaults(run=_show)

    sub = _verb(commands, "issue", "certificates and keys for a node or a user", _ISSUE)
    _add_holder(sub)
    sub.add_argument(
        *("--address", "-a"), metavar="A", action="extend", nargs="+", default=[],
        help="of a node: an IP address or host name that others reach it at; several, and repeatable",
    )  # fmt: skip
    sub.add_argument("--role", choices=("reader", "operator"), help="of a user: a reader changes nothing")
    sub.add_argument(
        "--etcd", action="store_true", help="of an operator: also a certificate for etcd, which is root on every node"
    )
    sub.add_argument("--days", metavar="N", type=int, help="how long they are valid (a node: 730, a user: 30)")
    _add_out(sub)
    sub.set_defaults(run=_issue)

    sub = _verb(commands, "renew", "new certificates and keys like the last ones", _RENEW)
    _add_holder(sub)
    _add_out(sub)
    sub.set_defaults(run=_renew)

    sub = _verb(commands, "revoke", "revoke all certificates of a node or a user", _REVOKE)
    _add_holder(sub)
    sub.add_argument("--json", action="store_true", help="what was revoked, and the lists, as JSON on standard output")
    sub.set_defaults(run=_revoke)
    return parser


def _verb(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    text: str,
    epilog: str,
) -> Parser:
    sub = commands.add_parser(name, help=text, epilog=epilog)
    sub.add_argument("folder", metavar="DIR", type=Path, help="the trust folder")
    return sub


def _add_holder(sub: Parser) -> None:
    holder = sub.add_mutually_exclusive_group(required=True)
    holder.add_argument("--node", metavar="NAME", help="a node, by its host name")
    holder.add_argument("--user", metavar="NAME", help="a person or a program that uses the cluster")


def _add_out(sub: Parser) -> None:
    sub.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="a new folder for the files (mode 0700)")
    sub.add_argument("--json", action="store_true", help="what was issued, without keys, as JSON on standard output")


def _init(options: argparse.Namespace) -> int:
    from trust import issuer, overview

    issuer.create(options.folder)
    print(overview.read(options.folder).text())
    return 0


def _show(options: argparse.Namespace) -> int:
    from trust import overview

    found = overview.read(options.folder)
    print(json.dumps(found.as_json(), indent=1) if options.json else found.text())
    return 0


def _issue(options: argparse.Namespace) -> int:
    from trust import issuer, profile

    if options.node is not None:
        if options.role or options.etcd:
            raise UsageFailure("a node has no role", where="--role, --etcd", hint="leave it away, or name a --user")
        days = options.days if options.days is not None else profile.NODE_DAYS
        return _deliver(
            options, lambda: issuer.issue_node(options.folder, options.node, options.address, days=days, first=True)
        )
    if options.address:
        raise UsageFailure("a user has no address", where="--address", hint="leave it away, or name a --node")
    if options.role is None:
        raise UsageFailure("a user needs a role", hint="--role reader or --role operator")
    days = options.days if options.days is not None else profile.USER_DAYS
    return _deliver(
        options,
        lambda: issuer.issue_user(options.folder, options.user, options.role, days=days, etcd=options.etcd, first=True),
    )


def _renew(options: argparse.Namespace) -> int:
    from trust import issuer

    return _deliver(options, lambda: issuer.renew(options.folder, _holder(options), node=options.node is not None))


def _revoke(options: argparse.Namespace) -> int:
    from trust import issuer, profile

    name = _holder(options)
    revoked = issuer.revoke(options.folder, name, node=options.node is not None)
    lists = [str(options.folder / profile.crl_file(each)) for each in dict.fromkeys(one.authority for one in revoked)]
    if options.json:
        serials = [each.serial for each in revoked]
        print(json.dumps({"v": 1, "name": name, "revoked": serials, "lists": lists}, indent=1))
    elif revoked:
        print(f"{name}: {len(revoked)} revoked; copy to {profile.NODE_FOLDER} of every node: {' '.join(lists)}")
    else:
        print(f"{name}: all were revoked before")
    return 0


def _holder(options: argparse.Namespace) -> str:
    return str(options.node if options.node is not None else options.user)


def _deliver(options: argparse.Namespace, issue: Callable[[], Certificates]) -> int:
    """Issue into the folder of ``--out``, which is looked at before: what cannot be delivered is not issued."""
    from trust import folder

    with folder.made(options.out) as files:
        certificates = issue()
        files.update(certificates.files)
    _print_issued(options, certificates)
    return 0


def _print_issued(options: argparse.Namespace, issued: Certificates) -> None:
    from trust import ledger, profile

    if options.json:
        value = {
            "v": 1,
            "name": issued.name,
            "role": issued.role,
            "not_after": ledger.stamp(issued.not_after),
            "folder": str(options.out),
            "files": sorted(issued.files),
        }
        print(json.dumps(value, indent=1))
        return
    place = f"; their place on it is {profile.NODE_FOLDER}" if issued.role == "node" else ""
    print(f"{options.out}: {len(issued.files)} files of {issued.name}, valid until {issued.not_after:%Y-%m-%d}{place}")

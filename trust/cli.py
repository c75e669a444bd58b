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
  trust serve lab --listen 10.0.0.9:7380                         nodes get their certificates themselves, and renew them
  trust secret new lab --uses 3 --ttl 24h                        with this in their user-data
  trust restore copy-of-lab lab --lists lists-of-node-1          after the loss of a trust folder
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


_SERVE = """\
examples:
  trust serve lab --listen 10.0.0.9:7380
  trust serve lab --listen 0.0.0.0:7380 --name issuer.example.net 10.0.0.9
It prints its URL and the fingerprint that user-data names. It keeps nothing but the folder, and may be killed.
"""
_JOINING = """\
examples:
  trust secret new lab --uses 3 --ttl 24h
  trust secret new lab --uses 50 --ttl 7d --names 'node-*' --cidr 10.0.0.0/24 fd00::/64
  trust secret list lab
  trust secret revoke lab 3f9a2c51
"""
_RESTORE = """\
examples:
  scp node-1:/etc/flotilla/trust/*.crl lists/
  trust restore copy-of-lab lab --lists lists
Serial numbers are random: none is given out twice. All join secrets of the copy end.
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

    sub = _verb(commands, "serve", "run the issuer, at which nodes enrol and renew", _SERVE)
    sub.add_argument("--listen", metavar="ADDR:PORT", default="127.0.0.1:7380", help="default: %(default)s")
    sub.add_argument(
        *("--name", "-n"), metavar="A", action="extend", nargs="+", default=[],
        help="a name or IP address at which nodes reach it, besides that of --listen; several, and repeatable",
    )  # fmt: skip
    sub.set_defaults(run=_serve)

    secrets = commands.add_parser("secret", help="join secrets, with which nodes enrol", epilog=_JOINING)
    verbs = secrets.add_subparsers(metavar="COMMAND", required=True)
    sub = _verb(verbs, "new", "make one, and print it", _JOINING)
    sub.add_argument("--uses", metavar="N", type=int, default=1, help="for how many nodes; default: %(default)s")
    sub.add_argument(
        "--ttl", metavar="TIME", default="24h", help="how long, as in 90m, 24h or 7d; default: %(default)s"
    )
    sub.add_argument("--names", metavar="P", nargs="+", default=[], help="only for nodes of such names, as in 'node-*'")
    sub.add_argument(
        "--cidr", metavar="NET", nargs="+", default=[],
        help="they may have any addresses in these networks; without, that alone which their request comes from",
    )  # fmt: skip
    sub.add_argument("--json", action="store_true", help="with its id and end, as JSON on standard output")
    sub.set_defaults(run=_secret_new)
    sub = _verb(verbs, "list", "which there are, and how often they were used", _JOINING)
    sub.add_argument("--json", action="store_true", help="as JSON on standard output")
    sub.set_defaults(run=_secret_list)
    sub = _verb(verbs, "revoke", "no other node enrols with it", _JOINING)
    sub.add_argument("id", metavar="ID", help="what is before its dot")
    sub.set_defaults(run=_secret_revoke)

    sub = commands.add_parser("restore", help="make a lost trust folder again from a copy", epilog=_RESTORE)
    sub.add_argument("copy", metavar="COPY", type=Path, help="a copy of the lost folder, however old")
    sub.add_argument("folder", metavar="DIR", type=Path, help="the folder to make")
    sub.add_argument(
        "--lists", metavar="FOLDER", type=Path, nargs="*", required=True,
        help="folders with the lists (*.crl) that nodes have: what was revoked after the copy was made",
    )  # fmt: skip
    sub.set_defaults(run=_restore)
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


def _serve(options: argparse.Namespace) -> int:
    import ipaddress
    import signal
    import sys
    from contextlib import suppress

    from trust import names
    from trust.service import Issuer

    host, _, port = options.listen.rpartition(":")
    host = host.strip("[]")
    if not host or not (port.isascii() and port.isdigit()):
        raise UsageFailure("not ADDR:PORT", where=f"--listen {options.listen}", hint="such as 10.0.0.9:7380")
    own = names.addresses(options.name)
    try:
        is_any = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        is_any = False
    if not is_any:
        own = (names.address(host), *own)
    if not own:
        raise UsageFailure(
            "all addresses of this machine, and its certificate names them one by one",
            where=f"--listen {options.listen}",
            hint="add --name and those at which nodes reach it",
        )
    issuer = Issuer(options.folder, host, int(port), own, say=lambda line: print(line, file=sys.stderr, flush=True))
    issuer.start()
    try:
        # Until SIGINT or SIGTERM, which both raise KeyboardInterrupt: see terminal.command.
        with suppress(KeyboardInterrupt):
            at = f"[{own[0]}]" if ":" in str(own[0]) else own[0]
            print(f"issuer: https://{at}:{issuer.port}\nfingerprint: {issuer.fingerprint}", flush=True)
            while True:
                signal.pause()
    finally:
        issuer.stop()
    return 0


def _secret_new(options: argparse.Namespace) -> int:
    from trust import issuer, secret

    made, word = issuer.new_secret(
        options.folder, uses=options.uses, ttl=secret.duration(options.ttl), names=options.names, networks=options.cidr
    )
    print(json.dumps({"v": 1, "id": made.id, "secret": word, "ends": made.ends}, indent=1) if options.json else word)
    return 0


def _secret_list(options: argparse.Namespace) -> int:
    from trust import overview

    found = overview.read(options.folder)
    print(json.dumps(found.as_json()["secrets"], indent=1) if options.json else found.secrets_text())
    return 0


def _secret_revoke(options: argparse.Namespace) -> int:
    from trust import issuer

    found = issuer.revoke_secret(options.folder, options.id)
    print(f"{found.id}: no other node enrols with it; who has goes on")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from trust import restore

    done = restore.restore(options.copy, options.folder, options.lists)
    print(
        f"{options.folder}: made of {options.copy}; {done.revocations} revocations that it lacked, "
        f"{done.secrets} join secrets ended"
    )
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

"""The command ``discovery``.

Each subcommand imports what it needs: ``join`` runs at boot, where imports cost seconds."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from discovery import operate
from discovery.upkeep import command as upkeep
from etcd import credentials
from terminal import Failure, Parser, UsageFailure, command

_EXAMPLES = """\
examples:
  discovery serve --listen 127.0.0.1:7379 --state tokens.json
        run the service; what it knows survives in tokens.json, its certificate in tokens.json.pem
  discovery serve --listen 127.0.0.1:7379 --public-url https://10.0.2.100:7379
        for machines that reach it under another address
  discovery serve --listen 10.0.0.1:7379 --plain-listen 10.0.0.1:7380
        also for etcd's own --discovery, which pins no certificate
  discovery new --size 3 https://127.0.0.1:7379#sha256=FINGERPRINT
        print a discovery URL for a cluster of three; give it to each of them
  discovery status https://127.0.0.1:7379/0123456789abcdef0123456789abcdef#sha256=FINGERPRINT
        who has registered, and for whom the others wait
  discovery join --dry-run
        what this node's etcd would become, and why (on a node, as in etcd.service)
"""


def main() -> int:
    """The console script."""
    return command("discovery", run)


def run(arguments: Sequence[str]) -> int:
    """Run ``discovery ARGUMENTS``; returns the exit code, raises Failure."""
    options = new_parser().parse_args(arguments)
    code: int = options.run(options)
    return code


def new_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = Parser(
        prog="discovery",
        description="How etcd members find each other.",
        epilog=_EXAMPLES + operate.EXAMPLES + upkeep.EXAMPLES,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the discovery service")
    serve.add_argument("--listen", metavar="ADDR:PORT", default="127.0.0.1:7379", help="default: %(default)s")
    serve.add_argument("--state", metavar="FILE", default="discovery.json", help="default: %(default)s")
    serve.add_argument("--public-url", metavar="URL", help="how machines reach the service, if not under --listen")
    serve.add_argument(
        "--certificate", metavar="FILE", type=Path, help="PEM; default: one of its own, made at the first start"
    )
    serve.add_argument("--key", metavar="FILE", type=Path, help="of that certificate, if it is not in the same file")
    serve.add_argument(
        "--plain-listen", metavar="ADDR:PORT", help="one more, without TLS, for etcd's own --discovery (up to 3.6)"
    )
    serve.add_argument(
        "--ttl", metavar="SECONDS", type=float, default=7 * 86400.0, help="of a token, from its last change: 7 days"
    )
    serve.set_defaults(run=_serve)

    new = commands.add_parser("new", help="make a token, print its discovery URL")
    new.add_argument("--size", metavar="N", type=int, required=True, help="how many members the cluster has")
    new.add_argument("url", metavar="URL", help="of the service, as 'discovery serve' prints it")
    new.set_defaults(run=_new)

    status = commands.add_parser("status", help="etcd's members, or who has registered under a discovery URL")
    status.add_argument("url", metavar="URL", nargs="?", help="default: the members of this node's cluster")
    status.add_argument("--json", action="store_true", help="for machines")
    status.add_argument("--data", metavar="DIR", type=Path, default=upkeep.DATA, help="etcd's; default: %(default)s")
    upkeep.reach(status)
    status.set_defaults(run=_status)

    join = commands.add_parser("join", help="become this node's etcd, by the ETCD_... environment")
    join.add_argument("--dry-run", action="store_true", help="print the decision, change nothing")
    join.add_argument(
        "--trust", metavar="DIR", type=Path, default=credentials.FOLDER, help="the node's certificates: %(default)s"
    )
    join.add_argument("--etcd", metavar="PATH", default="/usr/bin/etcd", help="default: %(default)s")
    join.set_defaults(run=_join)
    operate.add(commands)
    upkeep.add(commands)
    return parser


def _serve(options: argparse.Namespace) -> int:
    import signal

    from discovery.client import checked
    from discovery.server import EVERYWHERE, DiscoveryServer
    from webserver import selfmade

    address, port = _address("--listen", options.listen)
    plain = _address("--plain-listen", options.plain_listen) if options.plain_listen else None
    if not options.ttl > 0:  # nor is nan
        raise UsageFailure("not a number of seconds", where=f"--ttl {options.ttl:g}", hint="such as 604800")
    if options.key and not options.certificate:
        raise UsageFailure("a key without its certificate", where=f"--key {options.key}", hint="add --certificate")
    host: str | None = address
    if options.public_url:
        parts, host, _ = checked(options.public_url)
        if parts.scheme != "https" or parts.fragment:
            raise UsageFailure(
                "the service speaks TLS, and pins its certificate itself",
                where=f"--public-url {options.public_url}",
                hint="write https://HOST:PORT; for clients without TLS there is --plain-listen",
            )
    elif address in EVERYWHERE:
        raise UsageFailure(
            "all addresses of this machine, and discovery URLs need one of them",
            where=f"--listen {options.listen}",
            hint=f"add --public-url https://ADDRESS:{port}, as the nodes reach it",
        )
    certificate = options.certificate
    if certificate is None:
        certificate = Path(f"{options.state}.pem")
        if not certificate.exists():
            selfmade.make(certificate, [host or address])
    server = DiscoveryServer(
        address,
        port,
        options.state,
        public_url=options.public_url,
        certificate=(certificate, options.key),
        plain=plain,
        ttl_s=options.ttl,
        log=lambda line: print(line, file=sys.stderr, flush=True),
    )
    server.start()
    try:
        # Until SIGINT or SIGTERM, which both raise KeyboardInterrupt: see terminal.command. A daemon that is stopped
        # has not failed.
        with suppress(KeyboardInterrupt):
            print(server.base_url, flush=True)
            if plain is not None:
                print(server.plain_url(""), flush=True)
            while True:
                signal.pause()
    finally:
        server.stop()
    return 0


def _address(option: str, text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not (port.isascii() and port.isdigit()):
        raise UsageFailure("not ADDR:PORT", where=f"{option} {text}", hint="such as 127.0.0.1:7379")
    return address.strip("[]"), int(port)


def _new(options: argparse.Namespace) -> int:
    from discovery.client import new

    print(new(options.url, options.size))
    return 0


def _status(options: argparse.Namespace) -> int:
    if options.url is None:
        return upkeep.status(options)
    from discovery.client import read

    roster = read(options.url)
    if options.json:
        print(
            json.dumps(
                {
                    "size": roster.size,
                    "complete": roster.complete,
                    "members": [
                        {"id": one.id, "names": list(dict.fromkeys(one.names)), "peer_urls": list(one.urls)}
                        for one in roster.members
                    ],
                }
            )
        )
        return 0
    from terminal import table

    rows = [(one.id, ",".join(dict.fromkeys(one.names)), ",".join(one.urls)) for one in roster.members]
    print(table(rows, ("ID", "NAME", "PEER URLS")))
    print(f"complete: {roster.state}" if roster.complete else f"waiting for {roster.state}")
    return 0


def _join(options: argparse.Namespace) -> int:
    from discovery.join import Join, become

    join = Join(
        os.environ,
        certificates=options.trust,
        etcd=options.etcd,
        say=lambda text: print(text, file=sys.stderr, flush=True),
        become=become,
    )
    if options.dry_run:
        decided = join.decision()
        print(f"{decided.kind}: {decided.reason}")
        with suppress(Failure, OSError):  # what follows is known once etcd runs
            print(upkeep.of_node(Path(join.environment["ETCD_DATA_DIR"]), options.trust))
        return 0
    join.run()
    raise Failure("etcd was not started", hint="this is a bug")

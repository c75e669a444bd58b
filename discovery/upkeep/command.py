"""The verbs of ``discovery`` for a cluster whose membership looks after itself, and what they print."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from etcd import credentials
from terminal import Failure, UsageFailure, table

if TYPE_CHECKING:
    from discovery.beside import Running
    from discovery.upkeep.desired import Desired
    from etcd import Client, Tls
    from etcd.protocol import Member
    from terminal import Parser

    Commands = argparse._SubParsersAction[Parser]

# Repeated from modules that --help need not load.
PREFIX: Final = "/flotilla/etcd/"
MACHINES: Final = "/flotilla/fleet/machines/"
DATA: Final = Path("/var/lib/etcd/data")
SIZES: Final = ("auto", "1", "3", "5")
EXAMPLES: Final = """\
  sudo discovery status
        on a node: etcd's members, what each is and since when, and what upkeep does next or why not yet
  sudo discovery size 5
        on a node: have five members; 'auto' leaves it to the number of nodes again
  discovery upkeep
        look after the membership (on a node, as in etcd-upkeep.service)
"""


def add(commands: Commands) -> None:
    """Add ``upkeep`` and ``size``; ``status`` is the command's own."""
    upkeep = commands.add_parser("upkeep", help="look after this node's part of etcd's membership")
    upkeep.add_argument("--data", metavar="DIR", type=Path, default=DATA, help="etcd's; default: %(default)s")
    upkeep.add_argument(
        "--machine", metavar="ID", default="", help="this machine's, below --machines; default: that of /etc/machine-id"
    )
    upkeep.add_argument(
        "--machines", metavar="PREFIX", default=MACHINES, help="of the keys of living machines; default: %(default)s"
    )
    upkeep.add_argument("--every", metavar="SECONDS", type=float, default=5.0, help="look so often: %(default)g")
    upkeep.add_argument(
        "--absent", metavar="SECONDS", type=float, default=600.0, help="then a member counts as lost: %(default)g"
    )
    upkeep.add_argument(
        "--stalled", metavar="SECONDS", type=float, default=300.0, help="a learner may gain nothing: %(default)g"
    )
    reach(upkeep)
    upkeep.set_defaults(run=_upkeep)
    size = commands.add_parser("size", help="set how many members etcd should have, or show it")
    size.add_argument("size", metavar="N", nargs="?", choices=SIZES, help=f"one of {', '.join(SIZES)}")
    size.add_argument("--data", metavar="DIR", type=Path, default=DATA, help="etcd's; default: %(default)s")
    reach(size)
    size.set_defaults(run=_size)


def reach(parser: argparse.ArgumentParser) -> None:
    """Add the options by which etcd, and what it knows of its membership, is found."""
    parser.add_argument("--prefix", default=PREFIX, help="of what is kept in etcd; default: %(default)s")
    parser.add_argument(
        "--trust", metavar="DIR", type=Path, default=credentials.FOLDER, help="the node's certificates: %(default)s"
    )


def _upkeep(options: argparse.Namespace) -> int:
    from discovery.beside import Beside
    from discovery.upkeep.daemon import Settings, Upkeep
    from discovery.upkeep.plan import Limits

    for name in ("every", "absent", "stalled"):
        if not 0 < getattr(options, name) < float("inf"):
            raise UsageFailure("not a number of seconds", where=f"--{name} {getattr(options, name):g}")
    upkeep = Upkeep(
        Beside(options.data),
        Settings(
            options.machine or _machine_id(),
            options.every,
            Limits(options.absent, options.stalled),
            options.prefix,
            options.machines,
        ),
        tls=_tls(options.trust),
        say=lambda text: print(text, file=sys.stderr, flush=True),
        restart=end,
    )
    with suppress(
        KeyboardInterrupt
    ):  # SIGINT and SIGTERM: see terminal.command. A daemon that is stopped has not failed
        upkeep.run()
    return 0


def _size(options: argparse.Namespace) -> int:
    from discovery.upkeep import desired

    with closing(_client(options.data, options.trust)) as client:
        key = desired.key_size(options.prefix)
        if options.size == "auto":
            client.delete(key)
        elif options.size is not None:
            client.put(key, options.size.encode())
        found = desired.decode(client.range(options.prefix).kvs, options.prefix)
        print(found.size or "auto")
    return 0


def status(options: argparse.Namespace) -> int:
    """Print the members of this node's cluster. Raises Failure."""
    with closing(_client(options.data, options.trust)) as client:
        shown = show(client, options.prefix)
    print(json.dumps(shown) if options.json else text(shown))
    return 0


def of_node(data: Path, trust: Path) -> str:
    """What :func:`status` prints, of the cluster of the node whose etcd has its data there. Raises Failure."""
    with closing(_client(data, trust)) as client:
        return text(show(client, PREFIX))


def show(client: Client, prefix: str) -> dict[str, object]:
    """The membership, for JSON. Raises EtcdError."""
    from discovery.upkeep import desired

    found = desired.decode(client.range(prefix).kvs, prefix)
    members = client.members(agreed=True)
    report = found.report
    rows = [_row(each, found) for each in members]
    taken = {url for each in members for url in each.peer_urls}
    for name, one in found.offers.items():
        if taken.isdisjoint(one.urls):
            is_proxy = one.role == "proxy"  # else it has not been heard of since it was replaced
            row: dict[str, object] = {"name": name, "id": "", "peer_urls": list(one.urls), "since": one.since}
            row |= {"role": "proxy" if is_proxy else "none", "is": "a proxy" if is_proxy else "no member any more"}
            rows.append(row)
    following = None
    if report is not None:
        following = {"step": report.step.kind, "reason": report.step.reason, "node": report.step.node}
        following |= {"by": report.by, "since": report.since}
    return {"size": found.size or "auto", "nodes": rows, "next": following}


def _row(member: Member, found: Desired) -> dict[str, object]:
    report = found.report
    said, since = report.members.get(member.id, ("", "")) if report is not None else ("", "")
    offer = next((one for one in found.offers.values() if not set(one.urls).isdisjoint(member.peer_urls)), None)
    role = "learner" if member.learner else "voter"
    return {
        "name": member.name,
        "id": f"{member.id:x}",
        "peer_urls": list(member.peer_urls),
        "role": role,
        "since": offer.since if offer is not None and offer.role == role else since,
        "is": said or "not looked at yet",
    }


def text(shown: dict[str, object]) -> str:
    """What :func:`show` gave, for people."""
    nodes, following = shown["nodes"], shown["next"]
    assert isinstance(nodes, list)
    keys = ("id", "name", "role", "since", "is")
    rows = [(*(str(each[key]) or "-" for key in keys), ",".join(each["peer_urls"])) for each in nodes]
    lines = [table(rows, ("ID", "NAME", "ROLE", "SINCE", "STATE", "PEER URLS")), f"size: {shown['size']}"]
    if isinstance(following, dict):
        what = "nothing to do" if following["step"] == "nothing" else f"{following['step']} {following['node']}"
        lines.append(f"next: {what}, since {following['since']}: {following['reason']} ({following['by']})")
    else:
        lines.append("next: no leader has looked yet; etcd-upkeep.service begins two minutes after etcd")
    return "\n".join(lines)


def end(running: Running) -> None:
    """Have this node's etcd end; its unit starts it again. Does nothing if it has ended meanwhile."""
    try:
        process = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return
    try:
        if running.is_alive:  # the number may have become another's
            signal.pidfd_send_signal(process, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        os.close(process)


def _client(data: Path, trust: Path) -> Client:
    """Of this node's etcd. Raises Failure if it has none."""
    from discovery.beside import Beside
    from etcd import Client

    try:
        running = Beside(data).read_running()
    except OSError as error:
        raise Failure("cannot read what this node's etcd is", where=str(data), hint="with sudo?") from error
    if running is None:
        raise Failure("this node has no etcd yet", where=str(data), hint="systemctl status etcd")
    return Client([running.client], tls=_tls(trust))


def _tls(trust: Path) -> Tls | None:
    """As etcd's own gateway does, with the certificate of the server: etcd's user may not read the clients' key."""
    from etcd import Tls

    own = credentials.server(trust)
    return None if own is None else Tls(own.authority, own.certificate, own.key)


def _machine_id() -> str:
    path = Path("/etc/machine-id")
    try:
        return path.read_text().strip()
    except OSError as error:
        raise Failure("cannot read this machine's id", where=str(path)) from error

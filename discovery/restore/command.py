"""``discovery restore``: what is left, what it would start from, and, once that is confirmed, the restore."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress

from discovery.backup.command import TIMEOUT_S
from discovery.backup.listing import COLUMNS, age, rows
from discovery.backup.scratch import Tools
from discovery.backup.shelf import Shelf
from discovery.node import Node, tls
from discovery.restore.facts import Facts, Source, chosen, require_lost, sources, token
from discovery.restore.restoring import Restoring, Systemd
from discovery.restore.survey import Survey
from etcd import credentials
from etcd.maintenance import Maintenance
from terminal import Failure, table


def run(options: argparse.Namespace) -> int:
    """Carry out ``discovery restore``. Raises Failure."""
    node, shelf, tools = Node.here(options.trust), Shelf(options.directory), Tools.beside(options.etcd)
    own = tls(credentials.client(options.trust)) if node.endpoint.startswith("https:") else None
    member = Maintenance(node.endpoint, timeout=TIMEOUT_S, tls=own)
    restoring = Restoring(node, shelf, tools, Systemd(), member, _say)
    if restoring.resume():
        _say("a restore that was interrupted is finished")
        return 0
    facts = Survey(node, shelf, tools, options.trust).facts()
    if options.json:
        print(json.dumps(as_json(facts)))
    else:
        print(text(facts, time.time()), flush=True)
    require_lost(facts)
    source = chosen(facts, options.source)
    needed = token(facts, source)
    _confirm(options.yes, needed, source)
    _audit(f"restores etcd from {source.name}, revision {source.revision}, confirmed with {needed}")
    done = restoring.run(source)
    _audit(f"restored etcd from {source.name}: one member, {done.keys} keys; former data in {done.aside}")
    print(f"etcd runs again, with this node as its one member: revision {done.revision}, {done.keys} keys")
    return 0


def text(facts: Facts, now: float) -> str:
    """For people: survivors, backups, and what this node's data lacks."""
    members = [
        (
            f"{each.name} (this node)" if each.is_here else each.name,
            "no answer" if each.revision is None else "has a quorum" if each.has_quorum else "alone",
            *("-" if number is None else str(number) for number in (each.raft_index, each.revision)),
            each.url,
        )
        for each in facts.survivors
    ]
    parts = [table(members, ("MEMBER", "STATE", "RAFT INDEX", "REVISION", "AT"))]
    if facts.trouble:
        parts.append(f"the data of this node cannot be used: {facts.trouble}")
    if facts.backups:
        parts += [
            "",
            table(rows(facts.backups, now), COLUMNS),
        ]
    else:
        parts += ["", "there are no backups on this node"]
    return "\n".join(parts)


def as_json(facts: Facts) -> dict[str, object]:
    """For machines: also each source's token."""
    return {
        "survivors": [each._asdict() for each in facts.survivors],
        "backups": [{"name": each.name, **each._asdict()} for each in facts.backups],
        "trouble": facts.trouble,
        "tokens": {each.name: token(facts, each) for each in sources(facts)},
    }


def _confirm(given: str, needed: str, source: Source) -> None:
    """Raises Failure unless the token was given, or is typed."""
    backup = source.backup
    what = "this node's own data" if backup is None else f"the backup of {age(backup.taken, time.time())} ago"
    print(
        f"\nwould start etcd again from {what} (revision {source.revision}), with this node as its one member."
        "\nMembers that do not answer now can never come back with their data: be sure that they are lost.",
        file=sys.stderr,
        flush=True,
    )
    if given:
        if given != needed:
            raise Failure(
                "the token is that of another state of the cluster", where=f"--yes {given}", hint=f"--yes {needed}"
            )
        return
    if not sys.stdin.isatty():
        raise Failure("this has to be confirmed", hint=f"add --yes {needed}")
    print(f"Type {needed} to do that: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != needed:
        raise Failure("not confirmed: nothing was changed")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _audit(line: str) -> None:
    """To the journal, whoever runs this, and from wherever."""
    _say(line)
    with suppress(OSError):
        argv = ["systemd-cat", "--identifier=discovery-restore", "--priority=warning"]
        subprocess.run(argv, input=line.encode(), stderr=subprocess.DEVNULL, check=False)

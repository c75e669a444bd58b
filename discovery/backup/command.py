"""``discovery backup``: take one, or list what there is."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
import time
from pathlib import Path
from typing import Final

from discovery.backup import take
from discovery.backup.listing import COLUMNS, amount, rows
from discovery.backup.scratch import Tools
from discovery.backup.shelf import Backup, Shelf
from discovery.backup.state import State
from discovery.node import Node, tls
from etcd import credentials
from etcd.maintenance import Maintenance
from terminal import UsageFailure, table

TIMEOUT_S: Final = 60.0
"""That a member may be silent: it hashes all of its data, on an emulated node, too."""


def run(options: argparse.Namespace) -> int:
    """Carry out ``discovery backup``. Raises Failure."""
    shelf = Shelf(options.directory)
    if options.list:
        print(_listed(shelf, as_json=options.json))
        return 0
    if options.keep < 0 or (options.keep == 0 and not options.command):
        raise UsageFailure(
            "that keeps no backup at all", where=f"--keep {options.keep}", hint="1 or more, or --command"
        )
    name, endpoint = options.name, options.endpoint
    if not endpoint:
        node = Node.here(options.trust)
        if not node.has_data:
            print("this node is no member of etcd: there is nothing to back up", file=sys.stderr)
            return 0
        name, endpoint = name or node.name, node.endpoint
    own = tls(credentials.client(options.trust)) if endpoint.startswith("https:") else None
    member = Maintenance(endpoint, timeout=TIMEOUT_S, tls=own)
    if member.condition().status.learner:
        print("this node's member is a learner, which does not say what it has: a backup is for later", file=sys.stderr)
        return 0
    _become_owner(shelf.path)  # not before the certificates are read, which may be root's
    settings = take.Settings(options.keep, options.command, name)
    backup = take.run(shelf, member, Tools.beside(options.etcd), settings, int(time.time()))
    if options.json:
        print(json.dumps(_as_json(backup)))
    else:
        print(f"{shelf.path / backup.name}: revision {backup.revision}, {backup.keys} keys, {amount(backup.size)}")
    return 0


def _listed(shelf: Shelf, *, as_json: bool) -> str:
    backups, state = shelf.backups(), State.on(shelf)
    if as_json:
        return json.dumps({**state.json(), "backups": [_as_json(one) for one in backups]})
    lines = [table(rows(backups, time.time()), COLUMNS)]
    if not backups:
        lines = [f"no backups in {shelf.path}"]
    if state.trouble:
        lines.append(f"the last attempt failed: {state.trouble}")
    return "\n".join(lines)


def _as_json(backup: Backup) -> dict[str, str | int]:
    return {"name": backup.name, **backup._asdict()}


def _become_owner(folder: Path) -> None:
    """Root's files would be in the way of the unit, which runs as the folder's owner."""
    if os.geteuid() != 0 or not folder.exists() or (owner := folder.stat()).st_uid == 0:
        return
    os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)

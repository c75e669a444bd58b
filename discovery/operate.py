"""The verbs of ``discovery`` for who operates an etcd that runs: their arguments.

What they do is loaded when it is done: ``discovery join`` runs at boot, where imports cost seconds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from etcd import credentials
from terminal import Parser

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]

EXAMPLES = """\
  sudo discovery backup
        take a backup of this node's etcd, now; etcd-backup.timer takes one every hour
  sudo discovery backup --list
        what backups there are on this node, and how old
  sudo discovery alarms
        whether etcd has alarms, and its members the same data; etcd-alarms.timer repairs what it can
  sudo discovery restore
        after the loss of most members: start again with this node, from its data or a backup
"""


def add(commands: Commands) -> None:
    """Add them."""
    backup = commands.add_parser("backup", help="take a backup of this node's etcd, or list them")
    backup.add_argument("--list", action="store_true", help="show the backups of this node, take none")
    backup.add_argument("--json", action="store_true", help="for machines")
    _directory(backup)
    backup.add_argument("--keep", metavar="N", type=int, default=24, help="how many stay: %(default)s")
    backup.add_argument(
        "--command", metavar="COMMAND", default="", help="the shell's; it gets the backup on its standard input"
    )
    backup.add_argument("--endpoint", metavar="URL", default="", help="of the member; default: this node's")
    backup.add_argument("--name", metavar="NAME", default="", help="of the member, for COMMAND; default: this node's")
    _programs(backup)
    backup.set_defaults(run=_backup)

    alarms = commands.add_parser("alarms", help="etcd's alarms (NOSPACE, CORRUPT), and what ends them")
    alarms.add_argument("--repair", action="store_true", help="do that, if this node's member leads")
    alarms.add_argument("--json", action="store_true", help="for machines")
    alarms.add_argument("--endpoint", metavar="URL", default="", help="of the member; default: this node's")
    _trust(alarms)
    alarms.set_defaults(run=_alarms)

    restore = commands.add_parser("restore", help="after the loss of a quorum: start again from this node")
    restore.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        default="",
        help="'data' (this node's own) or a backup's file; default: the latest revision",
    )
    restore.add_argument("--yes", metavar="TOKEN", default="", help="that it printed: for scripts")
    restore.add_argument("--json", action="store_true", help="print what there is for machines")
    _directory(restore)
    _programs(restore)
    restore.set_defaults(run=_restore)


def _backup(options: argparse.Namespace) -> int:
    from discovery.backup.command import run

    return run(options)


def _alarms(options: argparse.Namespace) -> int:
    from discovery.repair import run

    return run(options)


def _restore(options: argparse.Namespace) -> int:
    from discovery.restore.command import run

    return run(options)


def _directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory", metavar="DIR", type=Path, default=Path("/var/lib/etcd-backup"), help="default: %(default)s"
    )


def _programs(parser: argparse.ArgumentParser) -> None:
    _trust(parser)
    parser.add_argument("--etcd", metavar="PATH", type=Path, default=Path("/usr/bin/etcd"), help="default: %(default)s")


def _trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust", metavar="DIR", type=Path, default=credentials.FOLDER, help="the node's certificates: %(default)s"
    )

"""One backup: the member's snapshot, proven, put on the shelf, given to the user's command."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from discovery.backup.scratch import Contents, Tools, contents
from discovery.backup.shelf import Backup, Shelf
from discovery.backup.state import State, save
from etcd.errors import Compacted
from etcd.maintenance import Maintenance
from terminal import Failure

KEEP: Final = 24
_MIB: Final = 1 << 20
_ROOM_BYTES: Final = 256 * _MIB
"""Beside the snapshot and the scratch etcd's copy of it: two segments of a write-ahead log, which etcd allocates."""
_ATTEMPTS: Final = 3
_COMPLAINT_BYTES: Final = 2048
_SEND: Final = "/bin/sh"


class Settings(NamedTuple):
    """``keep`` backups stay on the shelf; ``command`` is the shell's, and gets each on its standard input (empty:
    none). ``name`` is this member's, for the command."""

    keep: int = KEEP
    command: str = ""
    name: str = ""


class _Moved(Exception):  # noqa: N818 - no error: try again
    """The member forgot history while its snapshot was looked at."""


def run(shelf: Shelf, member: Maintenance, tools: Tools, settings: Settings, now: int) -> Backup:
    """Take a backup and say how it went in the state file. ``now`` is seconds since 1970. Raises Failure."""
    with shelf.holding():
        before = State.on(shelf)
        try:
            backup = take(shelf, member, tools, now)
            state = replace(before, tried=now, trouble="").with_backups(shelf.backups())
            save(shelf, state)  # it counts, whatever the command makes of it
            if settings.command:
                send(shelf.path / backup.name, backup, settings)
                state = replace(state, sent=now)
            shelf.prune(settings.keep)
        except Failure as failure:
            failed = replace(State.on(shelf), tried=now, trouble=failure.on_one_line)
            _save_if_possible(shelf, failed)
            raise
        save(shelf, state.with_backups(shelf.backups()))
    return backup


def take(shelf: Shelf, member: Maintenance, tools: Tools, now: int) -> Backup:
    """Take and prove a snapshot, and put it on the shelf, which is held. Raises Failure."""
    for attempt in range(1, _ATTEMPTS + 1):
        condition = member.condition()
        _require_room(shelf, condition.status.db_size)
        staged = shelf.stage(member.snapshot())
        found = contents(tools, staged, shelf.scratch)
        try:
            _require_same(found, member, least=condition.status.revision)
        except (_Moved, Compacted) as trouble:
            if attempt == _ATTEMPTS:
                raise Failure(
                    "etcd forgets its history faster than it can be looked at", where=member.where
                ) from trouble
            staged.unlink()
            continue
        size = staged.stat().st_size
        backup = Backup(now, found.revision, found.keys, condition.status.raft_index, found.hash, size)
        shelf.commit(staged, backup)
        return backup
    raise AssertionError("the last attempt returns or raises")


def _require_same(found: Contents, member: Maintenance, *, least: int) -> None:
    """Raises Failure if the snapshot is not what the member has."""
    here = Contents.of(member, found.revision)
    if here.compacted != found.compacted:
        raise _Moved
    wrong = [
        f"{what} {got}, not {expected}"
        for what, got, expected in (("hash", found.hash, here.hash), ("keys", found.keys, here.keys))
        if got != expected
    ]
    if found.revision < least:
        wrong.append(f"revision {found.revision}, not {least} or later")
    if wrong:
        raise Failure(
            f"the snapshot is not what the member has: {', '.join(wrong)}",
            where=member.where,
            hint="the member's disk may be damaged: 'discovery alarms' compares the members",
        )


def _require_room(shelf: Shelf, size: int) -> None:
    needed, room = 2 * size + _ROOM_BYTES, shelf.room()
    if room < needed:
        raise Failure(
            f"a backup needs {needed // _MIB} MiB for a moment, and {room // _MIB} MiB are free",
            where=str(shelf.path),
            hint="make room (docs/room.md), or keep fewer backups: BACKUP_KEEP of etcd-backup.service",
        )


def send(path: Path, backup: Backup, settings: Settings) -> None:
    """Give the file to the user's command. Raises Failure with what that complains about."""
    environment = {
        **os.environ,  # credentials of the store, of the unit's drop-in
        "BACKUP_NAME": backup.name,
        "BACKUP_MEMBER": settings.name,
        "BACKUP_REVISION": str(backup.revision),
        "BACKUP_SIZE": str(backup.size),
        "BACKUP_SHA256": _sha256(path),
    }
    try:
        with path.open("rb") as snapshot, tempfile.TemporaryFile() as complaint:
            done = subprocess.run(
                [_SEND, "-c", settings.command],
                stdin=snapshot,
                stdout=subprocess.DEVNULL,
                stderr=complaint,
                env=environment,
                check=False,
            )
            size = complaint.seek(0, 2)
            complaint.seek(max(size - _COMPLAINT_BYTES, 0))
            why = complaint.read().decode("utf-8", "replace").strip()
    except OSError as error:
        raise Failure("cannot run the command for backups", where=settings.command) from error
    if done.returncode:
        how = f"ended with {done.returncode}" if done.returncode > 0 else f"was killed by signal {-done.returncode}"
        raise Failure(
            f"the command for backups {how}: {why or 'it gave no reason'}",
            where=settings.command,
            hint=f"the backup itself is good: {path}",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save_if_possible(shelf: Shelf, state: State) -> None:
    """On a full disk the old state stays, which says when the last good one was taken."""
    try:
        save(shelf, state)
    except Failure:
        return

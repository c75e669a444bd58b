"""The folder with a node's backups. What a backup has is in its name, so that no list beside the files can be wrong.

A file gets such a name by a rename, after it was written, brought to the disk and proven: whatever ends the program,
and whenever, what is on the shelf is whole, and the last good backup is among it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from terminal import Failure, durable

FOLDER: Final = Path("/var/lib/etcd-backup")
DIGEST_BYTES: Final = hashlib.sha256().digest_size
_PAGE: Final = 512  # a database file is a multiple of it; snapshot/v3_snapshot.go of etcdutl looks at the same
_PIECE: Final = 1 << 20
_STAGED: Final = "snapshot.new"
_SCRATCH: Final = "scratch"
_TIME: Final = "%Y%m%dT%H%M%SZ"
_NAME: Final = re.compile(
    r"(?P<time>[0-9]{8}T[0-9]{6}Z)-r(?P<revision>[0-9]{1,19})-k(?P<keys>[0-9]{1,19})-i(?P<index>[0-9]{1,20})"
    r"-h(?P<hash>[0-9a-f]{8})\.db"
)


class Backup(NamedTuple):
    """A proven snapshot. ``taken`` is seconds since 1970; ``revision`` and ``keys`` are what etcd has after a restore,
    ``hash`` is that of its keys (HashKV), ``raft_index`` is the member's when it was taken; ``size`` is in bytes."""

    taken: int
    revision: int
    keys: int
    raft_index: int
    hash: int
    size: int

    @property
    def name(self) -> str:
        """Of its file."""
        time = datetime.fromtimestamp(self.taken, UTC).strftime(_TIME)
        return f"{time}-r{self.revision}-k{self.keys}-i{self.raft_index}-h{self.hash:08x}.db"

    @classmethod
    def parse(cls, name: str, size: int) -> Backup | None:
        """The backup in a file of this name; None if that is the name of something else."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        try:
            taken = int(datetime.strptime(found["time"], _TIME).replace(tzinfo=UTC).timestamp())
        except ValueError:  # the 32nd of a month
            return None
        revision, keys, index = (int(found[part]) for part in ("revision", "keys", "index"))
        backup = cls(taken, revision, keys, index, int(found["hash"], 16), size)
        return backup if backup.name == name else None  # "007" is no number of ours


class Shelf:
    """The folder ``path``. Only :meth:`holding` makes it."""

    def __init__(self, path: Path = FOLDER) -> None:
        self.path = path

    @property
    def scratch(self) -> Path:
        """For what is needed to prove a snapshot; emptied before and after."""
        return self.path / _SCRATCH

    def backups(self) -> list[Backup]:
        """What is on it, the newest first. Raises Failure."""
        try:
            with os.scandir(self.path) as entries:
                found = [Backup.parse(one.name, one.stat().st_size) for one in entries if one.is_file()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Failure("cannot read the backups of etcd", where=str(self.path)) from error
        return sorted((backup for backup in found if backup is not None), reverse=True)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """The shelf is made, is this process's, and has no leftovers. Raises Failure if another process has it."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Failure("cannot use the folder for backups of etcd", where=str(self.path)) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                hint = "wait for it: 'systemctl status etcd-backup'"
                raise Failure("another backup is being taken", where=str(self.path), hint=hint) from None
            self._clear()
            try:
                yield
            finally:
                self._clear()
        finally:
            os.close(lock)

    def stage(self, pieces: Iterable[bytes]) -> Path:
        """Write a snapshot, which is not a backup yet, and bring it to the disk. Raises Failure."""
        path = self.path / _STAGED
        try:
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(target, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor
                for piece in pieces:
                    view = memoryview(piece)
                    while view:
                        view = view[file.write(view) :]
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritten(path) from error
        return path

    def commit(self, staged: Path, backup: Backup) -> Path:
        """The staged snapshot is the backup from now on. Raises Failure."""
        path = self.path / backup.name
        try:
            staged.rename(path)
            durable.sync(self.path)
        except OSError as error:
            raise _unwritten(path) from error
        return path

    def prune(self, keep: int) -> None:
        """Leave the newest ``keep`` backups. Raises Failure."""
        try:
            for backup in self.backups()[keep:]:
                (self.path / backup.name).unlink(missing_ok=True)
        except OSError as error:
            raise Failure("cannot remove an old backup", where=str(self.path)) from error

    def write(self, name: str, text: str) -> None:
        """A small file beside the backups, whole or not at all. Raises Failure."""
        path = self.path / name
        try:
            durable.replace(path, text)
        except OSError as error:
            raise _unwritten(path) from error

    def room(self) -> int:
        """Bytes that may be written here; what the disk keeps for etcd is not among them. Raises Failure."""
        try:
            disk = os.statvfs(self.path)
        except OSError as error:
            raise Failure("cannot measure the disk for backups", where=str(self.path)) from error
        return disk.f_bavail * disk.f_frsize

    def _clear(self) -> None:
        try:
            (self.path / _STAGED).unlink(missing_ok=True)
            if self.scratch.exists():
                shutil.rmtree(self.scratch)
        except OSError as error:
            raise Failure("cannot remove what an earlier backup left", where=str(self.path)) from error


def require_whole(path: Path) -> None:
    """Raises Failure if a snapshot's own SHA-256, its last 32 bytes, is missing or is that of other data."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size - DIGEST_BYTES
            if left <= 0 or left % _PAGE:
                raise Failure("the snapshot is cut off, or has no checksum", where=str(path), hint=_OTHER)
            while left and (piece := file.read(min(left, _PIECE))):
                digest.update(piece)
                left -= len(piece)
            expected = file.read()
    except OSError as error:
        raise Failure("cannot read the snapshot", where=str(path)) from error
    if digest.digest() != expected:
        raise Failure("the snapshot is damaged: its checksum is that of other data", where=str(path), hint=_OTHER)


_OTHER: Final = "'discovery backup --list' shows the others"


def _unwritten(path: Path) -> Failure:
    return Failure("cannot write the backup", where=str(path), hint="is the disk full? 'df' says; docs/room.md")

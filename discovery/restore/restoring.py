"""Starts etcd's cluster again, from one source, as a cluster with one member: this node's."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from discovery.backup.scratch import BUMP, Tools, contents
from discovery.backup.shelf import Shelf
from discovery.beside import Beside
from discovery.node import UNIT, Node
from discovery.restore.facts import Source
from discovery.restore.survey import opened
from etcd.errors import EtcdError
from etcd.maintenance import Maintenance
from terminal import Failure, durable

START_S: Final = 300.0
"""For the restored etcd to serve, on an emulated node."""
_LOOK_S: Final = 0.2


class Service(Protocol):
    """This node's etcd, as what runs it."""

    def stop(self) -> None:
        """End it, and wait for its end. Raises Failure."""

    def start(self) -> None:
        """Have it started; does not wait. Raises Failure."""


class Systemd:
    """The unit of this node."""

    def stop(self) -> None:
        """See :class:`Service`."""
        self._do("stop")

    def start(self) -> None:
        """See :class:`Service`."""
        self._do("reset-failed")
        self._do("start", "--no-block")

    def _do(self, *verb: str) -> None:
        done = subprocess.run(["systemctl", *verb, UNIT], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"cannot {verb[0]} etcd: {done.stderr.strip()}", where=UNIT, hint="run this as root")


class Done(NamedTuple):
    """The new cluster has ``revision`` and ``keys``; what was there before is kept as ``aside``."""

    revision: int
    keys: int
    aside: Path


class Restoring:
    """Of ``node``. ``member`` is its etcd, once it serves again; ``say`` gets a line per step; ``now`` is the time."""

    def __init__(
        self,
        node: Node,
        shelf: Shelf,
        tools: Tools,
        service: Service,
        member: Maintenance,
        say: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._node, self._shelf, self._tools = node, shelf, tools
        self._service, self._member, self._say, self._now = service, member, say, now
        self._new = node.data.with_name(node.data.name + ".restoring")
        is_apart = not node.wal.is_relative_to(node.data)
        self._new_wal = node.wal.with_name(node.wal.name + ".restoring") if is_apart else None

    def run(self, source: Source) -> Done:
        """Restore ``source``. Until its data takes the place of the old, a failure changes nothing. Raises Failure."""
        with self._shelf.holding(), self._stopped():
            snapshot = self._snapshot(source)
            self._say(f"proves {source.name}: a scratch etcd is started from it")
            found = contents(self._tools, snapshot, self._shelf.scratch)
            if source.backup is not None and (found.hash, found.keys) != (source.backup.hash, source.backup.keys):
                raise Failure("the backup is not what its name says", where=str(snapshot))
            self._make(snapshot)
            aside = self._swap()
        self._say(f"starts etcd at revision {found.revision + BUMP}; the former data is kept in {aside}")
        self._wait(found.revision + BUMP)
        return Done(found.revision + BUMP, found.keys, aside)

    def resume(self) -> bool:
        """Finish a restore that was killed between setting the old data aside and putting the new in its place; whether
        there was one. Raises Failure."""
        if self._node.data.exists() or not self._new.exists():
            return False
        with self._stopped():
            self._put(self._suffix())
        return True

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        self._say("stops etcd on this node; units run on")
        self._service.stop()
        try:
            yield
        finally:
            self._service.start()

    def _snapshot(self, source: Source) -> Path:
        if source.backup is not None:
            return self._shelf.path / source.backup.name
        with opened(self._node, self._tools, self._shelf.scratch) as member:
            return self._shelf.stage(member.snapshot())

    def _make(self, snapshot: Path) -> None:
        """The data of a cluster with this node's member alone, beside the old data, with its owner."""
        node = self._node
        shutil.rmtree(self._new, ignore_errors=True)
        options = [f"--wal-dir={self._new_wal}"] if self._new_wal is not None else []
        if self._new_wal is not None:
            shutil.rmtree(self._new_wal, ignore_errors=True)
        self._tools.restore(
            snapshot,
            self._new,
            f"--name={node.name}",
            f"--initial-cluster={','.join(f'{node.name}={url}' for url in node.peer_urls)}",
            f"--initial-advertise-peer-urls={','.join(node.peer_urls)}",
            # Members of the former cluster that come back are strangers to the new one.
            f"--initial-cluster-token=restored-{secrets.token_hex(8)}",
            # Whoever watches from a later revision than the source has must read again, and does not wait for ever.
            f"--bump-revision={BUMP}",
            "--mark-compacted",
            *options,
        )
        try:
            owner = (node.data if node.data.exists() else node.data.parent).stat()
            for top in (self._new, self._new_wal):
                for path in [] if top is None else [top, *top.rglob("*")]:
                    os.chown(path, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise Failure("cannot give the restored data to etcd", where=str(self._new)) from error

    def _swap(self) -> Path:
        """The new data is in the place of the old, which is kept; returns where."""
        suffix = self._suffix()
        aside = self._node.data.with_name(self._node.data.name + suffix)
        try:
            if self._node.data.exists():
                self._node.data.rename(aside)
        except OSError as error:
            raise Failure("cannot set the old data aside", where=str(self._node.data)) from error
        self._put(suffix)
        return aside

    def _put(self, suffix: str) -> None:
        """The data is the last: while it is missing, this has to be done again (:meth:`resume`)."""
        node = self._node
        try:
            if self._new_wal is not None and self._new_wal.exists():
                if node.wal.exists():
                    node.wal.rename(node.wal.with_name(node.wal.name + suffix))
                self._new_wal.rename(node.wal)
            # A member that had ended by itself would ask those that are lost why, and wait for their answer.
            Beside(node.data).ended.unlink(missing_ok=True)
            self._new.rename(node.data)
            durable.sync(node.data.parent)
        except OSError as error:
            raise Failure(
                "cannot put the restored data in its place",
                where=str(self._new),
                hint="'discovery restore' again goes on from here",
            ) from error

    def _suffix(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).strftime(".before-%Y%m%dT%H%M%SZ")

    def _wait(self, revision: int) -> None:
        """Until the one member serves, and has what was restored."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                status = self._member.condition().status
            except EtcdError as error:
                if time.monotonic() > deadline:
                    raise Failure(
                        "etcd does not start with the restored data", where=UNIT, hint="journalctl -u etcd"
                    ) from error
            else:
                if status.leader == status.member_id and status.revision >= revision:
                    return
                if time.monotonic() > deadline:
                    raise Failure(f"etcd is at revision {status.revision}, not {revision}", where=UNIT)
            time.sleep(_LOOK_S)

"""A scratch etcd: a snapshot is restored and started, to see that it can be, and what it has.

It serves one socket in a folder of this user's alone, never a port: it has all secrets that etcd has. It ends with the
program that started it, however that ends.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from discovery.backup.shelf import require_whole
from etcd.maintenance import Maintenance
from terminal import Failure, record

ETCD: Final = Path("/usr/bin/etcd")
BUMP: Final = 1_000_000_000
"""Added to a restored revision: a week of 1,500 writes a second, so that no client has seen a later one."""
START_S: Final = 300.0
"""For a scratch etcd to read all of its data, on an emulated node."""
_LOG_BYTES: Final = 4096
_DATA: Final = "data"
_PATH: Final = "/usr/bin:/bin"


class Tools(NamedTuple):
    """Programs. ``restorer`` is etcdutl, or the etcdctl of 3.5, which restores in the same way."""

    etcd: Path
    restorer: Path

    @classmethod
    def beside(cls, etcd: Path = ETCD) -> Tools:
        """Those in the folder of ``etcd``. Raises Failure."""
        for name in ("etcdutl", "etcdctl"):
            if os.access(etcd.with_name(name), os.X_OK):
                return cls(etcd, etcd.with_name(name))
        raise Failure("there is neither etcdutl nor etcdctl", where=str(etcd.parent), hint="is this a node?")

    def restore(self, snapshot: Path, target: Path, *options: str) -> None:
        """Make a data directory ``target`` of ``snapshot``. Raises Failure if it is damaged or the disk is full."""
        _run([str(self.restorer), "snapshot", "restore", str(snapshot), f"--data-dir={target}", *options], snapshot)

    def revision(self, snapshot: Path) -> int:
        """The revision of ``snapshot``, whose pages are looked at one by one. Raises Failure if it is damaged."""
        try:
            answer = record.parse(_run([str(self.restorer), "snapshot", "status", str(snapshot), "-wjson"], snapshot))
            return int(answer["revision"])
        except (ValueError, LookupError, TypeError) as error:
            raise Failure("cannot understand what the snapshot has", where=str(snapshot)) from error


class Contents(NamedTuple):
    """What etcd has after a restore. ``hash`` is comparable to those with the same ``compacted``."""

    revision: int
    keys: int
    hash: int
    compacted: int

    @classmethod
    def of(cls, member: Maintenance, revision: int) -> Contents:
        """What ``member`` has, or had, at ``revision``. Raises EtcdError."""
        found = member.hash_at(revision)
        return cls(revision, member.keys_at(revision), found.value, found.compacted)


def contents(tools: Tools, snapshot: Path, folder: Path) -> Contents:
    """What is in ``snapshot``, by an etcd that was started from it in ``folder``, which is made and removed.

    Raises Failure if the snapshot is damaged, EtcdError, and Failure if the disk is full."""
    require_whole(snapshot)
    revision = tools.revision(snapshot)
    with scratch(folder):
        tools.restore(snapshot, folder / _DATA)
        with started(tools, folder) as member:
            # Its leases run, so its own revision may be later by now.
            return Contents.of(member, revision)


@contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """``folder``, new and this user's, gone afterwards. Raises Failure."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise Failure("cannot make a folder to try the snapshot in", where=str(folder)) from error
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def started(tools: Tools, folder: Path, *options: str) -> Iterator[Maintenance]:
    """The etcd with the data ``folder/data``; it has ended afterwards. Raises Failure if it does not start."""
    log = folder / "log"
    argv = [
        *("/usr/bin/setpriv", "--pdeathsig=KILL", str(tools.etcd), f"--data-dir={_DATA}", "--unsafe-no-fsync"),
        *("--log-level=warn", "--heartbeat-interval=10", "--election-timeout=100"),
        # Relative to its folder: a socket's address is short. It never dials what it advertises.
        *("--listen-client-urls=unix://client:0", "--advertise-client-urls=http://localhost:0"),
        *("--listen-peer-urls=unix://peer:0", *options),
    ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            notices.bind(f"/proc/self/fd/{descriptor}/notify")
        finally:
            os.close(descriptor)
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env={"PATH": _PATH, "NOTIFY_SOCKET": "notify", "GOMAXPROCS": "1"},  # nothing of the real etcd's
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait(process, notices, log)
            yield Maintenance.on_socket(folder / "client:0", timeout=START_S)
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], notices: socket.socket, log: Path) -> None:
    """Until it says that it serves, as it says it to systemd (sd_notify(3))."""
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(notices, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(START_S * 1000)}
        if notices.fileno() not in ready:
            why = "ended" if ready else f"was not ready after {START_S:.0f} s"
            raise Failure(f"an etcd with the snapshot {why}: {_end_of(log)}", where=str(log.parent))
    finally:
        os.close(ended)


def _run(argv: Sequence[str], snapshot: Path) -> str:
    """What it prints. Raises Failure with what it complains about."""
    try:
        done = subprocess.run(argv, env={"PATH": _PATH}, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise Failure("cannot run a tool of etcd", where=argv[0]) from error
    if done.returncode:
        why = (done.stderr or done.stdout).decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise Failure(f"the snapshot cannot be restored: {why}", where=str(snapshot), hint="is the disk full?")
    return done.stdout.decode("utf-8", "replace")


def _end_of(log: Path) -> str:
    """Its last line."""
    try:
        return log.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace").strip().rpartition("\n")[2]
    except OSError:
        return "no reason given"

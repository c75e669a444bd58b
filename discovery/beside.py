"""What is kept beside etcd's data directory: for the next start of this node's etcd, and for the upkeep of its cluster.

All files are written whole or not at all. One that was edited, and makes no sense any more, counts as missing: each of
them only spares a request, or waits for another look.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from terminal import Failure, durable, record


class Running(NamedTuple):
    """The process that this node's etcd is: ``kind`` is "member" or "proxy".

    ``name`` and ``urls`` are what it is, or would be, called and reached by as a member; ``client`` is the URL at which
    this machine reaches it. ``discovery`` is that of its settings, which may be empty. ``pid`` and ``began`` (clock
    ticks from boot to its start, proc_pid_stat(5)) name the process.
    """

    kind: str
    name: str
    urls: tuple[str, ...]
    client: str
    discovery: str
    pid: int
    began: int

    @property
    def is_alive(self) -> bool:
        """Whether it still runs, as itself: another process may have its number by now."""
        return began(self.pid) == self.began


class Proxied(NamedTuple):
    """The cluster that this node is a proxy of: the discovery URL of its settings, and where its clients connect."""

    discovery: str = ""
    endpoints: tuple[str, ...] = ()


class Peers(NamedTuple):
    """Where the members of a cluster reach each other, and the discovery URL of this node's settings then."""

    discovery: str = ""
    urls: tuple[str, ...] = ()


class Beside:
    """The files beside the data directory ``data``. Methods that write raise Failure."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.joining = data.with_name(data.name + ".joining")
        self.proxy = data.with_name(data.name + ".proxy")
        self.peers = data.with_name(data.name + ".peers")
        self.ended = data.with_name(data.name + ".ended")
        self.running = data.with_name(data.name + ".running")
        self.removed = data.with_name(data.name + ".removed")

    def read_joining(self) -> str:
        """The discovery URL with which etcd was started, before it had data. Raises OSError."""
        return self.joining.read_text().strip() if self.joining.exists() else ""

    def read_proxied(self) -> Proxied:
        """Raises OSError."""
        saved = _read(self.proxy)
        if isinstance(saved, dict) and isinstance(saved.get("endpoints"), list):
            return Proxied(str(saved.get("discovery", "")), tuple(map(str, saved["endpoints"])))
        return Proxied()

    def write_proxied(self, proxied: Proxied) -> None:
        """Say whose proxy this node is."""
        write(self.proxy, json.dumps({"discovery": proxied.discovery, "endpoints": list(proxied.endpoints)}))

    def read_peers(self) -> Peers:
        """The members that were last seen. Raises OSError."""
        saved = _read(self.peers)
        if isinstance(saved, dict) and isinstance(saved.get("urls"), list):
            return Peers(str(saved.get("discovery", "")), tuple(map(str, saved["urls"])))
        return Peers()

    def write_peers(self, peers: Peers) -> None:
        """Say where members are reached, if that is not what was last said."""
        try:
            known = self.read_peers()
        except OSError:
            known = Peers()
        if known != peers:
            write(self.peers, json.dumps({"discovery": peers.discovery, "urls": list(peers.urls)}))

    def read_running(self) -> Running | None:
        """What this node's etcd is now; None before its first start. Raises OSError."""
        saved = _read(self.running)
        if not isinstance(saved, dict):
            return None
        try:
            kind, name, client, discovery = (str(saved[key]) for key in ("kind", "name", "client", "discovery"))
            urls = tuple(map(str, saved["urls"]))
            return Running(kind, name, urls, client, discovery, int(saved["pid"]), int(saved["began"]))
        except (TypeError, KeyError, ValueError, OverflowError):
            return None

    def write_running(self, running: Running) -> None:
        """Say what this process is about to become."""
        write(self.running, json.dumps(running._asdict()))

    def set_aside(self, wal: Path) -> None:
        """Keep the data of a member that was removed under another name, in the place of what was kept before."""
        try:
            if self.removed.exists():
                shutil.rmtree(self.removed)
            if not wal.is_relative_to(self.data) and wal.exists():
                wal.rename(self.data / "wal.removed")
            self.data.rename(self.removed)
            self.ended.unlink(missing_ok=True)
        except OSError as error:
            raise Failure("cannot set aside the data of a member that was removed", where=str(self.data)) from error


def began(pid: int) -> int:
    """When a process was started, in clock ticks since boot (field 22 of proc_pid_stat(5)); 0 if it does not run."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return 0
    return 0 if state == "Z" else int(rest[18])


def write(path: Path, text: str) -> None:
    """Put ``text`` and the end of a line there, on disk. Raises Failure."""
    try:
        durable.replace(path, text + "\n")
    except OSError as error:
        raise Failure(
            "cannot write what the next start must know", where=str(path), hint="is the state disk full?"
        ) from error


def _read(path: Path) -> object:
    try:
        return record.parse(path.read_text())
    except (FileNotFoundError, ValueError):
        return None

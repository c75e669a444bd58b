"""This node's etcd, as its unit is set: where it listens, what it is called, where its data is."""

from __future__ import annotations

import shlex
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from discovery.settings import DATA, LISTEN, LISTEN_PEERS, NAME, PEER_URLS, WAL, is_loopback, whole
from etcd import Tls, credentials
from etcd.credentials import Credentials
from etcd.protocol import Member
from terminal import Failure

UNIT: Final = "etcd.service"
_PEERS: Final = "http://localhost:2380"  # etcd's own default


class Node(NamedTuple):
    """``endpoint`` and ``peer`` are URLs at which this computer reaches its own etcd, the latter as a member;
    ``peer_urls`` those at which the others do."""

    name: str
    data: Path
    wal: Path
    endpoint: str
    peer: str
    peer_urls: tuple[str, ...]

    @classmethod
    def of(cls, environment: Mapping[str, str], host: str, certificates: Path = credentials.FOLDER) -> Node:
        """From etcd's settings, on the machine ``host``. Raises Misconfigured."""
        settings = whole(environment, host, certificates)
        data = Path(settings[DATA])
        peers = _urls(settings.get(PEER_URLS, _PEERS))
        return cls(
            name=settings[NAME],
            data=data,
            wal=Path(settings[WAL]) if settings.get(WAL) else data / "member" / "wal",
            endpoint=nearest(_urls(settings[LISTEN])),
            peer=nearest(_urls(settings.get(LISTEN_PEERS, "")) or peers),
            peer_urls=peers,
        )

    @classmethod
    def here(cls, certificates: Path = credentials.FOLDER) -> Node:
        """Of this computer's :data:`UNIT`. Raises Failure if there is no systemd that knows it."""
        argv = ["systemctl", "show", "--property=Environment", "--value", UNIT]
        try:
            shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise Failure("cannot ask systemd for etcd's settings", where=UNIT, hint="is this a node?") from error
        return cls.of(environment(shown), socket.gethostname(), certificates)

    @property
    def has_data(self) -> bool:
        """Whether this node is a member, or was one: a proxy has no write-ahead log."""
        try:
            return any(path.suffix == ".wal" for path in self.wal.iterdir())
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Failure("cannot read etcd's data", where=str(self.wal), hint="run this as root: with sudo") from error


def environment(shown: str) -> dict[str, str]:
    """The variables in what ``systemctl show --property=Environment`` prints. Raises Failure."""
    try:
        words = shlex.split(shown)
    except ValueError as error:
        raise Failure("cannot understand etcd's settings", where=UNIT) from error
    pairs = (word.partition("=") for word in words)
    return {name: value for name, equals, value in pairs if equals}


def nearest(urls: tuple[str, ...]) -> str:
    """Of the URLs at which a program listens, the one to reach it at from the same computer. Raises Failure."""
    try:
        found = {urlsplit(url).hostname or "": url for url in reversed(urls)}
    except ValueError as error:
        raise Failure("etcd listens at no URL", where=", ".join(urls)) from error
    for host in ("127.0.0.1", "localhost", "::1"):
        if host in found:
            return found[host]
    for every, loopback in (("0.0.0.0", "127.0.0.1"), ("::", "[::1]")):  # noqa: S104 - read, not bound
        if every in found:
            parts = urlsplit(found[every])
            return f"{parts.scheme}://{loopback}:{parts.port}"
    if not urls:
        raise Failure("etcd listens nowhere", where=LISTEN)
    return urls[0]


def reached_at(member: Member) -> tuple[str, ...]:
    """The URLs at which a member's clients reach it. One that advertises its loopback address (etcd's default) is
    reached where its peers reach it."""
    found = []
    for url in member.client_urls:
        try:
            parts, peer = urlsplit(url), urlsplit(member.peer_urls[0])
            host, port = parts.hostname or "", parts.port
        except (ValueError, IndexError):
            continue
        if is_loopback(host):
            host = peer.hostname or host
        if host and port:
            found.append(f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}")
    return tuple(dict.fromkeys(found))


def tls(found: Credentials | None) -> Tls | None:
    """For connections that show these certificates."""
    return None if found is None else Tls(found.authority, found.certificate, found.key)


def _urls(text: str) -> tuple[str, ...]:
    return tuple(url.strip() for url in text.split(",") if url.strip())

"""etcd's settings, whole: what user-data left out, and mutual TLS for a node that has certificates.

Pure but for a look at which files there are. With certificates, all that user-data has to say is ``https://``: a plain
URL beside them is refused, since whoever reaches a plain port is root on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from etcd import credentials
from etcd.credentials import Credentials
from terminal import Failure

NAME, DATA, WAL = "ETCD_NAME", "ETCD_DATA_DIR", "ETCD_WAL_DIR"
DISCOVERY, FALLBACK, PROXY = "ETCD_DISCOVERY", "ETCD_DISCOVERY_FALLBACK", "ETCD_DISCOVERY_PROXY"
LISTEN, ADVERTISE = "ETCD_LISTEN_CLIENT_URLS", "ETCD_ADVERTISE_CLIENT_URLS"
LISTEN_PEERS, PEER_URLS = "ETCD_LISTEN_PEER_URLS", "ETCD_INITIAL_ADVERTISE_PEER_URLS"
CLUSTER, STATE, TOKEN = "ETCD_INITIAL_CLUSTER", "ETCD_INITIAL_CLUSTER_STATE", "ETCD_INITIAL_CLUSTER_TOKEN"
TLS_MIN = "ETCD_TLS_MIN_VERSION"

CLIENT_PORT: Final = 2379


class Misconfigured(Failure):
    """The settings cannot work; trying again is of no use. Exit code 78 (EX_CONFIG) signals that to systemd."""

    exit_code = 78


class _Side(NamedTuple):
    """One of the two kinds of connections that a member takes."""

    whose: str
    prefix: str
    revoked: str
    urls: tuple[str, ...]

    def is_own(self, environment: Mapping[str, str]) -> bool:
        """Whether user-data has TLS of its own for this side; then all of that is its own."""
        names = ("CERT_FILE", "KEY_FILE", "TRUSTED_CA_FILE", "CLIENT_CERT_AUTH", "AUTO_TLS")
        return any(environment.get(self.prefix + name) for name in names)

    def settings(self, given: Credentials) -> dict[str, str]:
        """What makes etcd show the certificate, and demand one of the authority."""
        return {
            f"{self.prefix}CERT_FILE": given.certificate,
            f"{self.prefix}KEY_FILE": given.key,
            f"{self.prefix}TRUSTED_CA_FILE": given.authority,
            f"{self.prefix}CLIENT_CERT_AUTH": "true",
            self.revoked: given.revoked,
        }


_CLIENTS = _Side("clients", "ETCD_", "ETCD_CLIENT_CRL_FILE", (LISTEN, ADVERTISE))
_PEERS = _Side("members", "ETCD_PEER_", "ETCD_PEER_CRL_FILE", (LISTEN_PEERS, PEER_URLS, CLUSTER))


def whole(given: Mapping[str, str], host: str, certificates: Path = credentials.FOLDER) -> dict[str, str]:
    """``given``, of which empty ones count as left out, with the rest that etcd needs on the machine ``host``.

    Raises Misconfigured if a node with certificates is to speak plain HTTP, or has only some of them.
    """
    found = {key: value for key, value in given.items() if value or not key.startswith("ETCD_")}
    # Not %H in the unit: systemd expands it when it reads the unit, which is before cloud-config names the host.
    found.setdefault(NAME, host)
    found.setdefault(DATA, "/var/lib/etcd/data")
    scheme = dict.fromkeys((_CLIENTS, _PEERS), "http")
    for side, files in ((_CLIENTS, credentials.server), (_PEERS, credentials.peer)):
        own = None if side.is_own(found) else _files(files, certificates)
        if own is None:
            continue
        _require_https(side, found, certificates)
        found |= side.settings(own)
        found.setdefault(TLS_MIN, "TLS1.3")
        scheme[side] = "https"
    here = f"{scheme[_CLIENTS]}://127.0.0.1:{CLIENT_PORT}"
    found.setdefault(LISTEN, here)
    found.setdefault(ADVERTISE, here)
    if scheme[_PEERS] == "https" and not found.keys() & {LISTEN_PEERS, PEER_URLS, CLUSTER, DISCOVERY}:
        # etcd's own defaults, which are for plain HTTP
        found |= dict.fromkeys((LISTEN_PEERS, PEER_URLS), "https://localhost:2380")
        found[CLUSTER] = f"{found[NAME]}={found[PEER_URLS]}"
    return found


def plain(environment: Mapping[str, str]) -> str:
    """What is said to whoever runs a node whose etcd takes plain HTTP; empty if it does not."""
    open_to = [side.whose for side in (_CLIENTS, _PEERS) if any(_is_plain(url) for url in _urls(side, environment))]
    if not open_to:
        return ""
    return (
        f"etcd takes plain HTTP from {' and '.join(open_to)}: whoever reaches it is root on every machine of the "
        "cluster; give the nodes certificates, see docs/security.md"
    )


def is_loopback(host: str) -> bool:
    """Whether the host of a URL is reached from the same machine only."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _files(find: Callable[[Path], Credentials | None], certificates: Path) -> Credentials | None:
    try:
        return find(certificates)
    except Failure as failure:
        raise Misconfigured(failure.message, where=failure.where, hint=failure.hint) from failure


def _require_https(side: _Side, environment: Mapping[str, str], certificates: Path) -> None:
    for name in side.urls:
        for url in _urls_of(environment.get(name, "")):
            if _is_plain(url):
                raise Misconfigured(
                    f"this node has certificates, and is to speak plain HTTP with {side.whose}",
                    where=f"{name}={environment[name]}",
                    hint=f"write https:// there, or take the certificates out of {certificates}",
                )


def _urls(side: _Side, environment: Mapping[str, str]) -> Iterator[str]:
    for name in side.urls:
        yield from _urls_of(environment.get(name, ""))


def _urls_of(text: str) -> Iterator[str]:
    """Of ``[NAME=]URL,...``."""
    for piece in text.split(","):
        yield piece[piece.find("=") + 1 :].strip()


def _is_plain(url: str) -> bool:
    return url.startswith("http://")

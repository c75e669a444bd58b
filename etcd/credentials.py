"""The certificates of a node, as its programs find them: with them etcd's peers and clients trust only each other.

The files are put there before etcd starts, by user-data. Each certificate is a leaf with its key; beside it are the
authority that the other side's certificate must come from, and the list of those that were revoked. Peers and clients
have authorities of their own, so that a peer's certificate opens nothing to a client. All are PEM.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from terminal import Failure

FOLDER = Path("/etc/flotilla/trust")


class Credentials(NamedTuple):
    """Paths: what one side shows (``certificate``, ``key``), and what it demands of the other."""

    authority: str
    certificate: str
    key: str
    revoked: str


def peer(folder: Path = FOLDER) -> Credentials | None:
    """Of a member, towards the other members. None on a node without certificates; raises Failure if some are missing.

    So does each of these."""
    return _found(folder, "etcd-peers", "etcd-peer")


def server(folder: Path = FOLDER) -> Credentials | None:
    """Of a member, towards clients."""
    return _found(folder, "etcd-clients", "etcd-server")


def client(folder: Path = FOLDER) -> Credentials | None:
    """Of the node's programs, towards members."""
    return _found(folder, "etcd-clients", "etcd-client")


def _found(folder: Path, authority: str, leaf: str) -> Credentials | None:
    """There is no way back to plain text from a node that has a part of its certificates."""
    try:
        there = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Failure("this node's certificates cannot be read", where=str(folder)) from error
    names = (f"{authority}-ca.crt", f"{leaf}.crt", f"{leaf}.key", f"{authority}.crl")
    missing = [name for name in names if name not in there]
    if missing and not any(name.startswith("etcd-") for name in there):
        return None
    if missing:
        raise Failure(
            f"this node has certificates for etcd, but not {', '.join(missing)}",
            where=str(folder),
            hint="give it all of them in its user-data, or none; without them it does not go back to plain text",
        )
    return Credentials(*(str(folder / name) for name in names))

"""The files of a node's certificates: names, owners, permissions. What user-data brings and what an issuer gives alike.

Pure data, for nodes and for the host.
"""

from __future__ import annotations

from typing import Final

FOLDER: Final = "/etc/flotilla/trust"

LEAVES: Final = ("etcd-peer", "etcd-server", "etcd-client", "fleet-server")
"""The node's certificates; each is in a file ``.crt``, its key in ``.key``. What they are for: trust/profile.py."""
LISTS: Final = ("etcd-peers.crl", "etcd-clients.crl", "fleet.crl")
"""What the authorities have revoked."""
AUTHORITIES: Final = ("etcd-peers-ca.crt", "etcd-clients-ca.crt", "fleet-ca.crt")
GIVEN: Final = frozenset((*AUTHORITIES, *LISTS, *(f"{leaf}.crt" for leaf in LEAVES)))
"""What an issuer gives; the keys are the node's own."""

_KEYS: Final = {
    "etcd-peer.key": ("etcd", "etcd", 0o600),
    "etcd-server.key": ("etcd", "etcd", 0o600),
    # Who may use fleet's socket equals root on every node, and may use etcdctl as well.
    "etcd-client.key": ("root", "fleet", 0o640),
}


def ownership(name: str) -> tuple[str, str, int]:
    """User, group and permissions of a file of this name: a private key is for the account alone that uses it."""
    return _KEYS.get(name, ("root", "root", 0o600 if name.endswith(".key") else 0o644))

"""A cluster's certificates: its authorities are made with it, and each node gets its own in its user-data.

With them etcd's members and clients trust only each other (docs/security.md). The authorities' keys stay on this
computer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

OPERATOR: Final = "cluster"
"""The name in this computer's certificate."""


def make(authorities: Path, operator: Path) -> None:
    """Make the trust folder ``authorities`` and, in the folder ``operator``, certificates for this computer.

    Raises :class:`Failure` if either exists."""
    import trust  # lazily, here and below: a fresh machine looks at arguments before it has cryptography and jinja2
    from trust.folder import made
    from trust.profile import NODE_DAYS

    trust.create(authorities)
    issued = trust.issue_user(authorities, OPERATOR, "operator", days=NODE_DAYS, etcd=True)
    with made(operator) as files:
        files.update(issued.files)


def make_services(path: Path) -> str:
    """Make the key and certificate of what this computer serves to nodes; returns the fingerprint that they pin.

    Raises :class:`Failure`."""
    from cluster.services.addresses import CERTIFIED
    from webserver import selfmade

    selfmade.make(path, CERTIFIED)
    return selfmade.read_fingerprint(path)


def of_services(path: Path) -> str:
    """The certificate in the file of :func:`make_services`, without its key, as PEM. Raises :class:`Failure`."""
    text = path.read_text()
    return text[text.index("-----BEGIN CERTIFICATE") :]


def of_node(authorities: Path, name: str, addresses: Sequence[str]) -> list[dict[str, str]]:
    """New certificates of a node, as entries of ``write_files``; only their owners may read the keys.

    Raises :class:`Failure` if the trust folder is not what it was."""
    import trust
    from cloudconfig.host.certificates import entries

    return entries(trust.issue_node(authorities, name, addresses).files)

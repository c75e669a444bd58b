"""Who may talk to whom: three authorities (etcd's peers, etcd's clients, fleet's API) and what they issue.

A *trust folder* holds the authorities' keys and the ledger of what they issued and revoked; it stays on a computer of a
person. A *holder* is a node or a user, and gets :class:`Certificates`: PEM texts by file name. A *profile* says what
one certificate is for (:mod:`trust.profile`). The command is ``trust``.

Runs on the host: what a node's programs import must not import this room, since an image has no ``cryptography``.
"""

from trust.issuer import Certificates, create, issue_node, issue_user, renew, revoke
from trust.profile import NODE_FOLDER, Role, mode

__all__ = [
    "NODE_FOLDER",
    "Certificates",
    "Role",
    "create",
    "issue_node",
    "issue_user",
    "mode",
    "renew",
    "revoke",
]

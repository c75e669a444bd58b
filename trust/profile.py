"""What is issued: three authorities, and the certificates of a node and of a user, as data.

Three, so that one kind is refused where another is asked for: a peer's certificate opens no client port of etcd, and a
user's none of etcd's at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from enrolment import files, protocol

Role = Literal["node", "reader", "operator", "issuer"]
"""Whose certificate it is: the organization (O) of its subject. A reader asks fleet's API, and changes nothing. The
issuer is what nodes enrol at."""

ETCD_PEERS: Final = "etcd-peers"
ETCD_CLIENTS: Final = "etcd-clients"
FLEET: Final = "fleet"
AUTHORITIES: Final = (ETCD_PEERS, ETCD_CLIENTS, FLEET)
"""Their names, with which those of their files begin: ``etcd-peers-ca.crt``, ``etcd-peers-ca.key``,
``etcd-peers.crl``."""

NODE_FOLDER: Final = files.FOLDER
"""Where a node has its files, under the names of :attr:`trust.Certificates.files`."""

AUTHORITY_DAYS: Final = 3650
NODE_DAYS: Final = 730
"""Two years: for nodes whose certificates no issuer renews."""
ENROLLED_DAYS: Final = 90
"""For nodes that renew at an issuer by themselves."""
USER_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Profile:
    """One certificate of a holder: ``name`` is that of its files (``.crt``, ``.key``), ``authority`` signs it.

    ``serves`` and ``asks`` are its usages, serverAuth and clientAuth (RFC 5280 4.2.1.12). ``is_local`` adds localhost
    and its addresses to its alternative names. One that only asks has none: it may come from anywhere. (A peer may not:
    etcd compares the address that it comes from.)
    """

    name: str
    authority: str
    serves: bool
    asks: bool
    is_local: bool = False


ETCD_CLIENT: Final = Profile("etcd-client", ETCD_CLIENTS, serves=False, asks=True)
NODE: Final = (
    Profile("etcd-peer", ETCD_PEERS, serves=True, asks=True),
    # etcd's JSON gateway is a client of etcd itself, with the server's certificate, from 127.0.0.1: hence the
    # authority of clients, both usages, and the local names (https://github.com/etcd-io/etcd/issues/16590).
    Profile("etcd-server", ETCD_CLIENTS, serves=True, asks=True, is_local=True),
    ETCD_CLIENT,
    Profile("fleet-server", FLEET, serves=True, asks=False, is_local=True),
)
ISSUER_NAME: Final = "issuer"
ISSUER: Final = (Profile(protocol.ORGANIZATION, FLEET, serves=True, asks=False),)
"""Of the authority to whose fingerprint nodes pin their connection."""
USER: Final = (Profile("fleet-client", FLEET, serves=False, asks=True),)


def certificate_file(stem: str) -> str:
    """The name of the file with the certificate of a profile, or with those of an authority (``-ca``)."""
    return f"{stem}.crt"


def key_file(stem: str) -> str:
    """The name of the file with the private key that belongs to it."""
    return f"{stem}.key"


def ca_stem(authority: str) -> str:
    """What the files of an authority's certificate and key are named after."""
    return f"{authority}-ca"


def crl_file(authority: str) -> str:
    """The name of the file with the certificates that an authority has revoked."""
    return f"{authority}.crl"


def mode(file: str) -> int:
    """The permissions of a file of this name: a private key is its owner's alone."""
    return 0o600 if file.endswith(".key") else 0o644


NODE_FILES: Final = (
    *(file for each in AUTHORITIES for file in (certificate_file(ca_stem(each)), crl_file(each))),
    *(file for each in NODE for file in (certificate_file(each.name), key_file(each.name))),
)
"""The names of all files of a node."""

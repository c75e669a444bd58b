"""TCP ports of this computer's loopback address for ssh and discovery."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Collection

from cluster.model.layout import clusters_root
from terminal import Failure, UsageFailure

LOOPBACK = "127.0.0.1"
FIRST = 22001
"""Below Linux's range for outgoing connections (32768 up), so that a stopped cluster's ports are not lent out."""
LAST = 32000
UNPRIVILEGED = 1024
HIGHEST = 65535


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now. Raises OSError for other errors than a port in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def first() -> int:
    """Where the search for free ports begins.

    Users and state folders do not know each other's choices, so each begins elsewhere.
    """
    root = os.fsencode(clusters_root())
    return FIRST + int.from_bytes(hashlib.sha256(root).digest()[:2], "big") % (LAST - FIRST)


def choose(count: int, reserved: Collection[int]) -> list[int]:
    """``count`` free ports, ascending from :func:`first`, none of ``reserved``.

    Raises :class:`Failure` if there are none.
    """
    found: list[int] = []
    begin = first()
    for port in (*range(begin, LAST), *range(FIRST, begin)):
        if len(found) == count:
            return found
        if port not in reserved and is_free(port):
            found.append(port)
    raise Failure(f"no {count} free ports between {FIRST} and {LAST}", hint="end what listens there: ss -tlnp")


def insist(first: int, count: int, option: str, reserved: Collection[int]) -> list[int]:
    """The ``count`` ports from ``first``, which ``option`` requests (for the message).

    Raises :class:`Failure` naming one that is taken.
    """
    if first < UNPRIVILEGED or first + count - 1 > HIGHEST:
        raise UsageFailure(
            f"{option} {first}: ports go from {UNPRIVILEGED} to {HIGHEST}, and {count} in a row are needed"
        )
    wanted = list(range(first, first + count))
    for port in wanted:
        if port in reserved:
            raise Failure(
                f"port {port} belongs to another cluster of yours", where=f"{option} {first}", hint="cluster list"
            )
        if not is_free(port):
            hint = f"end what listens there (ss -tlnp 'sport = :{port}' shows it), or choose another port"
            raise Failure(f"port {port} is taken", where=f"{option} {first}", hint=hint)
    return wanted

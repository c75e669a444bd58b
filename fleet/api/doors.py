"""Where the API listens on TCP: with mutual TLS where the node has certificates of its authority, else nowhere.

Plain TCP opens only to a setting that says ``http://``, or to a drop-in of ``fleet.socket`` on a node without
certificates.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from etcd import credentials
from terminal import Failure
from webserver.server import listen
from webserver.tls import Files, Tls, present

PORT: Final = 2378
"""Below those that the kernel gives to clients, and beside etcd's."""

_LOG = logging.getLogger(__name__)


class Door(NamedTuple):
    """A listening socket, and the TLS of its connections."""

    listening: socket.socket
    tls: Tls | None = None


def own(folder: Path = credentials.FOLDER) -> Tls | None:
    """TLS with the node's certificates of fleet's authority; None on a node without any.

    The original's client, of 2016, speaks TLS 1.2 at most; nothing older is taken."""
    names = ("fleet-ca.crt", "fleet.crl", "fleet-server.crt", "fleet-server.key")
    files = Files(*(str(folder / name) for name in names))
    return Tls(files, minimum=ssl.TLSVersion.TLSv1_2) if present(files) else None


def opened(
    urls: Sequence[str] | None, address: str, given: Sequence[socket.socket], tls: Tls | None = None
) -> list[Door]:
    """All doors: the sockets that systemd has ``given``, and those that we open at ``urls``.

    None is the usual one, at the node's ``address``, if there is ``tls``. A port that cannot be opened, and certificates
    that cannot be used, are an error in the journal and end nothing: units run on."""
    doors = [Door(each, None if each.family == socket.AF_UNIX else tls) for each in given]
    if urls is None:
        urls = [f"https://{f'[{address}]' if ':' in address else address or '[::]'}:{PORT}"] if tls is not None else []
    for url in urls:
        try:
            doors.append(_opened(url, tls))
        except Failure as failure:
            _LOG.error("the API is not open there: %s", failure.on_one_line)
    for door in doors:
        if door.listening.family != socket.AF_UNIX and door.tls is None:
            _LOG.warning(
                "the API takes plain TCP at %s: whoever reaches it is root on every machine of the cluster; give the "
                "nodes certificates, see docs/security.md",
                door.listening.getsockname()[0],
            )
    return doors


def _opened(url: str, tls: Tls | None) -> Door:
    """Raises :class:`Failure`."""
    parts = urlsplit(url)
    is_plain = parts.scheme == "http"
    if not is_plain:
        if tls is None:
            hint = "give the node those of 'trust issue --node', and restart fleet"
            raise Failure("there are no certificates of fleet's authority", where=url, hint=hint)
        with suppress(Failure):  # which it has logged; it looks again with each connection
            tls()
    port = PORT if parts.port is None else parts.port  # 0 is any that is free
    try:
        return Door(listen((parts.hostname or "", port), early=True), None if is_plain else tls)
    except (OSError, OverflowError) as error:
        hint = "is another program there? then: systemctl restart fleet, which stops no unit"
        raise Failure(f"cannot listen: {error}", where=url, hint=hint) from error

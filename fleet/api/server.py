"""The API over sockets that listen already: systemd's, a test's, or the door on TCP (:mod:`fleet.api.doors`)."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from http import HTTPStatus

from fleet.api.doors import Door
from fleet.api.handlers import Api, failed
from fleet.api.shapes import BODY_SIZE_MAX
from fleet.model.live import Live
from fleet.model.registry import Registry
from terminal.version import VERSION
from webserver.message import Response
from webserver.server import Server, Site

IDLE_S = 60
"""Seconds that a connection may be silent.

The original's client keeps its own open for 90 and copes with losing them."""

CONNECTIONS_MAX = 64
"""Connections of one socket that are served at the same time."""

CLIENT_MAX = 32
"""Of them, of one other machine."""

QUEUE_S = 5
"""Seconds that one more connection waits for another to end before it is dropped."""

_LOG = logging.getLogger(__name__)


class ApiServer:
    """Serves ``registry``, of which ``live`` may be a view, on ``sockets``.

    They are bound, listening stream sockets (unix or TCP); a door has TLS as well. Closing them is its job."""

    def __init__(
        self, registry: Registry, live: Live | None = None, *, sockets: Sequence[socket.socket | Door]
    ) -> None:
        site = Site(
            handle=Api(registry, live).handle,
            refuse=_refuse,
            log=_log,
            name=f"fleetd/{VERSION}",
            body_bytes=BODY_SIZE_MAX,
            request_s=IDLE_S,
            connections=CONNECTIONS_MAX,
            connections_client=CLIENT_MAX,
            queue_s=QUEUE_S,
        )
        # One for each socket: a flood from the network leaves room for fleetctl on this machine.
        doors = [each if isinstance(each, Door) else Door(each) for each in sockets]
        self._servers = [Server(each.listening, site, tls=each.tls) for each in doors]

    def start(self) -> None:
        """Begin to serve, in threads of its own."""
        for server in self._servers:
            server.start()

    def stop(self) -> None:
        """Accept no more connections and close the sockets; requests that are being answered have a moment to end."""
        for server in self._servers:
            server.stop()


def _refuse(status: int, message: str) -> Response:
    return failed(HTTPStatus(status), message)


def _log(peer: str, line: str) -> None:
    _LOG.debug("%s %s", peer or "local", line)

"""The cluster's registry as nodes see it: images to pull, and nothing to write.

What nodes could store there would be on this computer's disk, without a bound that the registry has. So they reach this
server only, which passes GET and HEAD on; images come in by :mod:`cluster.services.push`, on this computer.
It speaks TLS, with a certificate of the cluster's that its nodes' docker trusts for this registry alone.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO, Final, cast

from cluster.services.push import DEADLINE_S, REGISTRY
from cluster.services.site import node_site
from webserver.message import Request, Response
from webserver.server import METHODS, Site
from webserver.unix import UnixConnection

_LIST_BYTES_MAX: Final = 1 << 20
_FORWARDED: Final = ("accept", "if-none-match", "range", "user-agent")
_ANSWERED: Final = frozenset(
    {
        *("accept-ranges", "cache-control", "content-length", "content-range", "content-type", "etag", "link"),
        *("docker-content-digest", "docker-distribution-api-version"),
    }
)


def site(registry: Path, say: Callable[[str], None]) -> Site:
    """GET and HEAD of what the registry at the unix socket ``registry`` has."""
    return node_site(partial(_pull, registry), METHODS, say)


def _pull(registry: Path, request: Request) -> Response:
    if request.method not in ("GET", "HEAD"):
        return _refused(HTTPStatus.FORBIDDEN, "DENIED", "nodes only pull; on the computer that runs them: cluster push")
    if not (request.target.startswith("/v2/") and request.target.isascii() and request.target.isprintable()):
        return _refused(HTTPStatus.NOT_FOUND, "UNSUPPORTED", "images are at /v2/")
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    connection = UnixConnection(registry, host=REGISTRY, timeout_s=DEADLINE_S)
    try:
        # Closed after the answer, so that it belongs to the answer, which the server closes.
        connection.request(request.method, request.target, headers={**headers, "Connection": "close"})
        answer = connection.getresponse()
        # A list, of a page at most; what is read here cannot end early later, where that is not expected.
        read = None if "Content-Length" in answer.headers else answer.read(_LIST_BYTES_MAX)
    except (OSError, ValueError, http.client.HTTPException):
        connection.close()
        return _refused(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE", "nothing is here yet: cluster push IMAGE.tar")
    answered = {name: value for name, value in answer.getheaders() if name.lower() in _ANSWERED}
    if read is not None:
        # With its length: over TLS, an end that is only that of the connection may have been made by anyone.
        return Response(answer.status, read, content_type="", headers=answered)
    return Response(answer.status, content_type="", headers=answered, file=cast("BinaryIO", answer))


def _refused(status: HTTPStatus, code: str, message: str) -> Response:
    """As the registry itself refuses (OCI distribution specification 1.1, error codes): docker prints the message."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Response(status, body, "application/json")

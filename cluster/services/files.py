"""A folder of this computer, readable for nodes over HTTP: ``http://10.77.0.1:8080/``."""

from __future__ import annotations

import http.client
import http.server
import os
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from cluster.services.site import node_site
from webserver.message import Refusal, Request, Response
from webserver.server import Site


class _Reader(http.server.SimpleHTTPRequestHandler):
    """What ``http.server`` knows of folders, without a connection. Links may not lead out of the folder."""

    def __init__(self, folder: Path, request: Request) -> None:
        # Not the base's, which would serve a connection.
        self.directory, self.path = str(folder), request.target
        self.headers = http.client.HTTPMessage()
        for name, value in request.headers.items():
            self.headers[name] = value
        self.status, self.fields = 0, dict[str, str]()

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Refuse what lies outside, also by a link, and what would wait for ever (a pipe) or is a device."""
        self._check(self.translate_path(self.path))
        return super().send_head()

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        """Of the file that is opened next, which may be a folder's index.html and such a link itself."""
        self._check(path)
        return super().guess_type(path)

    def _check(self, path: str | os.PathLike[str]) -> None:
        try:
            # Not Path.resolve, which fails for a ring of links.
            real = Path(os.path.realpath(path))
            found = real.is_relative_to(os.path.realpath(self.directory)) and (real.is_file() or real.is_dir())
        except (OSError, ValueError):  # a name that is too long, a zero byte
            found = False
        if not found:
            raise Refusal(HTTPStatus.NOT_FOUND)

    def send_response(self, code: int, message: str | None = None) -> None:  # noqa: ARG002 - the signature is given
        self.status = code

    def send_header(self, keyword: str, value: str) -> None:
        self.fields[keyword] = value

    def end_headers(self) -> None:
        """They are not sent here."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        raise Refusal(code, message)


def _read(folder: Path, request: Request) -> Response:
    reader = _Reader(folder, request)
    file = reader.send_head()
    if file is None:
        reader.fields.pop("Content-Length", None)  # that of no body, which the server sends
    return Response(reader.status, content_type="", headers=reader.fields, file=file)


def site(folder: Path, say: Callable[[str], None]) -> Site:
    """GET and HEAD of regular files in ``folder``, and lists of its folders."""
    return node_site(partial(_read, folder), ("GET", "HEAD"), say)

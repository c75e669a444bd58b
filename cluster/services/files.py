"""A folder of this computer, readable for nodes over HTTP: ``http://10.77.0.1:8080/``."""

from __future__ import annotations

import http.server
import os
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from cluster.services.webserver import Handler


class FileHandler(Handler, http.server.SimpleHTTPRequestHandler):
    """GET and HEAD of regular files in ``directory``, and lists of its folders. Links may not lead out of it."""

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Refuse what lies outside, also by a link, and what would wait for ever (a pipe) or is a device."""
        try:
            # Not Path.resolve, which fails for a ring of links.
            path = Path(os.path.realpath(self.translate_path(self.path)))
        except ValueError:  # a zero byte
            path = Path(os.devnull)
        if not path.is_relative_to(os.path.realpath(self.directory)) or not (path.is_file() or path.is_dir()):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()


def handler(folder: Path) -> Callable[..., FileHandler]:
    """What serves ``folder``."""
    return partial(FileHandler, directory=str(folder))

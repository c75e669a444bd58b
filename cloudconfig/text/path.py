"""Paths as user-data may name them."""

from __future__ import annotations

import re

_CONTROL = re.compile("[\x00-\x1f\x7f]")


def path_problem(path: str) -> str:
    """What is wrong with ``path`` as an absolute path already in its shortest form; empty if nothing."""
    if not path.startswith("/"):
        return "not an absolute path"
    if _CONTROL.search(path):
        return "a control character in the path"
    pieces = path[1:].split("/")
    if ".." in pieces:
        return "has .. in it"
    if path == "/" or "" in pieces or "." in pieces:
        return "not a clean path"
    if len(path.encode()) > 4000 or any(len(piece.encode()) > 255 for piece in pieces):
        return "too long for a path"
    return ""

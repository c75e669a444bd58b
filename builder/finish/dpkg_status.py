"""The list of packages in dpkg's own format, for scanners.

Replaces the work of: dpkg's database, which an image without dpkg does not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from builder.core.tree import Patch, Tree, file
from terminal import Failure

PATH: Final = "usr/share/flotilla/dpkg-status"
_STATUS: Final = "Status: install ok installed"


def dpkg_status(tree: Tree, paragraphs: Iterable[str]) -> Patch:  # noqa: ARG001 - every step takes the tree
    """``paragraphs`` (the control file of each package) as one status file, sorted by package name.

    Its path is ``usr/share/flotilla/dpkg-status``.

    It lies in /usr since /var belongs to the state disk; link /var/lib/dpkg/status to it. Raises :class:`Failure` for a
    paragraph without a package name.
    """
    named: list[tuple[str, str]] = []
    for paragraph in paragraphs:
        lines = [line for line in paragraph.strip("\n").split("\n") if not line.startswith("Status:")]
        match = re.match(r"Package:\s*(\S+)", lines[0])
        if match is None:
            raise Failure(
                f"a control paragraph that does not begin with its package: '{lines[0][:60]}'", where="dpkg status"
            )
        named.append((match[1], "\n".join([lines[0], _STATUS, *lines[1:]]) + "\n"))
    return Patch((file(PATH, "\n".join(text for _, text in sorted(named))),))

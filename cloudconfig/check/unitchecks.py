"""Checks units in user-data as systemd will read them.

These are coreos.units, their drop-ins, and files that are written where systemd looks.

On the host only: a node's boot does not wait for it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from cloudconfig.text.addresses import sample
from cloudconfig.text.finding import Finding
from cloudconfig.text.parse import Document
from cloudconfig.text.reader import Mark
from unitfile import lint
from unitfile.name import UnitName, UnitNameError, canonical, is_network
from unitfile.text import UnitFile, UnitFileError, physical_lines

_FILE = re.compile(r"/(?:etc|run)/systemd/system/([^/]+?)(?:\.d/[^/]+\.conf)?")


def check(document: Document, text: str, binaries: Collection[str] | None = None) -> Iterator[Finding]:
    """Findings about the units of ``document``, which was parsed from ``text``, at their places there.

    ``binaries`` are the absolute paths of the image's programs; ``None``: not known, so that none is missed. What is no
    unit text at all in coreos.units, or no unit's name, is reported by :mod:`cloudconfig.check.validate`.
    """
    places, nearest = _Places(document, text), lint.Nearest()
    for unit in document.config.units:
        name = canonical(unit.name)
        if is_network(name) or not _is_name(name):
            continue
        texts = [drop_in.content for drop_in in unit.drop_ins]
        if unit.content is not None and _is_text(unit.content):
            found = lint.lint(name, sample(unit.content), binaries, drop_ins=texts, nearest=nearest)
            yield from places.all(f"{unit.at}.content", unit.content, found)
        for drop_in in unit.drop_ins:
            if _is_text(drop_in.content):
                found = lint.lint(name, sample(drop_in.content), binaries, is_drop_in=True, nearest=nearest)
                yield from places.all(f"{drop_in.at}.content", drop_in.content, found)
    for file in document.config.write_files:
        match = _FILE.fullmatch(file.path)
        if match is None or not _is_name(match[1]) or not file.content:
            continue  # an empty file masks a unit
        content = file.content.decode("utf-8", "replace")
        # The rest of a file that is appended to is not known here.
        partial = file.append or file.path.endswith(".conf")
        found = lint.lint(match[1], sample(content), binaries, is_drop_in=partial, nearest=nearest)
        yield from places.all(f"{file.at}.content", content, found)


def _is_name(text: str) -> bool:
    try:
        UnitName.parse(text)
    except UnitNameError:
        return False
    return True


def _is_text(text: str) -> bool:
    try:
        UnitFile.parse(text)
    except UnitFileError:
        return False
    return True


class _Places:
    """From a place in a unit's text to the one in the user-data."""

    def __init__(self, document: Document, text: str) -> None:
        self._marks = document.marks
        self._lines = text.split("\n")

    def all(self, path: str, content: str, found: Sequence[lint.Finding]) -> Iterator[Finding]:
        """``found`` in ``content``, the value at the key path ``path``."""
        if not found:
            return
        mark = self._marks.get(path, Mark(0, 0, False))
        lines = physical_lines(content)
        for one in found:
            line, column, place = mark.line, mark.column, ""
            if one.line:
                inner = lines[one.line - 1]
                outer = self._lines[mark.line + one.line - 1] if mark.line + one.line <= len(self._lines) else ""
                # In a | block the lines stand as they are, below the bar and indented.
                if mark.block and outer.endswith(inner):
                    line, column = mark.line + one.line, len(outer) - len(inner) + one.column
                else:
                    place = f" (line {one.line} of it)"
            yield Finding(one.severity, path, line, column, one.message + place, one.hint)

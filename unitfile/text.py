"""Unit files: systemd's INI dialect as a value (systemd.syntax(7)).

Parsing drops comments and blank lines and groups the options by section, in the order in which sections were first
seen; writing it back gives the canonical text. The SHA-1 of that text is a unit's hash, the same one that the original
fleet computed: ``[Service]\\nExecStart=/bin/sleep 1000\\n`` is ``2d432f4a06608c1a8b2848b66c836793a1d48ce6``.

A continued line keeps its backslash and line break inside the value, so that what a node runs reads as it was written.
Two oddities are kept as the original kept them, or the hash would be another one: a continuation that leads to an empty
line (the value ends in backslash and line break), and a comment inside a continuation that itself ends in a backslash.
systemd reads neither (``Option.folded``).

All of it takes time in proportion to the length of the text: what arrives by the HTTP API may be hostile.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from terminal import Failure

SIZE_MAX = 1 << 20
"""Bytes of a whole unit file. systemd's own limit is 1 MiB a line, and etcd takes 1.5 MiB a request."""

_BLANK = " \t"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_COMMENT = ("#", ";")
_HEADING = r"\[[A-Za-z][A-Za-z0-9-]*\]\n"
_LINE = r"[A-Za-z][A-Za-z0-9-]*=(?! )[^\\\x00-\x1f\x7f\ud800-\udfff]*(?<! )\n"
_PLAIN = re.compile(f"{_HEADING}(?:{_LINE})+(?:\\n{_HEADING}(?:{_LINE})+)*")
_HEADINGS = re.compile(r"^\[.*$", re.MULTILINE)


class UnitFileError(Failure):
    """The text is no unit file. ``line`` counts from 1; 0 when the error is about the whole."""

    def __init__(self, message: str, *, line: int = 0, hint: str | None = None) -> None:
        super().__init__(message, where=f"line {line}" if line else None, hint=hint)
        self.line = line


@dataclass(frozen=True, slots=True)
class Option:
    """One ``name=value`` of a section.

    ``line`` is where it was read (0: it was not) and counts for nothing in comparisons."""

    section: str
    name: str
    value: str
    line: int = field(default=0, compare=False)

    @property
    def folded(self) -> str:
        """The value as systemd reads it: continued lines joined by a space, comments between them left out."""
        if "\n" not in self.value:
            return self.value.strip(_BLANK)
        first, *others, last = self.value.split("\n")
        lines = [first.removesuffix("\\").rstrip()]
        lines += [line.removesuffix("\\").strip() for line in others if not line.lstrip(_BLANK).startswith(_COMMENT)]
        return " ".join([*lines, last.lstrip()]).strip(_BLANK)


class Heading(NamedTuple):
    """The line ``[name]`` that begins a section."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class UnitFile:
    """The options of a unit file, grouped by section.

    Two files that mean the same options in the same order are equal."""

    options: tuple[Option, ...]

    @classmethod
    def parse(cls, text: str) -> UnitFile:
        """Read unit file text; raises :class:`UnitFileError` with the line of the first mistake."""
        return cls(_grouped([each for each in entries(text) if isinstance(each, Option)]))

    @classmethod
    def of(cls, options: Iterable[Option]) -> UnitFile:
        """Make a unit file of options that come from elsewhere (the HTTP API).

        Raises :class:`UnitFileError` when written out they would read back as something else: a line break that
        smuggles in another option, a name with ``=`` in it.
        """
        made = cls(
            _grouped(
                [
                    Option(each.section.strip(_BLANK), each.name.strip(_BLANK), each.value.strip(_BLANK))
                    for each in options
                ]
            )
        )
        if cls.parse(made.serialize()) != made:
            raise UnitFileError("the options do not make a unit file: a line break, bracket or = is out of place")
        return made

    def serialize(self) -> str:
        """The canonical text: no comments, one blank line between sections, a final newline; "" for no options."""
        parts: list[str] = []
        section: str | None = None
        for option in self.options:
            if option.section != section:
                parts.append(f"{'' if section is None else chr(10)}[{option.section}]\n")
                section = option.section
            parts.append(f"{option.name}={option.value}\n")
        return "".join(parts)

    def hash(self) -> str:
        """See :func:`hash_of`."""
        return hash_of(self.serialize())

    def get(self, section: str, name: str) -> tuple[str, ...]:
        """All values of an option in order, continued lines joined; empty when it is absent."""
        return tuple(each.folded for each in self.options if each.section == section and each.name == name)

    def section(self, section: str) -> tuple[Option, ...]:
        """The options of one section, in order."""
        return tuple(each for each in self.options if each.section == section)


def hash_of(text: str) -> str:
    """SHA-1 (40 hex digits) of a canonical text: an identity to compare by, no protection against malice."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def is_plain(text: str) -> bool:
    """Whether it can be seen at a glance that ``text`` is canonical: that it parses, and is written back as it is.

    False says nothing. Of most canonical texts it is true, for a tenth of what parsing them costs."""
    if len(text) > SIZE_MAX // 4 or not _PLAIN.fullmatch(text):
        return False
    headings = _HEADINGS.findall(text)
    return len(set(headings)) == len(headings)


def entries(text: str) -> Iterator[Heading | Option]:
    """The options of the unit file ``text``, in its order; raises :class:`UnitFileError` at the first mistake."""
    _check_whole(text)
    section = ""
    for number, logical in _logical_lines(text.removeprefix("\ufeff")):
        if logical.startswith("["):
            section = _section(logical, number)
            yield Heading(section, number)
        else:
            yield _option(section, logical, number)


def physical_lines(text: str) -> list[str]:
    """The lines of ``text`` as they are counted here: systemd ends a line at CR as well as at LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _check_whole(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UnitFileError("a unit file is not valid UTF-8 text") from None
    if size > SIZE_MAX:
        raise UnitFileError(f"a unit file has {size} bytes, {SIZE_MAX} is the most")
    if "\0" in text:
        raise UnitFileError("a NUL byte", line=text.count("\n", 0, text.index("\0")) + 1)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations, each with the number of its first line; comments and blank lines left out.

    Both CR and LF end one: otherwise an option could hide from us behind a CR.
    """
    if "\\" not in text and "\r" not in text:  # nothing can be continued: most texts, and a cluster has many
        for number, physical in enumerate(text.split("\n"), 1):
            line = physical.strip(_BLANK)
            if line and not line.startswith(_COMMENT):
                yield number, line
        return
    pending: list[str] = []
    begin = 0
    for number, physical in enumerate(physical_lines(text), 1):
        line = physical.strip(_BLANK)
        if line.startswith(_COMMENT):
            # systemd skips it in the middle of a continued line, too; the original kept it there if it ends in a
            # backslash
            if pending and physical.endswith("\\"):
                pending.append(physical)
            continue
        if not pending:
            if not line:
                continue
            if not line.endswith("\\"):
                yield number, line
                continue
            begin = number
        if _continues(physical):
            pending.append(physical)
            continue
        if _continues(line):
            raise UnitFileError(
                "a blank after the backslash at the end of the line", line=number, hint="remove the blank"
            )
        pending.append(physical.rstrip(_BLANK))
        yield begin, "\n".join(pending).strip(_BLANK)
        pending = []
    if pending:
        raise UnitFileError("the file ends in a backslash, with no line to continue", line=begin)


def _continues(line: str) -> bool:
    """Whether the line ends in a backslash that is not itself escaped."""
    return line.endswith("\\") and (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _section(line: str, number: int) -> str:
    name, bracket, rest = line[1:].partition("]")
    if not bracket:
        raise UnitFileError("a section without its closing bracket", line=number)
    if rest:
        raise UnitFileError(f"text after the section [{name}]", line=number)
    if not name.strip(_BLANK) or name != name.strip(_BLANK) or "[" in name or _CONTROL.search(name):
        raise UnitFileError(f"{name!r} is no name for a section", line=number)
    return name


def _option(section: str, line: str, number: int) -> Option:
    name, equals, value = line.partition("=")
    name = name.strip(_BLANK)
    if not equals:
        raise UnitFileError(
            f"{line[:40]!r} is neither a section nor an option with a value", line=number, hint="write name=value"
        )
    if not name or _CONTROL.search(name):
        raise UnitFileError(f"{name!r} is no name for an option", line=number)
    if not section:
        raise UnitFileError(
            f"the option {name} comes before any section", line=number, hint="put it under [Unit] or [Service]"
        )
    return Option(section, name, value.strip(_BLANK), number)


def _grouped(options: list[Option]) -> tuple[Option, ...]:
    """Options of one section brought together, sections in the order of their first option."""
    sections: dict[str, list[Option]] = {}
    for option in options:
        sections.setdefault(option.section, []).append(option)
    return tuple(option for group in sections.values() for option in group)

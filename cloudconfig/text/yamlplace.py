"""The place and kind of the mistake behind an error of the YAML parser.

A parser notices a mistake only where it cannot continue, often lines later: a missing colon at the next key, a quote at
the end of the text. Users need the place where it began. Pure; the parser's messages are those of libyaml, its tokens
show what stood before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import yaml

TOKENS_MAX = 200_000
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CLOSERS = {"[": "]", "{": "}"}
_BLOCK_ABOVE = re.compile(r"(?:^|[ \t])[|>][-+0-9]*[ \t]*(?:#[^\n]*)?$")


class Place(NamedTuple):
    """A position in the text, from 1, what is wrong there, and the next step (may be empty)."""

    line: int
    column: int
    message: str
    hint: str = ""


class _Before(NamedTuple):
    """Offsets from the tokens before the problem: the last scalar, and the open brackets (outermost first)."""

    start: int
    end: int
    quoted: bool
    open: tuple[int, ...]


def explain(text: str, error: yaml.MarkedYAMLError) -> Place:
    """The place of a mistake that ``yaml.parse`` raised ``error`` for. It always lies within ``text``."""
    problem = str(error.problem or "")
    context = str(error.context or "")
    at = _offset(text, error.problem_mark or error.context_mark)
    opened = _offset(text, error.context_mark or error.problem_mark)
    offset, message, hint = _explain(text, problem, context, at, opened)
    return Place(*position(text, offset), message, hint)


def position(text: str, offset: int) -> tuple[int, int]:
    """Line and column of an offset, from 1.

    An offset behind the last line break is moved to the end of the line before."""
    offset = max(0, min(offset, len(text)))
    if offset == len(text) and text.endswith("\n"):
        offset = len(text.rstrip())
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _explain(text: str, problem: str, context: str, at: int, opened: int) -> tuple[int, str, str]:
    """Offset, message and hint."""
    before = _before(text, at)
    if "quoted scalar" in context and "end of stream" in problem:
        return opened, "a quote is opened here and never closed", "close it on this line"
    if before.quoted and "\n" in text[before.start : before.end] and _same_line(text, before.end, at):
        line = position(text, before.end)[0]
        return before.start, f"a quote is opened here and closed in line {line} only", "close it on this line"
    found = _in_brackets(text, problem, at, before) if before.open else None
    if found:
        return found
    if "could not find expected ':'" in problem:
        return _no_colon(text, opened)
    if "mapping values are not allowed" in problem:
        return _colon(text, at, before)
    if "cannot start any token" in problem:
        if text[at : at + 1] == "\t":
            return at, "a tab", "indent with spaces, not with tabs"
        return at, "a character that no value begins with", "put the value in quotes"
    if "did not find expected key" in problem or "expected '-' indicator" in problem:
        return _misplaced(text, at, before)
    return at, " ".join(part for part in (problem, context) if part), ""


def _in_brackets(text: str, problem: str, at: int, before: _Before) -> tuple[int, str, str] | None:
    """Inside brackets: never closed, closed by the other kind, or a comma is missing."""
    opener = before.open[-1]
    bracket = text[opener]
    closer = _CLOSERS[bracket]
    char = text[at : at + 1]
    ended = not text[at:].strip()
    outside = position(text, at)[0] > position(text, opener)[0] and _indent(text, at) <= _indent(text, opener)
    if ended or (outside and char != closer):
        return opener, f"'{bracket}' is opened here and never closed", f"close it with '{closer}'"
    if char in ("]", "}") and char != closer:
        where = ":".join(map(str, position(text, at)))
        return opener, f"'{bracket}' is opened here and closed by '{char}' at {where}", f"close it with '{closer}'"
    if "expected ','" in problem:
        return at, f"neither ',' nor '{closer}' between two values", "put a comma, or the value in quotes"
    return None


def _no_colon(text: str, opened: int) -> tuple[int, str, str]:
    above = text[: _line_start(text, opened)].rstrip().rpartition("\n")[2]
    if _BLOCK_ABOVE.search(above):
        return opened, "the text of a block must be indented deeper than its key", "indent it by two more spaces"
    return opened, "this line has no ':'", "a key and its value are written so: key: value"


def _colon(text: str, at: int, before: _Before) -> tuple[int, str, str]:
    """A ``:`` where none may be: something is wrong with the line, or with the one before that it continues."""
    if before.quoted or "\n" not in text[before.start : at]:
        return at, "a second ':' in one value", "put the value in quotes"
    first = text[before.start :].partition("\n")[0]
    if text[_line_start(text, before.start) : before.start].strip(" -"):
        # The value began behind its key, and this line goes on with it.
        return (
            _line_start(text, at) + _indent(text, at),
            "indented deeper than the key above",
            "begin both in one column",
        )
    tight = first.find(":")
    if 0 < tight < len(first) - 1:
        return before.start + tight, "no blank after ':'", "a key and its value are written so: key: value"
    return _no_colon(text, before.start)


def _misplaced(text: str, at: int, before: _Before) -> tuple[int, str, str]:
    start = _line_start(text, at)
    if text[start:at].strip():
        hint = (
            'a quote inside is written twice in \'...\', and as \\" in "..."' if before.quoted else "put it in quotes"
        )
        return at, "more text after the value has ended", hint
    above_end = text[:start].rstrip()
    above = _line_start(text, len(above_end))
    tight = re.match(r"[ \t]*-(?=[^ \t\n-])", text[above : len(above_end)])
    if tight and text[at : at + 1] == "-":
        return above + tight.end() - 1, "no blank after '-'", "an entry of a list is written so: - value"
    if text[at : at + 1] == "-":
        return at, "an entry of a list among keys", "indent it below the key whose list it is in"
    return at, "its indentation fits no line above", "begin the keys of one mapping in one column"


def _before(text: str, at: int) -> _Before:
    start = end = 0
    quoted = False
    opened: list[int] = []
    for token in _tokens(text):
        if token.start_mark.index >= at:
            break
        if isinstance(token, yaml.ScalarToken):
            start, end, quoted = token.start_mark.index, token.end_mark.index, token.style in ("'", '"')
        elif isinstance(token, yaml.FlowSequenceStartToken | yaml.FlowMappingStartToken):
            opened.append(token.start_mark.index)
        elif isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken) and opened:
            opened.pop()
    brackets = tuple(offset for offset in opened if text[offset : offset + 1] in _CLOSERS)
    return _Before(min(start, len(text)), min(end, len(text)), quoted, brackets)


def _tokens(text: str) -> Iterator[Any]:
    """The tokens up to where even they end."""
    try:
        yield from islice(yaml.scan(text, Loader=_LOADER), TOKENS_MAX)
    except yaml.YAMLError:
        return


def _offset(text: str, mark: Any) -> int:
    return min(mark.index, len(text)) if mark is not None else 0


def _line_start(text: str, offset: int) -> int:
    return text.rfind("\n", 0, offset) + 1


def _indent(text: str, offset: int) -> int:
    start = _line_start(text, offset)
    end = start
    while text[end : end + 1] == " ":
        end += 1
    return end - start


def _same_line(text: str, one: int, other: int) -> bool:
    return "\n" not in text[min(one, other) : max(one, other)]

"""YAML text -> a tree of raw scalars with line marks.

Built from the parser's events instead of ``yaml.load``, for four reasons: a scalar stays the text that was written
(``off`` is "off", ``0644`` is "0644": a caller that wants a number converts it), every node knows its place, a repeated
key is seen, and aliases, depth and size can be refused before anything is expanded.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import yaml

from cloudconfig.text import yamlplace
from cloudconfig.text.finding import ERROR, Capped, Finding

# The largest user-data of a cloud is 64 KiB; files given inline make honest ones larger.
BYTES_MAX = 1 << 20
# The deepest key that exists is five deep; the rest is room for keys that are not ours.
DEPTH_MAX = 32
NODES_MAX = 20_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# YAML 1.1, 5.4: what breaks a line, but for "\n" and "\r\n".
_BREAKS = re.compile("[\x85\u2028\u2029]|\r(?!\n)")
# YAML 1.1, 5.1: what is no printable character.
_FOREIGN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAGS = {"!": "str", "tag:yaml.org,2002:str": "str", "tag:yaml.org,2002:binary": "binary"}
_PREFIX = "tag:yaml.org,2002:"


class Scalar(NamedTuple):
    """A leaf: its text as written.

    ``plain`` if it was not quoted; ``block`` if it is a ``|`` block, whose text starts a line below."""

    line: int
    column: int
    text: str
    plain: bool
    block: bool
    binary: bool

    @property
    def null(self) -> bool:
        """Whether it is YAML's empty value: a key without a value, ``~`` or ``null``."""
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


class Sequence(NamedTuple):
    """A list."""

    line: int
    column: int
    items: tuple[Node, ...]


class Mapping(NamedTuple):
    """Keys and values in the order of the text."""

    line: int
    column: int
    pairs: tuple[tuple[Scalar, Node], ...]


Node: TypeAlias = "Scalar | Sequence | Mapping"


class Tree(NamedTuple):
    """What could be read: ``root`` is None when nothing could, or when there was nothing.

    ``nodes`` is how many values there are."""

    root: Node | None
    findings: tuple[Finding, ...]
    nodes: int = 0


class _Refused(Exception):  # noqa: N818 - carries a finding up the recursion, never leaves this module
    def __init__(self, line: int, column: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.finding = Finding(ERROR, "", line, column, message, hint)


def read(text: str, most: int = NODES_MAX) -> Tree:
    """Read one YAML document of ``most`` values; mistakes come back as findings, never as exceptions."""
    findings: list[Finding] = Capped()
    composer = _Composer(text, findings, most)
    root = None
    try:
        _check(text)
        root = composer.document()
    except _Refused as refused:
        findings.append(refused.finding)
    except yaml.MarkedYAMLError as error:
        place = yamlplace.explain(text, error)
        findings.append(Finding(ERROR, "", place.line, place.column, f"not valid YAML: {place.message}", place.hint))
    except yaml.YAMLError:
        # A reader error names an encoding position, no line; its text may repeat the input, so it is not shown.
        found = _FOREIGN.search(text)
        line, column = yamlplace.position(text, found.start() if found else 0)
        findings.append(Finding(ERROR, "", line, column, "not valid YAML: a character that YAML does not allow"))
    return Tree(root, tuple(findings), composer.nodes)


def _check(text: str) -> None:
    """What is refused before any of it is parsed."""
    if len(text.encode("utf-8", "surrogatepass")) > BYTES_MAX:
        raise _Refused(0, 0, f"larger than {BYTES_MAX >> 20} MiB", "give large files by reference, not inline")
    control = _CONTROL.search(text)
    if control:
        line, column = yamlplace.position(text, control.start())
        raise _Refused(line, column, f"control character 0x{ord(control.group()):02x}", "encode binary content: b64")


class _Composer:
    def __init__(self, text: str, findings: list[Finding], most: int) -> None:
        self._text = text
        self._events: Iterator[Any] = iter(())
        self._findings = findings
        self._most = most
        self.nodes = 0
        # YAML 1.1 breaks lines at these, too, and the parser counts so; no editor does.
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))] if _BREAKS.search(text) else None

    def _place(self, mark: Any) -> tuple[int, int]:
        """Line and column of ``mark``, from 1, as editors count them."""
        if self._starts is None:
            return mark.line + 1, mark.column + 1
        line = bisect.bisect_right(self._starts, mark.index)
        return line, mark.index - self._starts[line - 1] + 1

    def document(self) -> Node | None:
        self._events = iter(yaml.parse(self._text, Loader=_LOADER))
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        root = self._node(next(self._events), 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise _Refused(
                *self._place(event.start_mark),
                "a second YAML document",
                "user-data is one document; send several as MIME multipart",
            )
        return root

    def _node(self, event: Any, depth: int) -> Node:
        line, column = self._place(event.start_mark)
        self.nodes += 1
        if self.nodes > self._most:
            raise _Refused(line, column, f"more than {NODES_MAX} values")
        if depth > DEPTH_MAX:
            raise _Refused(line, column, f"nested deeper than {DEPTH_MAX} levels")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Refused(line, column, "YAML anchors and aliases are not allowed", "write the value out")
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, line, column)
        if event.tag is not None and event.tag not in (_PREFIX + "map", _PREFIX + "seq"):
            raise _Refused(line, column, "YAML tags are not allowed here", "leave the tag away")
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            for inner in iter(self._events.__next__, None):
                if isinstance(inner, yaml.SequenceEndEvent):
                    break
                items.append(self._node(inner, depth + 1))
            return Sequence(line, column, tuple(items))
        return self._mapping(line, column, depth)

    def _scalar(self, event: Any, line: int, column: int) -> Scalar:
        tag = event.tag
        binary = False
        if tag is not None:
            if tag not in _TAGS:
                raise _Refused(line, column, "only the YAML tags !!str and !!binary are known", "leave the tag away")
            binary = _TAGS[tag] == "binary"
        text = event.value
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Refused(line, column, "half of a surrogate pair") from None
        plain = tag is None and not event.style
        return Scalar(line, column, text, plain, event.style == "|", binary)

    def _mapping(self, line: int, column: int, depth: int) -> Mapping:
        pairs: list[tuple[Scalar, Node]] = []
        seen: dict[str, int] = {}
        for inner in iter(self._events.__next__, None):
            if isinstance(inner, yaml.MappingEndEvent):
                break
            key = self._node(inner, depth + 1)
            if not isinstance(key, Scalar):
                raise _Refused(key.line, key.column, "a key must be a word", "quote values that contain {{ }} or [ ]")
            value = self._node(next(self._events), depth + 1)
            if key.text in seen:
                self._findings.append(
                    Finding(
                        ERROR,
                        "",
                        key.line,
                        key.column,
                        f"the key {key.text[:64]!r} stands here twice, first in line {seen[key.text]}",
                        "merge the two",
                    )
                )
            else:
                seen[key.text] = key.line
                pairs.append((key, value))
        return Mapping(line, column, tuple(pairs))

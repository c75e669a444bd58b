"""Reads the shapes of values in a YAML tree: a mapping's known keys, lists, words, numbers. Any other shape becomes a
finding. The sections of user-data share it. ``fields`` are what :meth:`Reader.struct` returned: (key path, node) by
key, set ones only.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple, TypeAlias

from cloudconfig.text import yamltree
from cloudconfig.text.finding import ERROR, WARNING, Capped, Finding, nearest
from cloudconfig.text.schema import INT
from cloudconfig.text.yamltree import Node, Scalar

HINTS_MAX = 50  # finding the nearest word takes time
# YAML 1.1 words; a quoted "true" counts too, since templates quote.
_BOOLS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")

Fields: TypeAlias = dict[str, tuple[str, Node]]


class Mark(NamedTuple):
    """The place of a key's value, from 1; ``block``: it is a ``|`` block, its text starts on the next line."""

    line: int
    column: int
    block: bool


class Reader:
    """Walks a tree; ``findings`` and ``marks`` (by key path) grow on the way."""

    def __init__(self) -> None:
        self.findings: list[Finding] = Capped()
        self.marks: dict[str, Mark] = {}

    def struct(self, node: Node, path: str, known: Collection[str], later: Collection[str] = ()) -> Fields:
        """A mapping's known, set fields; all else becomes findings."""
        if isinstance(node, Scalar) and node.null:
            return {}
        if not isinstance(node, yamltree.Mapping):
            self.error(node, path, f"must be a mapping of keys to values, is {kind(node)}")
            return {}
        fields: Fields = {}
        for key, value in node.pairs:
            name = key.text.replace("-", "_")
            inner = f"{path}.{name}" if path else name
            if name in known:
                if name in fields:
                    self.error(key, inner, "stands here twice, with a hyphen and with an underscore")
                    continue
                block = isinstance(value, Scalar) and value.block
                self.marks[inner] = Mark(value.line, value.column, block)
                if not (isinstance(value, Scalar) and value.null):
                    fields[name] = (inner, value)
            elif name in later:
                self.warn(key, inner, "not supported on this image yet, ignored")
            else:
                near = "" if len(self.findings) > HINTS_MAX else nearest(name, sorted(known))
                hint = near or f"known here: {', '.join(sorted(known))}"
                self.warn(key, inner[:200], "unknown key, ignored", hint)
        self.marks[path] = Mark(node.line, node.column, False)
        return fields

    def section(self, fields: Fields, key: str, known: Collection[str], later: Collection[str] = ()) -> Fields:
        return self.struct(fields[key][1], fields[key][0], known, later) if key in fields else {}

    def items(self, fields: Fields, key: str) -> list[tuple[str, Node]]:
        if key not in fields:
            return []
        path, node = fields[key]
        if not isinstance(node, yamltree.Sequence):
            self.error(node, path, f"must be a list, is {kind(node)}", "put a '- ' before each entry")
            return []
        return [(f"{path}[{index}]", item) for index, item in enumerate(node.items)]

    def scalar(self, fields: Fields, key: str) -> str | None:
        """The text of a leaf, None if it is not set (an empty quoted text is)."""
        if key not in fields:
            return None
        path, node = fields[key]
        if not isinstance(node, Scalar) or node.binary:
            self.error(node, path, f"must be text, is {kind(node)}")
            return None
        return node.text

    def text(self, fields: Fields, key: str) -> str:
        return self.scalar(fields, key) or ""

    def required(self, fields: Fields, key: str, path: str, node: Node) -> str:
        value = self.text(fields, key)
        if not value and key not in fields and isinstance(node, yamltree.Mapping):
            self.error(node, path, f"has no {key}")
        elif not value and key in fields and isinstance(fields[key][1], Scalar):
            self.error(fields[key][1], fields[key][0], "is empty")
        elif isinstance(node, Scalar) and node.null:
            self.error(node, path, "is empty")
        return value

    def words(self, fields: Fields, key: str) -> tuple[str, ...]:
        words: list[str] = []
        for path, node in self.items(fields, key):
            if isinstance(node, Scalar) and not node.binary and not node.null and node.text.strip():
                self.marks[path] = Mark(node.line, node.column, node.block)
                words.append(node.text.strip())
            else:
                self.error(node, path, f"must be text, is {kind(node)}")
        return tuple(words)

    def bool(self, fields: Fields, key: str) -> bool | None:
        text = self.scalar(fields, key)
        if text is None:
            return None
        if text.lower() not in _BOOLS:
            self.error(fields[key][1], fields[key][0], "must be true or false")
            return None
        return _BOOLS[text.lower()]

    def number(self, fields: Fields, key: str, kind: str) -> str | None:
        text = self.scalar(fields, key)
        if text is None:
            return None
        if not (_INT if kind == INT else _FLOAT).fullmatch(text):
            # 1:30 is a base-60 number to YAML 1.1, 0x10 a hexadecimal one; services read neither.
            self.error(fields[key][1], fields[key][0], f"must be a decimal {kind}")
            return None
        return str(int(text)) if kind == INT else text.removeprefix("+")

    def choice(self, fields: Fields, key: str, choices: Collection[str]) -> str:
        text = self.text(fields, key)
        if key in fields and text not in choices and isinstance(fields[key][1], Scalar):
            hint = nearest(text, sorted(choices)) or f"one of: {', '.join(sorted(choices))}"
            self.error(fields[key][1], fields[key][0], "is none of the known words", hint)
            return ""
        return text

    def mark(self, path: str, node: Node) -> None:
        """Record the place of a key path's value."""
        self.marks[path] = Mark(node.line, node.column, isinstance(node, Scalar) and node.block)

    def error(self, node: Node, path: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding(ERROR, path, node.line, node.column, message, hint))

    def warn(self, node: Node, path: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding(WARNING, path, node.line, node.column, message, hint))


def kind(node: Node) -> str:
    if isinstance(node, yamltree.Sequence):
        return "a list"
    if isinstance(node, yamltree.Mapping):
        return "a mapping"
    if node.binary:
        return "binary"
    return "empty" if node.null or not node.text.strip() else "text"

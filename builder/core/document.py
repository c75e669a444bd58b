"""YAML files as values with their places, so that an error names its place even after files were merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from terminal import Failure

BYTES_MAX: Final = 1 << 16
NODES_MAX: Final = 100_000
"""Values of a file, each counted as often as an alias names it."""
DEPTH_MAX: Final = 32
_HINT: Final = "give its path; image/node.yaml is one"


@dataclass(frozen=True, slots=True)
class Node:
    """A value (a mapping, a list as a tuple, or a scalar) and its place, ``file:line:column``.

    The place of a mapping's value is that of its key.
    """

    value: object
    where: str

    @property
    def mapping(self) -> dict[str, Node] | None:
        """The entries, if this is a mapping."""
        return self.value if isinstance(self.value, dict) else None

    @property
    def items(self) -> tuple[Node, ...] | None:
        """The items, if this is a list."""
        return self.value if isinstance(self.value, tuple) else None

    @property
    def kind(self) -> str:
        """The kind of value, for messages."""
        return "a mapping" if self.mapping is not None else "a list" if self.items is not None else "a single value"

    def plain(self) -> object:
        """The value without places: dict, tuple (which pydantic's strict mode takes for a list) and scalars."""
        if self.mapping is not None:
            return {key: item.plain() for key, item in self.mapping.items()}
        return tuple(item.plain() for item in self.items) if self.items is not None else self.value

    def find(self, location: Sequence[int | str]) -> str:
        """The place of the deepest value on the way to ``location``."""
        node = self
        for part in location:
            found = None
            if node.mapping is not None:
                found = node.mapping.get(str(part))
            elif node.items is not None and isinstance(part, int) and part < len(node.items):
                found = node.items[part]
            if found is None:
                break
            node = found
        return node.where


def read(path: Path) -> Node:
    """The mapping that the YAML file at ``path`` holds.

    Raises :class:`Failure` for what cannot be read, is no YAML, has a key twice, or is no mapping.
    """
    text = _text(path)
    try:
        loader = _Loader(text)
        marks = loader.get_single_node()
        if _size(marks, {}) > NODES_MAX:
            raise Failure(f"this is no definition: more than {NODES_MAX} values, by its aliases", where=str(path))
        _refuse_twice(marks, path)
        data = _constructed(loader, marks, path) if marks is not None else None
        if not isinstance(data, dict) or marks is None:
            raise Failure("a definition is a mapping of keys", where=f"{path}:1:1", hint="see image/node.yaml")
        return _located(data, marks, _place(path, marks), path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise Failure(f"this is not YAML: {error.problem}", where=f"{path}:{line}:{column}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise Failure(f"this is not YAML: {error}", where=str(path)) from None


class _Loader(yaml.SafeLoader):
    """With a limit of depth: PyYAML checks all open brackets for each token, so one line of them would take minutes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A value and what is in it."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # of PyYAML
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEPTH_MAX} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _constructed(loader: yaml.SafeLoader, marks: yaml.Node, path: Path) -> object:
    try:
        data: object = loader.construct_document(marks)
    except (ValueError, LookupError, AttributeError) as error:
        # PyYAML raises these for an invalid date, and for a tag that does not fit its value (!!bool maybe).
        hint = "put dates and the like in quotes; a definition needs no tags"
        raise Failure(f"this is not YAML: a value is not of its type: {error}", where=str(path), hint=hint) from None
    return data


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise Failure(f"cannot read the definition: {error.strerror}", where=str(path), hint=_HINT) from None
    if len(content) > BYTES_MAX:
        raise Failure(f"this is no definition: more than {BYTES_MAX} bytes", where=str(path), hint=_HINT)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Failure("this is not text in UTF-8", where=f"{path}:{line}", hint=_HINT) from None


def _size(marks: yaml.Node | None, known: dict[int, int]) -> int:
    """The number of values with aliases expanded: nine lists of ten aliases are a thousand million."""
    if id(marks) not in known:
        known[id(marks)] = 1 + sum(_size(child, known) for child in _children(marks))
    return known[id(marks)]


def _refuse_twice(marks: yaml.Node | None, path: Path) -> None:
    """Raise :class:`Failure` if a mapping has a key twice: YAML forbids it, but the reader silently takes the last."""
    for child in _children(marks):
        _refuse_twice(child, path)
    seen: set[str] = set()
    for key, _ in marks.value if isinstance(marks, yaml.MappingNode) else ():
        if not isinstance(key, yaml.ScalarNode):
            raise Failure("a key is text, not a list or a mapping", where=_place(path, key))
        if key.value in seen:
            raise Failure(f"the key {key.value!r} is there twice", where=_place(path, key), hint="keep one of them")
        seen.add(key.value)


def _children(marks: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(marks, yaml.MappingNode):
        return [value for _, value in marks.value]
    return marks.value if isinstance(marks, yaml.SequenceNode) else []


def _place(path: Path, marks: yaml.Node) -> str:
    return f"{path}:{marks.start_mark.line + 1}:{marks.start_mark.column + 1}"


def _located(data: object, marks: yaml.Node, where: str, path: Path) -> Node:
    """``data`` with the places of ``marks``, from which it was constructed.

    The construction resolved merge keys (``<<``) in ``marks``, too.
    """
    if isinstance(data, dict):
        found = {key.value: (key, value) for key, value in marks.value}
        entries: dict[str, Node] = {}
        for name, item in data.items():
            if not isinstance(name, str):
                hint = "put it in quotes, if it is meant: YAML takes it for a number, a truth value or worse"
                raise Failure(f"a key is text, which {name!r} is not", where=where, hint=hint)
            key, value = found[name]
            entries[name] = _located(item, value, _place(path, key), path)
        return Node(entries, where)
    if isinstance(data, list | tuple):  # a tuple is an entry of !!omap
        inner = marks.value if isinstance(marks, yaml.SequenceNode) else [marks] * len(data)
        return Node(
            tuple(_located(item, each, _place(path, each), path) for item, each in zip(data, inner, strict=True)),
            where,
        )
    return Node(data, where)

"""A definition that includes another: which file it names, and how the two are merged.

    ours.yaml  <--include--  yours.yaml        merge(ours, yours): yours wins

The ``architectures`` section of a file is merged over the rest of that file before the files are merged: yours wins
over all of ours. :func:`merge` is pure and works on values before the model receives them; the model checks the result.
The reference page (:mod:`builder.cli.schema`) documents merges, from the same rules.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Final

from builder.core import architecture, data, document
from builder.core.document import Node
from terminal import Failure

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")

Location = tuple[str, ...]


class Whole(Enum):
    """The rule of a list that is one value, such as a command line: it is replaced, never appended to."""

    WHOLE = "whole"


@dataclass(frozen=True)
class Named:
    """The rule of a list of named things: each name, which is under ``key``, occurs once.

    A thing may also be the bare name.
    """

    key: str


Rules = Mapping[Location, Whole | Named]
"""By the keys that lead to a list; lists without a rule are appended to."""


SECTIONS: Final = "architectures"
"""The key of the sections for architectures."""

COMMON: Final = ("include", "version", "name", "architecture", SECTIONS)
"""Keys that are the same for all architectures."""


def read(path: Path) -> tuple[Node, ...]:
    """The definition at ``path`` and what it includes, base first, its own file last; overlays are absolute paths.

    Raises :class:`Failure` for files that cannot be read, for includes that lead to nothing or in a circle, and for
    sections of unknown architectures.
    """
    chain: list[Node] = []
    seen: dict[Path, str] = {}
    following: Path | None = path
    while following is not None:
        here = following
        seen[here.resolve()] = str(here)
        entries = dict(_entries(node := document.read(here)))
        include = entries.pop("include", None)
        if "overlay" in entries:
            entries["overlay"] = _anchored(entries["overlay"], here.parent)
        if SECTIONS in entries:
            entries[SECTIONS] = _sections(entries[SECTIONS], here.parent)
        chain.append(Node(entries, node.where))
        following = None
        if include is not None and include.value is not None:
            following = _target(include, here.parent)
            if following.resolve() in seen:
                way = " -> ".join([*seen.values(), seen[following.resolve()]])
                raise Failure(f"definitions that include each other: {way}", where=include.where)
    return tuple(reversed(chain))


def sections(files: Iterable[Node]) -> set[str]:
    """The architectures that any of ``files`` has a section for."""
    return {name for node in files for name in _mapping_at(node, SECTIONS)}


def said(files: Iterable[Node], key: str) -> Node | None:
    """The value of ``key`` in the last of ``files`` that has it."""
    values = [entries[key] for entries in map(_entries, files) if key in entries]
    return values[-1] if values else None


def fold(files: Iterable[Node], rules: Rules, name: str) -> Node:
    """``files`` as one definition for the architecture ``name``, without sections. Raises what :func:`merge` raises."""
    parts: list[Node] = []
    for node in files:
        entries = dict(_entries(node))
        entries.pop(SECTIONS, None)
        parts.append(Node(entries, node.where))
        section = _mapping_at(node, SECTIONS).get(name)
        if section is not None:
            parts.append(section)
    return reduce(lambda base, over: merge(base, over, rules), parts)


def merge(base: Node, over: Node, rules: Rules, at: Location = ()) -> Node:
    """``over`` merged onto ``base``; every part keeps its place.

    Mappings merge key by key; lists append what is not there yet, or are replaced where ``rules`` say so; scalars are
    replaced; null replaces anything. Raises :class:`Failure` for two different things of one name, and for values of
    different kinds.
    """
    if base.value is None or over.value is None:
        return over
    if base.mapping is not None and over.mapping is not None:
        merged = dict(base.mapping)
        for key, node in over.mapping.items():
            merged[key] = merge(merged[key], node, rules, (*at, key)) if key in merged else node
        return Node(merged, over.where)
    rule = rules.get(at)
    if base.items is not None and over.items is not None:
        return over if rule is Whole.WHOLE else Node(_appended(base.items, over.items, rule), over.where)
    if base.kind != over.kind:
        raise Failure(
            f"{'.'.join(at)}: {over.kind} cannot be merged with {base.kind}",
            where=over.where,
            hint=f"it is {base.kind} at {base.where}",
        )
    return over


def _appended(base: tuple[Node, ...], over: tuple[Node, ...], rule: Whole | Named | None) -> tuple[Node, ...]:
    """``base`` and those of ``over`` that are not in it."""
    there = {_identity(node, rule): node for node in base}
    more: list[Node] = []
    for node in over:
        name = _identity(node, rule)
        before = there.setdefault(name, node)
        if before is node:
            more.append(node)
        elif _text(before) != _text(node):
            raise Failure(
                f"{name} is there already, and is another: the two cannot be merged",
                where=node.where,
                hint=f"drop it, or give it another name: the first is at {before.where}",
            )
    return (*base, *more)


def _identity(node: Node, rule: Whole | Named | None) -> str:
    """The identity of a list item: equal ones are the same item."""
    if isinstance(rule, Named) and node.mapping is not None and rule.key in node.mapping:
        return _text(node.mapping[rule.key])
    return _text(node)


def _text(node: Node) -> str:
    return json.dumps(node.plain(), sort_keys=True, default=str)


def _entries(node: Node) -> dict[str, Node]:
    entries = node.mapping
    assert entries is not None, "document.read promises a mapping"
    return entries


def _mapping_at(node: Node, key: str) -> dict[str, Node]:
    """The entries of the mapping that the mapping ``node`` has under ``key``, if any."""
    found = _entries(node).get(key)
    return (found.mapping or {}) if found is not None else {}


def _sections(sections: Node, folder: Path) -> Node:
    """The value of :data:`SECTIONS` in a file of ``folder``, checked as far as the model does not."""
    hint = f"'{SECTIONS}' has a section for each architecture that differs: {', '.join(architecture.NAMES)}"
    if sections.mapping is None:
        raise Failure(f"{SECTIONS}: {sections.kind} is no mapping", where=sections.where, hint=hint)
    checked = {}
    for name, section in sections.mapping.items():
        architecture.known(name, section.where)
        if section.mapping is None:
            raise Failure(f"{SECTIONS}.{name}: {section.kind} is no mapping", where=section.where, hint=hint)
        entries = dict(section.mapping)
        for key in COMMON:
            if key in entries:
                where = entries[key].where
                raise Failure(f"{SECTIONS}.{name}: {key!r} is the same for all architectures", where=where)
        if "overlay" in entries:
            entries["overlay"] = _anchored(entries["overlay"], folder)
        checked[name] = Node(entries, section.where)
    return Node(checked, sections.where)


def _anchored(overlay: Node, folder: Path) -> Node:
    """One overlay or several, as a list of paths; the model refuses other values."""
    items = (overlay,) if isinstance(overlay.value, str) else overlay.items
    if items is None:
        return overlay
    return Node(
        tuple(Node(str(folder / item.value), item.where) if isinstance(item.value, str) else item for item in items),
        overlay.where,
    )


def _target(include: Node, folder: Path) -> Path:
    """The file of an ``include`` in ``folder``: one of ours by its bare name, or a path relative to ``folder``."""
    text = include.value
    if not isinstance(text, str):
        raise Failure(f"include: {include.kind} cannot be included", where=include.where, hint="name one definition")
    if not _NAME.fullmatch(text):
        path = folder / text
        if not path.is_file():
            hint = "a path is relative to the file that includes; a bare name, as 'node', is one of ours"
            raise Failure(f"there is no file {text!r}", where=include.where, hint=hint)
        return path
    ours = {path.stem: path for path in (*data.image().glob("containers/*.yaml"), *data.image().glob("*.yaml"))}
    if text not in ours:
        near = difflib.get_close_matches(text, sorted(ours), n=1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"ours: {', '.join(sorted(ours))}; a file of yours: ./{text}.yaml"
        )
        raise Failure(f"there is no definition of ours named {text!r}", where=include.where, hint=hint)
    return ours[text]

"""Cloud-configs of several MIME parts as one.

Without merge rules: lists are joined, and two parts that contradict each other are an error (the result of
coreos-cloudinit, which applies parts one after another, without its loss). Otherwise the rules of cloud-init's "Merging
user data sections": a part's ``Merge-Type`` or ``X-Merge-Type`` header, or its key ``merge_how`` or ``merge_type``,
sets how it is merged into what came before, and applies to later parts until one sets another; the default is
``dict(replace)+list()+str()``: later keys replace earlier ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingType
from collections.abc import Sequence as SequenceType

from cloudconfig.plan import plan
from cloudconfig.plan.plan import PlanError
from cloudconfig.text import yamltree
from cloudconfig.text.finding import nearest
from cloudconfig.text.parse import Document, of_tree
from cloudconfig.text.schema import CloudConfig
from cloudconfig.text.userdata import Part
from cloudconfig.text.yamltree import Mapping, Node, Scalar, Sequence

DEFAULT = "dict(replace)+list()+str()"
KEYS = ("merge_how", "merge_type")
_MERGER = re.compile(r"([a-z_]{1,16})\(([a-z_, ]{0,200})\)")
_SETTINGS = {
    "dict": ("replace", "no_replace", "allow_delete", "recurse_dict", "recurse_list", "recurse_array", "recurse_str"),
    "list": (
        "append",
        "prepend",
        "no_replace",
        "replace",
        "recurse_dict",
        "recurse_list",
        "recurse_array",
        "recurse_str",
    ),
    "str": ("append",),
}
_HINT = "for example: list(append)+dict(no_replace,recurse_list)+str()"

Rules = MappingType[str, frozenset[str]]


def combine(parts: SequenceType[Part], documents: SequenceType[Document]) -> CloudConfig:
    """One cloud-config out of ``parts``, which ``documents`` are parsed from.

    Raises PlanError for contradictions and bad merge types."""
    if not any(part.merge or any(word in part.text.replace("-", "_") for word in KEYS) for part in parts):
        return plan.combine([document.config for document in documents])
    merged: Node | None = None
    rules: Rules | None = None
    for part in parts:
        root = yamltree.read(part.text).root
        if not isinstance(root, Mapping):
            continue
        rules = _own_rules(root, part.merge) or rules
        root = root._replace(pairs=tuple(pair for pair in root.pairs if _name(pair[0]) not in KEYS))
        merged = root if merged is None else merge(merged, root, rules or parse_rules(DEFAULT))
    return CloudConfig() if merged is None else of_tree(yamltree.Tree(merged, ())).config


def parse_rules(text: str) -> Rules:
    """``list(append)+dict(...)+str()`` -> settings by kind; of two for one kind the first counts. Raises PlanError."""
    rules: dict[str, frozenset[str]] = {}
    for word in text.lower().replace("-", "_").split("+"):
        if word.strip():
            found = _MERGER.fullmatch(word.strip())
            if not found:
                raise PlanError(KEYS[0], "not a merge type", hint=_HINT)
            _add(rules, found[1], found[2].split(","))
    return rules


def merge(old: Node, new: Node, rules: Rules) -> Node:
    """``new`` merged into ``old``; a kind without rules keeps the old value."""
    if isinstance(old, Mapping):
        settings = rules.get("dict")
        return old if settings is None or not isinstance(new, Mapping) else _mapping(old, new, settings, rules)
    if isinstance(old, Sequence):
        settings = rules.get("list")
        return old if settings is None else _sequence(old, new, settings, rules)
    settings = rules.get("str")
    if settings is None:
        return old
    if "append" in settings and isinstance(new, Scalar):
        return old._replace(text=old.text + new.text)
    return new


def _mapping(old: Mapping, new: Mapping, settings: frozenset[str], rules: Rules) -> Mapping:
    replace = "replace" in settings
    pairs = {_name(key): (key, value) for key, value in old.pairs}
    for key, value in new.pairs:
        name = _name(key)
        if name not in pairs:
            pairs[name] = (key, value)
        elif isinstance(value, Scalar) and value.null and "allow_delete" in settings:
            del pairs[name]
        elif replace:
            pairs[name] = (pairs[name][0], value)
        elif _recurses(value, settings | {"recurse_dict"}):  # for mappings cloud-init cannot switch it off
            pairs[name] = (pairs[name][0], merge(pairs[name][1], value, rules))
    return old._replace(pairs=tuple(pairs.values()))


def _sequence(old: Sequence, new: Node, settings: frozenset[str], rules: Rules) -> Node:
    method = next((word for word in ("append", "prepend", "replace", "no_replace") if word in settings), "replace")
    if not isinstance(new, Sequence):
        return new if method == "replace" else old
    if method == "append":
        return old._replace(items=(*old.items, *new.items))
    if method == "prepend":
        return old._replace(items=(*new.items, *old.items))
    if method == "no_replace":
        return old
    # Place by place, and what is longer stays: that is how cloud-init replaces.
    both = [
        merge(one, other, rules) if _recurses(other, settings) else other
        for one, other in zip(old.items, new.items, strict=False)
    ]
    return old._replace(items=(*both, *old.items[len(both) :]))


def _recurses(value: Node, settings: frozenset[str]) -> bool:
    if isinstance(value, Mapping):
        return "recurse_dict" in settings
    if isinstance(value, Sequence):
        return bool(settings & {"recurse_list", "recurse_array"})
    return "recurse_str" in settings


def _own_rules(root: Mapping, header: str) -> Rules | None:
    """A part's own merge rules; its keys override its header."""
    rules: dict[str, frozenset[str]] = {}
    for key, value in root.pairs:
        if _name(key) in KEYS:
            _add_all(rules, value)
    for kind, settings in parse_rules(header).items():
        rules.setdefault(kind, settings)
    return rules or None


def _add_all(rules: dict[str, frozenset[str]], value: Node) -> None:
    """A text, or a list of ``{name: list, settings: [append]}`` or of ``[list, append]``."""
    if isinstance(value, Scalar):
        for kind, settings in parse_rules(value.text).items():
            rules.setdefault(kind, settings)
        return
    for item in value.items if isinstance(value, Sequence) else ():
        words: tuple[Node, ...] = ()
        if isinstance(item, Mapping):
            fields = {_name(key): inner for key, inner in item.pairs}
            listed = fields.get("settings")
            words = (fields.get("name", item), *(listed.items if isinstance(listed, Sequence) else ()))
        elif isinstance(item, Sequence):
            words = item.items
        texts = [word.text for word in words if isinstance(word, Scalar)]
        if not texts or len(texts) < len(words):
            raise PlanError(KEYS[0], "not a merge type", hint=_HINT)
        _add(rules, texts[0], texts[1:])


def _add(rules: dict[str, frozenset[str]], kind: str, settings: SequenceType[str]) -> None:
    kind = kind.strip().replace("-", "_")
    words = frozenset(word for one in settings if (word := one.strip().lower().replace("-", "_")))
    if kind not in _SETTINGS:
        raise PlanError(KEYS[0], "a merge type of an unknown kind", hint="there are dict, list and str")
    for word in sorted(words):
        if word not in _SETTINGS[kind]:
            hint = nearest(word, _SETTINGS[kind]) or f"there are: {', '.join(_SETTINGS[kind])}"
            raise PlanError(KEYS[0], f"an unknown setting of {kind}", hint=hint)
    rules.setdefault(kind, words)


def _name(key: Scalar) -> str:
    return key.text.replace("-", "_")

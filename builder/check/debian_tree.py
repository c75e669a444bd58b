"""Our tree and mmdebstrap's, reduced to the differences that a person has to review.

Differences that follow from the definition are left out by rule, not by a list: see :data:`RULES`. The rest goes to
:func:`builder.check.tree_difference.judge`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from builder.check import tree_difference
from builder.check.tree_difference import Facts
from builder.core import data, inputs
from builder.core.tree import Entry, Kind, Tree, parents
from builder.debian.deb import Package
from builder.definition.definition import Definition
from builder.finish.bytecode import is_seldom
from builder.finish.slim import slim

RULES: Final = MappingProxyType(
    {
        "mounted": "below /dev, /proc, /run, /sys and /tmp: the kernel's file systems and memory hide it on a running node",
        "host": "what mmdebstrap copies from the computer that it runs on: its name, its name servers",
        "others": "brought only by packages that the node does not have (image/comparison.yaml)",
        "slim": "dropped from both by the same patterns (builder/finish/slim.py)",
        "remove": "dropped from both by the same patterns (remove, in the definition)",
        "bytecode": "of Python modules that hardly anything imports (SELDOM in builder/finish/bytecode.py)",
        "modules": "kernel modules that the definition does not name; ours are not compressed, so contents are not compared",
        "overlay": "files of our overlay, our units and our code, which are there to be read, and what they replace",
    }
)
"""Why a path is not compared."""

_MOUNTED: Final = ("dev/", "proc/", "run/", "sys/", "tmp/")
_OF_THE_HOST: Final = ("etc/hostname", "etc/resolv.conf", "etc/.resolv.conf.systemd-resolved.bak")


@dataclass(frozen=True)
class Sides:
    """The trees to compare, and how many paths each of :data:`RULES` left out."""

    ours: Mapping[str, Facts]
    theirs: Mapping[str, Facts]
    left_out: Mapping[str, int]


def sides(
    what: Definition, tree: Tree, theirs: Mapping[str, Facts], node: Sequence[Package], others: Iterable[Package]
) -> Sides:
    """Prepare our ``tree`` and ``theirs`` for the comparison.

    :func:`builder.pipeline.assemble.finish` made ``tree`` of the packages ``node``,
    :func:`builder.check.mmdebstrap.tree` made ``theirs`` of these and ``others``.
    """
    ours, theirs = tree_difference.by_line(tree_difference.of_tree(tree)), tree_difference.by_line(theirs)
    left_out: Counter[str] = Counter()

    def leave_out(rule: str, paths: Iterable[str]) -> None:
        for path in set(paths):
            found = [side.pop(path) for side in (ours, theirs) if path in side]
            left_out[rule] += bool(found)

    leave_out("mounted", [path for path in (*ours, *theirs) if path.startswith(_MOUNTED)])
    leave_out("host", _OF_THE_HOST)
    brought = {entry.path for package in node for entry in package.entries}
    leave_out("others", {entry.path for package in others for entry in package.entries} - brought - ours.keys())
    leave_out("slim", _slimmed(theirs, ours))
    leave_out("remove", _removed(theirs, what.remove, ours))
    leave_out("bytecode", _seldom(theirs.keys() - ours.keys()))
    for path in [path for path in theirs if path.startswith("usr/lib/modules/") and "/kernel/" in path]:
        plain = path.removesuffix(".xz")
        if plain not in ours:
            leave_out("modules", [path])
        elif theirs[path].kind == "file":
            theirs[plain] = replace(theirs.pop(path), content=ours[plain].content)
    mine = set(_overlaid(what))
    mine |= {path for path in ours if any(above in mine for above in parents(path))}
    for path in list(mine):
        mine.update(above for above in parents(path) if above not in theirs)
    leave_out("overlay", mine)
    return Sides(ours, theirs, dict(left_out))


def _slimmed(theirs: Mapping[str, Facts], ours: Mapping[str, Facts]) -> set[str]:
    names = _names(theirs)
    before = {entry.path for entry in names}
    names.apply(slim(names))
    return before - {entry.path for entry in names} - ours.keys()


def _removed(theirs: Mapping[str, Facts], patterns: Iterable[str], ours: Mapping[str, Facts]) -> set[str]:
    names = _names(theirs)
    found = {entry.path for pattern in patterns for entry in names.glob(pattern)}
    return {path for path in theirs if path in found or any(above in found for above in parents(path))} - ours.keys()


def _seldom(paths: Iterable[str]) -> Iterator[str]:
    """Those of ``paths`` that are the bytecode of seldom imported modules, or a folder for nothing else."""
    for path in paths:
        folder, _, name = path.partition("/__pycache__")
        if name.endswith(".pyc") or path.endswith("/__pycache__"):
            source = f"{folder}/{name[1:].partition('.')[0] or '__init__'}.py"
            if is_seldom(source):
                yield path


def _names(side: Mapping[str, Facts]) -> Tree:
    """The paths, kinds and links of ``side`` as a tree, for the steps that drop paths by their names."""
    kinds = {str(kind): kind for kind in Kind}
    return Tree(
        Entry(path, kinds[facts.kind], target=facts.target)
        for path, facts in sorted(side.items())
        if facts.kind in kinds
    )


def _overlaid(what: Definition) -> Iterator[str]:
    for folder in what.overlays():
        yield from (entry.path for entry in inputs.folder_entries(folder, ""))
    if what.node_code:
        yield from (entry.path for entry in inputs.folder_entries(data.units() / "system", "usr/lib/systemd/system/"))
        yield "usr/lib/flotilla"

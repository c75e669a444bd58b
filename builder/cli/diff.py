"""``osbuild diff``: what changed between two builds, in packages, files and sizes.

Pure functions from two manifests and two lists of files to a :class:`Difference`; then its text and JSON forms.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from builder.about import result
from builder.about.filelist import Listed
from builder.about.result import Build, printable
from builder.about.sizes import megabytes
from builder.cli.verb import Verb
from builder.debian import lockfile
from terminal import table

EXAMPLES: Final = {
    "diff": """
  osbuild diff /srv/old build/qemu       packages, files and sizes that differ
  osbuild diff --files A B               every file, and what of it changed""",
}


@dataclass(frozen=True, slots=True)
class PackageChange:
    """A package that differs: the ``old`` or ``new`` version is None if it was added or removed.

    Equal versions mean other bytes.
    """

    name: str
    old: str | None
    new: str | None

    @property
    def verb(self) -> str:
        """The verb of ``osbuild lock``: see :func:`builder.debian.lockfile.verb`."""
        return lockfile.verb(self.old, self.new)


@dataclass(frozen=True, slots=True)
class SizeChange:
    """An artifact or an owner that differs, in bytes; zero if it is not there. Equal sizes mean other bytes."""

    name: str
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class FileChange:
    """A path that differs.

    ``change`` is ``added``, ``removed`` or ``changed``, ``package`` its present (or former) origin, ``bytes`` its
    growth. ``changed`` has the old and the new value of each attribute that differs, by its name in the list of files.
    """

    path: str
    change: str
    package: str
    bytes: int
    changed: Mapping[str, tuple[object, object]]


@dataclass(frozen=True, slots=True)
class Files:
    """The paths that differ in more than their time, sorted; and how many differ in their time alone."""

    changes: tuple[FileChange, ...]
    touched: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The differences between two builds: packages by name, the rest by the size of the change, largest first.

    ``files`` is None if one of the two has no list of them.
    """

    packages: tuple[PackageChange, ...]
    artifacts: tuple[SizeChange, ...]
    owners: tuple[SizeChange, ...]
    files: Files | None


def difference(
    old: Build, new: Build, old_files: Mapping[str, Listed] | None, new_files: Mapping[str, Listed] | None
) -> Difference:
    """The differences from ``old`` to ``new``."""
    names = sorted(old.packages.keys() | new.packages.keys())
    return Difference(
        tuple(
            PackageChange(name, old.packages.get(name), new.packages.get(name))
            for name in names
            if old.package_hashes.get(name) != new.package_hashes.get(name)
        ),
        _size_changes(
            old.artifacts, new.artifacts, lambda name: old.artifact_hashes.get(name) != new.artifact_hashes.get(name)
        ),
        _size_changes(old.owners, new.owners, lambda name: old.owners.get(name) != new.owners.get(name)),
        None if old_files is None or new_files is None else file_changes(old_files, new_files),
    )


def _size_changes(
    old: Mapping[str, int], new: Mapping[str, int], differs: Callable[[str], bool]
) -> tuple[SizeChange, ...]:
    found = [SizeChange(name, old.get(name, 0), new.get(name, 0)) for name in old.keys() | new.keys() if differs(name)]
    return tuple(sorted(found, key=lambda change: (-abs(change.new - change.old), change.name)))


def file_changes(old: Mapping[str, Listed], new: Mapping[str, Listed]) -> Files:
    """The changes of files from ``old`` to ``new``, both by path."""
    found: list[FileChange] = []
    touched = 0
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before == after:
            continue
        if before is None:
            assert after is not None
            found.append(FileChange(path, "added", after.package, after.size, {}))
        elif after is None:
            found.append(FileChange(path, "removed", before.package, -before.size, {}))
        elif changed := _attributes(before, after):
            found.append(FileChange(path, "changed", after.package, after.size - before.size, changed))
        else:
            touched += 1
    return Files(tuple(found), touched)


def _attributes(before: Listed, after: Listed) -> dict[str, tuple[object, object]]:
    """The attributes that differ, except the time, which an update sets for every file."""
    one, other = asdict(before), asdict(after)
    return {name: (one[name], other[name]) for name in one if name != "mtime" and one[name] != other[name]}


def add_verbs(verb: Verb) -> None:
    """Add the parser of this module's verb, made by ``verb(name, text)``."""
    parser = verb("diff", "show what differs between two builds")
    parser.add_argument("old", type=Path, metavar="A", help="the output of a build")
    parser.add_argument("new", type=Path, metavar="B", help="the output of another")
    parser.add_argument("--files", action="store_true", help="list every file that differs, and what of it")
    parser.add_argument("--json", action="store_true", help="print the result for a machine, with every file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``osbuild diff``; returns the exit code: 0, whether anything differs or not."""
    old, new = result.load(arguments.old), result.load(arguments.new)
    lists = [result.files(each) for each in (old, new)]
    found = difference(old, new, *lists)
    if arguments.json:
        packages = [
            {"name": each.name, "change": each.verb, "old": each.old, "new": each.new} for each in found.packages
        ]
        print(json.dumps({**asdict(found), "packages": packages}))
        return 0
    print("\n\n".join(_tables(found, each_file=arguments.files)) or "nothing differs")
    if found.files is None:
        without = [str(each.folder) for each, listed in zip((old, new), lists, strict=True) if listed is None]
        print(f"\nfiles are not compared: no list of them in {' and '.join(without)}")
    return 0


def _tables(found: Difference, *, each_file: bool) -> Iterator[str]:
    """A table for each kind of thing that differs."""
    if found.packages:
        yield table([[each.verb, each.name, " -> ".join(_versions(each))] for each in found.packages])
    for noun, changes in (("artifact", found.artifacts), ("owner", found.owners)):
        if changes:
            rows = [[each.name, _size(each.old), _size(each.new), _signed(each.new - each.old)] for each in changes]
            yield table(rows, [noun, "before", "after", "change"])
    if found.files is None:
        return
    if found.files.changes:
        if each_file:
            yield table([_file_row(each) for each in found.files.changes], ["file", "path", "owner", "size", "what"])
        else:
            yield table(list(_by_package(found.files.changes)), ["files of", "added", "removed", "changed", "size"])
    if found.files.touched:
        yield f"{found.files.touched} more differ in their time alone"


def _by_package(changes: Iterable[FileChange]) -> Iterator[list[str]]:
    """A row for each package, the most changes first, and one for all."""
    of_package: defaultdict[str, list[FileChange]] = defaultdict(list)
    for change in changes:
        of_package[change.package].append(change)
    for package in sorted(of_package, key=lambda package: (-len(of_package[package]), package)):
        yield _counted(package, of_package[package])
    yield _counted(f"all {len(of_package)}", [change for some in of_package.values() for change in some])


def _counted(name: str, changes: Iterable[FileChange]) -> list[str]:
    verbs = [change.change for change in changes]
    counts = [str(verbs.count(verb) or "-") for verb in ("added", "removed", "changed")]
    return [name, *counts, _signed(sum(change.bytes for change in changes))]


def _file_row(change: FileChange) -> list[str]:
    return [
        change.change,
        printable(change.path),
        change.package,
        _signed(change.bytes) if change.bytes else "",
        printable(", ".join(_attribute_words(change.changed))),
    ]


def _attribute_words(changed: Mapping[str, tuple[object, object]]) -> Iterator[str]:
    """The changes of a file, without its size."""
    if "sha256" in changed and "kind" not in changed:
        yield "contents"
    for name, (before, after) in changed.items():
        if name == "xattrs":
            yield name
        elif name not in ("size", "sha256") and not (name == "target" and "kind" in changed):
            yield f"{name} {before} -> {after}"


def _versions(change: PackageChange) -> list[str]:
    """The versions of a change to show, each once."""
    return [version for version in dict.fromkeys((change.old, change.new)) if version is not None]


def _size(size: int) -> str:
    return megabytes(size) if size else "-"


def _signed(size: int) -> str:
    if not size:
        return "same size"
    return ("+" if size > 0 else "-") + megabytes(abs(size))

"""``osbuild inspect`` and ``osbuild diff``: what is in a build, and what changed between two, from their manifests alone.

The verbs' arguments, reading a manifest that may be anybody's, and two pure functions, :func:`difference` and :func:`summary`, between them and
the printing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from builder import lockfile, manifest
from builder.sizes import megabytes
from terminal import Failure, table

LARGEST: Final = 10
"""Owners that ``inspect`` shows to people; ``--json`` has all."""

EXAMPLES: Final = {
    "inspect": """
  osbuild inspect build/qemu             what is in it, and what takes the space
  osbuild inspect --json build/qemu      the same for a machine, with every package""",
    "diff": """
  osbuild diff /srv/old build/qemu       packages, artifacts and owners that differ""",
}


@dataclass(frozen=True, slots=True)
class Build:
    """What a manifest says: versions of packages, sizes and hashes of artifacts, bytes of owners, each by name and in the manifest's order."""

    folder: Path
    name: str
    target: str
    architecture: str
    build: str
    packages: Mapping[str, str]
    package_hashes: Mapping[str, str]
    artifacts: Mapping[str, int]
    artifact_hashes: Mapping[str, str]
    owners: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PackageChange:
    """A package that differs: ``old`` or ``new`` version is None if it was added or removed; equal versions are other bytes."""

    name: str
    old: str | None
    new: str | None

    @property
    def verb(self) -> str:
        """In the words of ``osbuild lock``: see :func:`builder.lockfile.verb`."""
        return lockfile.verb(self.old, self.new)


@dataclass(frozen=True, slots=True)
class SizeChange:
    """An artifact or an owner that differs, in bytes; zero if it is not there. Equal sizes are other bytes."""

    name: str
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two builds, packages by name, the rest by how much it changed, most first."""

    packages: tuple[PackageChange, ...]
    artifacts: tuple[SizeChange, ...]
    owners: tuple[SizeChange, ...]


def load(folder: Path) -> Build:
    """The build in ``folder`` (or whose ``manifest.json`` that is).

    Raises :class:`Failure` if there is no manifest, or one that this program cannot read.
    """
    path = folder / manifest.NAME if folder.name != manifest.NAME else folder
    try:
        data = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise Failure(
            "no build is there", where=str(path), hint="name the folder that 'osbuild image' said it built"
        ) from None
    except OSError as error:
        raise Failure(f"cannot read the manifest: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError):
        raise _broken(path, "not JSON") from None
    if isinstance(data, dict) and data.get("version") != manifest.VERSION:
        raise _broken(path, f"format version {data.get('version')!r}, this program knows {manifest.VERSION}")
    try:
        return Build(
            path.parent,
            _word(data["name"]),
            _word(data["target"]),
            _word(data["architecture"]),
            _word(data["build"]),
            {_word(each["name"]): _word(each["version"]) for each in data["packages"]},
            {_word(each["name"]): _word(each["sha256"]) for each in data["packages"]},
            {_word(each["name"]): _count(each["size"]) for each in data["artifacts"]},
            {_word(each["name"]): _word(each["sha256"]) for each in data["artifacts"]},
            {_word(each["owner"]): _count(each["bytes"]) for each in data["owners"]},
        )
    except KeyError as error:
        raise _broken(path, f"{error.args[0]} missing") from None
    except (TypeError, ValueError):
        raise _broken(path, "a value is of the wrong kind") from None


def _word(value: object) -> str:
    """A string that is safe to print: a build may come from anybody."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(value)
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _broken(path: Path, why: str) -> Failure:
    return Failure(f"the manifest is broken: {why}", where=str(path), hint="build again, with --force")


def difference(old: Build, new: Build) -> Difference:
    """What a person wants to read when ``old`` becomes ``new``."""
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
    )


def _size_changes(
    old: Mapping[str, int], new: Mapping[str, int], differs: Callable[[str], bool]
) -> tuple[SizeChange, ...]:
    found = [SizeChange(name, old.get(name, 0), new.get(name, 0)) for name in old.keys() | new.keys() if differs(name)]
    return tuple(sorted(found, key=lambda change: (-abs(change.new - change.old), change.name)))


def add_verbs(verb: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the parsers of this module's verbs, each made by ``verb(name, text)``."""
    inspect = verb("inspect", "show what is in a build and what takes the space")
    inspect.add_argument("folder", type=Path, metavar="DIR", help="the output of a build")
    diff = verb("diff", "show what differs between two builds")
    diff.add_argument("old", type=Path, metavar="A", help="the output of a build")
    diff.add_argument("new", type=Path, metavar="B", help="the output of another")
    for each in (inspect, diff):
        each.add_argument("--json", action="store_true", help="print the result for a machine")


def inspect(arguments: argparse.Namespace) -> int:
    """``osbuild inspect``; returns the exit code."""
    build = load(arguments.folder)
    if arguments.json:
        print(json.dumps(summary(build)))
    else:
        print("\n\n".join(_told(build)))
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """``osbuild diff``; returns the exit code: 0, whether anything differs or not."""
    old, new = load(arguments.old), load(arguments.new)
    found = difference(old, new)
    if arguments.json:
        packages = [
            {"name": each.name, "change": each.verb, "old": each.old, "new": each.new} for each in found.packages
        ]
        print(json.dumps({**asdict(found), "packages": packages}))
    else:
        print("\n\n".join(_differences(found)) or "nothing differs")
    return 0


def summary(build: Build) -> dict[str, Any]:
    """The build for a machine; ``largest`` are the owners of most bytes."""
    return {
        "directory": str(build.folder),
        "name": build.name,
        "target": build.target,
        "architecture": build.architecture,
        "build": build.build,
        "packages": dict(build.packages),
        "artifacts": dict(build.artifacts),
        "owners": dict(build.owners),
        "largest": _largest(build),
    }


def _largest(build: Build) -> list[str]:
    return sorted(build.owners, key=lambda owner: (-build.owners[owner], owner))[:LARGEST]


def _told(build: Build) -> Iterator[str]:
    yield f"{build.name} for {build.target}, {build.architecture}, {len(build.packages)} packages, build {build.build}"
    if build.artifacts:
        yield table([[name, megabytes(size)] for name, size in build.artifacts.items()], ["artifact", "size"])
    total = sum(build.owners.values())
    if total:
        rows = [
            [owner, build.packages.get(owner, ""), megabytes(build.owners[owner]), _share(build.owners[owner], total)]
            for owner in _largest(build)
        ]
        rows.append([f"all {len(build.owners)}", "", megabytes(total), _share(total, total)])
        yield table(rows, ["owner", "version", "size", "share"])


def _share(size: int, total: int) -> str:
    return f"{100 * size / total:.1f} %"


def _differences(found: Difference) -> Iterator[str]:
    """A table for each kind of thing that differs."""
    if found.packages:
        yield table([[each.verb, each.name, " -> ".join(_versions(each))] for each in found.packages])
    for noun, changes in (("artifact", found.artifacts), ("owner", found.owners)):
        if changes:
            rows = [[each.name, _size(each.old), _size(each.new), _signed(each.new - each.old)] for each in changes]
            yield table(rows, [noun, "before", "after", "change"])


def _versions(change: PackageChange) -> list[str]:
    """The versions to tell of a change, each once."""
    return [version for version in dict.fromkeys((change.old, change.new)) if version is not None]


def _size(size: int) -> str:
    return megabytes(size) if size else "-"


def _signed(size: int) -> str:
    if not size:
        return "same size"
    return ("+" if size > 0 else "-") + megabytes(abs(size))

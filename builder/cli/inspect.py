"""``osbuild inspect``: the contents of a build: artifacts, owners, and the tree, down to the given path."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from builder.about import result
from builder.about.filelist import Listed
from builder.about.result import Build, printable
from builder.about.sizes import megabytes
from builder.cli.verb import Verb
from builder.core.tree import Kind
from terminal import Failure, table

LARGEST: Final = 10
"""Number of owners in the text form; ``--json`` has all."""

FOLDER_LEVELS: Final = 2
"""Depth of the folders that are shown by default, if they are a hundredth of the whole."""

EXAMPLES: Final = {
    "inspect": """
  osbuild inspect build/qemu             what is in it, and what takes the space
  osbuild inspect build/qemu /usr/lib    that folder: modes, owners, sizes with all below
  osbuild inspect build/qemu --owner docker.io
                                         what a package brought
  osbuild inspect --json build/qemu      the same for a machine, with every package""",
}


def add_verbs(verb: Verb) -> None:
    """Add the parser of this module's verb, made by ``verb(name, text)``."""
    parser = verb("inspect", "show what is in a build and what takes the space")
    parser.add_argument("folder", type=Path, metavar="DIR", help="the output of a build")
    parser.add_argument("path", nargs="?", metavar="PATH", help="a path in the image: show it, and what is in it")
    parser.add_argument("--owner", metavar="PACKAGE", help="show what this package brought, or 'flotilla' did")
    parser.add_argument("--json", action="store_true", help="print the result for a machine")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """``osbuild inspect``; returns the exit code."""
    build = result.load(arguments.folder)
    if arguments.path is None and arguments.owner is None:
        print(json.dumps(summary(build)) if arguments.json else "\n\n".join([*_about(build), *_folders(build)]))
        return 0
    files = result.files(build)
    if files is None:
        raise Failure("no list of files is there", where=str(build.folder), hint="build again: every build writes one")
    shown, sizes = select(files, arguments.path, arguments.owner), weigh(files)
    if arguments.json:
        print(json.dumps([{**asdict(each), "size": sizes[each.path]} for each in shown]))
    else:
        print(table([_row(each, sizes[each.path]) for each in shown], ["mode", "uid:gid", "size", "owner", "path"]))
    return 0


def select(files: Mapping[str, Listed], path: str | None, owner: str | None) -> list[Listed]:
    """The entry at ``path`` and, if it is a folder, those directly in it; without a path, all.

    ``/`` is the root. With ``owner``, only its entries; folders do not count for a package, since many packages share
    them.

    Raises :class:`Failure` for an unknown path or owner.
    """
    found = list(files.values())
    if path is not None:
        whole = "/" + path.strip("/")
        found = [each for each in found if each.path == whole or each.path.rpartition("/")[0] == whole.rstrip("/")]
        if not found:
            raise Failure(
                "there is no such path in the build", where=path, hint="'osbuild inspect DIR /' begins at the top"
            )
    if owner is not None:
        found = [each for each in found if each.package == owner and each.kind is not Kind.DIRECTORY]
        if not found:
            raise Failure(
                "no file there is of this owner", where=owner, hint="'osbuild inspect --json DIR' has all owners"
            )
    return found


def weigh(files: Mapping[str, Listed]) -> dict[str, int]:
    """The bytes of each path: a folder's are those of all below it."""
    sizes = dict.fromkeys(files, 0)
    for path, each in files.items():
        at = path
        while at:
            if at in sizes:
                sizes[at] += each.size
            at = at.rpartition("/")[0]
    return sizes


def _folders(build: Build) -> Iterator[str]:
    """A table of the largest folders, at most two levels down, if there is a list of files."""
    sizes = weigh(files) if (files := result.files(build)) is not None else {}
    total = sum(each.size for each in files.values()) if files else 0
    large = [
        path
        for path, size in sizes.items()
        if files and files[path].kind is Kind.DIRECTORY and path.count("/") <= FOLDER_LEVELS and 100 * size >= total > 0
    ]
    if large:
        yield table(
            [[path, megabytes(sizes[path]), _share(sizes[path], total)] for path in large], ["folder", "size", "share"]
        )


def _row(each: Listed, size: int) -> list[str]:
    name = each.path + {Kind.DIRECTORY: "/", Kind.SYMLINK: f" -> {each.target}", Kind.FILE: ""}[each.kind]
    return [each.mode, f"{each.uid}:{each.gid}", megabytes(size), each.package, printable(name)]


def summary(build: Build) -> dict[str, Any]:
    """The build as JSON values; ``largest`` are the owners of most bytes."""
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


def _about(build: Build) -> Iterator[str]:
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

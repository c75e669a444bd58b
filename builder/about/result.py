"""A finished build, read back from its folder. The folder is not trusted: all of its contents are checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.about import filelist, manifest
from builder.about.filelist import Listed
from terminal import Failure, record


@dataclass(frozen=True, slots=True)
class Build:
    """The contents of a manifest: package versions, sizes and hashes of artifacts, bytes of owners.

    Each is by name and in the manifest's order.

    ``sizes`` and ``boot`` are empty for builds from before there were budgets.
    """

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
    release: bool
    sizes: Mapping[str, int]
    boot: Mapping[str, int]


def load(folder: Path) -> Build:
    """The build in ``folder`` (or whose ``manifest.json`` that is).

    Raises :class:`Failure` if there is no manifest, or one that this program cannot read.
    """
    path = folder / manifest.NAME if folder.name != manifest.NAME else folder
    try:
        data = record.parse(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise Failure(
            "no build is there", where=str(path), hint="name the folder that 'osbuild image' printed"
        ) from None
    except OSError as error:
        raise Failure(f"cannot read the manifest: {error.strerror}", where=str(path)) from error
    except ValueError:
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
            data.get("release") is True,
            {_word(part): _count(size) for part, size in data.get("sizes", {}).items()},
            {_word(each["owner"]): _count(each["bytes"]) for each in data.get("boot", [])},
        )
    except KeyError as error:
        raise _broken(path, f"{error.args[0]} missing") from None
    except (TypeError, ValueError, AttributeError):
        raise _broken(path, "a value is of the wrong kind") from None


def _word(value: object) -> str:
    """A string that is safe to print: a build may come from an untrusted source."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(value)
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(value)
    return value


def _broken(path: Path, why: str) -> Failure:
    return Failure(f"the manifest is broken: {why}", where=str(path), hint="build again, with --force")


def files(build: Build) -> dict[str, Listed] | None:
    """The build's list of files by path; None if its folder has none (an old build, or a manifest alone).

    Raises :class:`Failure` for a list that is broken, or that is not the one that the manifest describes.
    """
    path = build.folder / filelist.NAME
    if filelist.NAME not in build.artifacts or not path.exists():
        return None
    found = filelist.load(build.folder)
    if manifest.sha256(path) != build.artifact_hashes[filelist.NAME]:
        raise Failure(
            "the list of files is not that of the manifest beside it", where=str(path), hint="build again, with --force"
        )
    return found


def printable(text: str) -> str:
    """``text`` with control characters for terminals written out: the names come from untrusted files."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)

"""``manifest.json``: the contents of an image, and proof that a build folder is complete and up to date."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from builder.core.tree import Tree
from builder.debian.lockfile import Lock
from terminal import record

NAME: Final = "manifest.json"
VERSION: Final = 1


def compose(
    build: str,
    name: str,
    target: str,
    lock: Lock,
    tree: Tree,
    artifacts: Iterable[Path],
    *,
    release: bool = False,
    inputs: Mapping[str, object] = MappingProxyType({}),
    sizes: Mapping[str, int] = MappingProxyType({}),
    boot: Mapping[str, int] = MappingProxyType({}),
    updates: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """The manifest's value.

    ``build`` is the id of the whole build. ``packages`` lists name, version, source and hash of each; ``artifacts``
    name, size and hash of each file beside the manifest; ``accounts`` the users and groups of the tree; ``owners`` the
    bytes of the tree that each package (or ``flotilla``) brought, largest first. ``release`` is the option of that
    name, and ``inputs`` has the id of each thing that shaped the build: with them it can be verified. ``sizes`` has the
    bytes of each part that a budget can limit, ``boot`` the bytes before compression of the kernel and of each file in
    the initrd. ``updates`` is the archive's answer about security updates when a release was built
    (:func:`builder.pipeline.outdated.ask`).
    """
    paths = sorted(artifacts)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        digests = list(pool.map(sha256, paths))
    return {
        "version": VERSION,
        "build": build,
        "name": name,
        "target": target,
        "release": release,
        "updates": None if updates is None else dict(updates),
        "inputs": dict(inputs),
        "architecture": lock.architecture,
        "epoch": lock.epoch,
        "packages": [
            {
                "name": package.name,
                "version": package.version,
                "architecture": package.architecture,
                "suite": package.suite,
                "source": package.source,
                "source_version": package.source_version,
                "sha256": package.sha256,
            }
            for package in lock.packages
        ],
        "artifacts": [
            {"name": path.name, "size": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, digests, strict=True)
        ],
        "sizes": dict(sizes),
        "accounts": accounts(tree),
        "owners": _largest_first(owners(tree)),
        "boot": _largest_first(boot),
    }


def accounts(tree: Tree) -> dict[str, list[dict[str, object]]]:
    """Users and groups of ``tree``, as in passwd(5) and group(5), by number; none in a tree without these files."""
    users = [
        {"name": name, "uid": int(uid), "gid": int(gid), "home": home, "shell": shell}
        for name, _, uid, gid, _, home, shell in _fields(tree, "etc/passwd")
    ]
    groups = [
        {"name": name, "gid": int(gid), "members": [each for each in members.split(",") if each]}
        for name, _, gid, members in _fields(tree, "etc/group")
    ]
    return {"users": users, "groups": groups}


def _fields(tree: Tree, path: str) -> list[list[str]]:
    return [line.split(":") for line in tree.read(path).decode().splitlines()] if path in tree else []


def owners(tree: Tree) -> dict[str, int]:
    """The bytes of ``tree`` by the package (or ``flotilla``) that brought them; owners without bytes are left out."""
    bytes_of: Counter[str] = Counter()
    for entry in tree:
        if entry.size:
            bytes_of[entry.owner] += entry.size
    return dict(bytes_of)


def _largest_first(sizes: Mapping[str, int]) -> list[dict[str, object]]:
    return [
        {"owner": owner, "bytes": size} for owner, size in sorted(sizes.items(), key=lambda each: (-each[1], each[0]))
    ]


def is_current(folder: Path, build: str, updates: Mapping[str, object] | None = None) -> bool:
    """Does ``folder`` hold the complete result of the build with this id, and the same ``updates`` (if not None)?

    It compares sizes and does not read contents.
    """
    try:
        manifest = record.parse((folder / NAME).read_text())
        is_it = manifest["build"] == build and (updates is None or manifest["updates"] == updates)
        return is_it and all(
            (folder / artifact["name"]).stat().st_size == artifact["size"] for artifact in manifest["artifacts"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def publish(work: Path, output: Path, manifest: dict[str, Any]) -> None:
    """Move the artifacts of ``work`` (on the same disk) into the folder ``output``.

    The old manifest goes first and the new one comes last, so that a folder with a manifest is complete at whatever
    point the process is killed. All moves are renames, so a full disk cannot stop it half way. Files are replaced, not
    rewritten: a running machine keeps the image it was started from. An old artifact is removed before the new one
    takes its name, since ext4 flushes a file to the disk that is renamed over another.
    """
    (work / NAME).write_text(json.dumps(manifest, indent=1) + "\n")
    (output / NAME).unlink(missing_ok=True)
    for path in sorted(work.iterdir(), key=lambda path: path.name == NAME):
        (output / path.name).unlink(missing_ok=True)
        path.rename(output / path.name)


def sha256(path: Path) -> str:
    """The hash of a file's contents, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

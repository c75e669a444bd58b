"""What an image has of all that user-data can refer to: accounts, programs, units, packages, files in writable places.

Read from a build's folder (``manifest.json`` and ``files.jsonl``, docs/build-output.md), or from a compact file that
this module made: ``image.json`` beside it is that of our own image, so that the host can check user-data without a
build. Only the host reads it: a node has the image itself.
"""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cloudconfig.text.schema import WRITABLE
from terminal import Failure, record

VERSION = 1
NODE_CODE = Path("/usr/lib/flotilla")
"""Where an image has this very code."""
OURS = Path(__file__).with_name("image.json")
_UNITS = ("/usr/lib/systemd/system", "/etc/systemd/system")
_VAR, _PATTERN = "/var", "/usr/share/flotilla/var"
_LINKS_MAX = 40  # as the kernel
# What the kernel can mount without a module of that name.
_BUILT_IN = ("bind", "none", "proc", "ramfs", "swap", "sysfs", "tmpfs")


class Image(NamedTuple):
    """Facts of one image. ``users`` are (home, shell) by name; ``programs`` and ``folders`` absolute paths; ``files``
    what is no folder where user-data may write; ``links`` absolute targets of links that lead to folders; ``units``
    names, ``masked`` those of them that lead to nothing; ``made_from`` ids of the definition and the lock; ``own`` the
    units that no package brought."""

    users: Mapping[str, tuple[str, str]]
    groups: frozenset[str]
    packages: frozenset[str]
    units: frozenset[str]
    masked: frozenset[str]
    programs: frozenset[str]
    folders: frozenset[str]
    files: frozenset[str]
    links: Mapping[str, str]
    filesystems: frozenset[str]
    zones: frozenset[str]
    own: frozenset[str]
    made_from: Mapping[str, str]

    def real(self, path: str) -> str:
        """``path`` with the image's links to folders followed, but not one at its very end."""
        folder, _, name = path.rpartition("/")
        done = ""
        todo = [piece for piece in folder.split("/") if piece][::-1]
        for _ in range(_LINKS_MAX * 100):
            if not todo:
                break
            target = self.links.get(f"{done}/{todo[-1]}")
            if target is None:
                done = f"{done}/{todo.pop()}"
            else:
                todo.pop()
                todo.extend([piece for piece in target.split("/") if piece][::-1])
                done = ""
        return f"{done}/{name}"

    def has_program(self, path: str) -> bool:
        """Whether there is a program at ``path``."""
        return self.real(path) in self.programs

    def finds_program(self, name: str) -> bool:
        """Whether a program is called ``name`` where a shell looks."""
        return any(f"/usr/{folder}/{name}" in self.programs for folder in ("bin", "sbin"))

    def has_unit(self, name: str) -> bool:
        """Whether systemd finds a unit ``name``, or the template of it."""
        stem, at, _ = name.partition("@")
        return name in self.units or (bool(at) and f"{stem}@.{name.rpartition('.')[2]}" in self.units)

    def write_problem(self, path: str) -> str:
        """Why no file can be written at ``path`` (clean, absolute); empty if one can."""
        real = self.real(path)
        if not real.startswith(tuple(f"{place}/" for place in WRITABLE)):
            return "the node's root is read-only there"
        if real in self.folders or real in WRITABLE:
            return "is a folder of the image"
        above = real.rpartition("/")[0]
        while above:
            if above in self.files:
                return f"goes through {above}, which is no folder"
            above = above.rpartition("/")[0]
        return ""

    def dump(self) -> str:
        """The compact file: sorted, a line for each kind of fact."""
        value: dict[str, Any] = {
            "v": VERSION,
            "made_from": dict(self.made_from),
            "users": {name: list(self.users[name]) for name in sorted(self.users)},
            "links": dict(sorted(self.links.items())),
        }
        for name in ("groups", "packages", "units", "masked", "filesystems", "zones", "own"):
            value[name] = " ".join(sorted(getattr(self, name)))
        for name in ("programs", "folders", "files"):
            by_folder: dict[str, list[str]] = defaultdict(list)
            for path in sorted(getattr(self, name)):
                folder, _, last = path.rpartition("/")
                by_folder[folder].append(last)
            # A blank in a name would make it two names; no program has such a name.
            value[name] = {folder: " ".join(n for n in names if " " not in n) for folder, names in by_folder.items()}
        lines = [f"{json.dumps(key)}: {json.dumps(part, separators=(',', ':'))}" for key, part in value.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"


def usual() -> Image:
    """The default image of a text: on a node its own one, else ours."""
    return of_root(Path("/")) if NODE_CODE.is_dir() else ours()


@lru_cache(maxsize=1)
def ours() -> Image:
    """The facts of our own image."""
    return load(OURS)


def load(path: Path) -> Image:
    """The facts in the build's folder or compact file ``path``. Raises Failure."""
    try:
        if path.is_dir():
            manifest = record.parse((path / "manifest.json").read_text("utf-8"))
            with (path / "files.jsonl").open(encoding="utf-8") as lines:
                return _of_build(manifest, [record.parse(line) for line in lines])
        return _of_file(record.parse(path.read_text("utf-8")))
    except OSError as error:
        hint = "--image takes the folder that 'osbuild image' made, or what 'cloudconfig facts' printed"
        raise Failure(f"cannot be read: {error.strerror}", where=error.filename or str(path), hint=hint) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure("does not describe an image", where=str(path), hint="build it again: osbuild image") from error


def of_root(root: Path) -> Image:
    """The facts of a running node, or of a tree like it, from its files.

    Our own units are not distinguished from others. Raises Failure."""
    import os
    import stat

    rows: list[dict[str, Any]] = []
    for top in (
        "bin",
        "lib",
        "sbin",
        "home",
        "opt",
        "root",
        "srv",
        "mnt",
        "media",
        "etc",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/share/zoneinfo",
        "var",
    ):
        paths = [root / top]
        if not paths[0].is_symlink():
            # Data of containers and services below /var/lib is no fact of the image.
            depth_max = 3 if top == "var" else 12
            for folder, folders, names in os.walk(root / top):
                paths += [Path(folder) / name for name in (*folders, *names)]
                if len(Path(folder).relative_to(root / top).parts) >= depth_max:
                    folders.clear()
        for path in paths:
            try:
                found = path.lstat()
                target = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""  # noqa: PTH115 - the raw text
            except OSError:
                continue
            kind = "symlink" if target else "dir" if stat.S_ISDIR(found.st_mode) else "file"
            row = {"path": f"/{path.relative_to(root)}", "kind": kind, "mode": f"{stat.S_IMODE(found.st_mode):04o}"}
            rows.append({**row, "package": "", "target": target})

    def lines(path: str) -> list[str]:
        try:
            return (root / path).read_text("utf-8", "replace").splitlines()
        except OSError as error:
            raise Failure(f"cannot be read: {error.strerror}", where=f"/{path}") from error

    users = [line.split(":") for line in lines("etc/passwd") if line.count(":") == 6]
    manifest = {
        "accounts": {
            "users": [{"name": fields[0], "home": fields[5], "shell": fields[6]} for fields in users],
            "groups": [{"name": line.partition(":")[0]} for line in lines("etc/group")],
        },
        "packages": [
            {"name": line.removeprefix("Package: ")}
            for line in lines("usr/share/flotilla/dpkg-status")
            if line.startswith("Package: ")
        ],
        "inputs": {"definition": "", "lock": ""},
    }
    return _of_build(manifest, rows)


def _of_file(value: Mapping[str, Any]) -> Image:
    if value["v"] != VERSION:
        raise ValueError("another version")

    def words(name: str) -> frozenset[str]:
        return frozenset(value[name].split())

    def paths(name: str) -> frozenset[str]:
        return frozenset(f"{folder}/{last}" for folder, names in value[name].items() for last in names.split())

    return Image(
        users={name: (home, shell) for name, (home, shell) in value["users"].items()},
        groups=words("groups"),
        packages=words("packages"),
        units=words("units"),
        masked=words("masked"),
        programs=paths("programs"),
        folders=paths("folders"),
        files=paths("files"),
        links=value["links"],
        filesystems=words("filesystems"),
        zones=words("zones"),
        own=words("own"),
        made_from=value["made_from"],
    )


def _of_build(manifest: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Image:
    # What /var gets on the first boot lies in the root, as a pattern.
    tree = {(_VAR + path[len(_PATTERN) :] if (path := row["path"]).startswith(_PATTERN) else path): row for row in rows}
    accounts = manifest["accounts"]
    links: dict[str, str] = {}
    programs, folders, files, units, masked, own, filesystems, zones = (set[str]() for _ in range(8))
    filesystems.update(_BUILT_IN)
    for path, row in tree.items():
        folder, _, name = path.rpartition("/")
        end = _end(tree, path)
        kind = tree[end]["kind"] if end in tree else ""
        writable = path.startswith(tuple(f"{place}/" for place in WRITABLE))
        if row["kind"] == "symlink" and (kind == "dir" or (not kind and f"{end}/".startswith("/run/"))):
            links[path] = end
        elif row["kind"] == "dir" and (writable or not folder or folder in ("/mnt", "/media")):
            folders.add(path)
        elif row["kind"] != "dir" and writable:
            files.add(path)
        if kind == "file" and int(tree[end]["mode"], 8) & 0o111 and ".so" not in name and path.startswith("/usr/"):
            programs.add(path)
        if folder in _UNITS and row["kind"] != "dir":
            units.add(name)
            if row.get("target") == "/dev/null":
                masked.add(name)
            elif row["package"] == "flotilla" and row["kind"] == "file":
                own.add(name)
        if "/kernel/fs/" in path and ".ko" in name:
            filesystems.add(name.partition(".ko")[0])
        if path.startswith("/usr/share/zoneinfo/") and row["kind"] != "dir":
            zones.add(path.removeprefix("/usr/share/zoneinfo/"))
    return Image(
        users={user["name"]: (user["home"], user["shell"]) for user in accounts["users"]},
        groups=frozenset(group["name"] for group in accounts["groups"]),
        packages=frozenset(package["name"] for package in manifest["packages"]),
        units=frozenset(units),
        masked=frozenset(masked),
        programs=frozenset(programs),
        folders=frozenset(folders),
        files=frozenset(files),
        links=links,
        filesystems=frozenset(filesystems),
        zones=frozenset(zones),
        own=frozenset(own),
        made_from={name: str(manifest["inputs"][name]) for name in ("definition", "lock")},
    )


def _end(tree: Mapping[str, Mapping[str, Any]], path: str) -> str:
    """Where ``path`` leads, links followed; it may not exist. Empty if links lead in a circle."""
    done, todo = "", [piece for piece in path.split("/") if piece][::-1]
    links = 0
    while todo and links < _LINKS_MAX:
        piece = todo.pop()
        if piece == "..":
            done = posixpath.dirname(done).rstrip("/")
            continue
        row = tree.get(f"{done}/{piece}")
        if row is not None and row["kind"] == "symlink":
            links += 1
            if row["target"].startswith("/"):
                done = ""
            todo.extend([each for each in row["target"].split("/") if each not in ("", ".")][::-1])
        else:
            done = f"{done}/{piece}"
    return "" if todo else done or "/"

"""What the last apply wrote: kept on the state disk, so that the next one can remove what is no longer wanted.

``/var/lib/cloudconfig/plan.json`` (root, 0600): version, plan hash, instance id, scripts that ran (SHA-256), users with
SSH keys from us, and per path either the SHA-256 of a file's content or a link's target, plus what was there before.
That is kept in ``/var/lib/cloudconfig/before/`` and put back when the path leaves the plan: on an overlay, removing
alone would hide the image's own file.
"""

from __future__ import annotations

import hashlib
import json
import stat
from typing import NamedTuple

from cloudconfig.node.rooted import Root, RootedError, Staging
from cloudconfig.plan.plan import File, Link
from terminal import record

VERSION = 1
FOLDER = "/var/lib/cloudconfig"
PATH = f"{FOLDER}/plan.json"
KEPT_MAX = 8 << 20


class Entry(NamedTuple):
    """One path that we wrote: ``sha256`` of a file or ``target`` of a link (the other is empty), and ``before``: how
    the file there was (``{"mode", "uid", "gid"}``, its content is kept aside; or ``{"target"}`` of a link), None if
    there was nothing."""

    sha256: str
    target: str
    before: dict[str, int | str] | None


class Manifest(NamedTuple):
    """The whole record; ``plan`` is empty when there was none."""

    plan: str = ""
    instance_id: str = ""
    scripts: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    entries: dict[str, Entry] = {}  # noqa: RUF012 - it is never changed: a record is replaced as a whole

    def as_json(self) -> bytes:
        """The file's content."""
        value = {
            "v": VERSION,
            "plan": self.plan,
            "instance_id": self.instance_id,
            "scripts": self.scripts,
            "users": self.users,
            "entries": {path: entry._asdict() for path, entry in self.entries.items()},
        }
        return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode()


def read(root: Root) -> Manifest:
    """The record under ``root``; an empty one if there is none or it is damaged (then nothing is removed)."""
    try:
        value = record.parse(root.read(PATH, KEPT_MAX) or b"null")
        if not isinstance(value, dict) or value.get("v") != VERSION:
            return Manifest()
        return Manifest(
            plan=str(value["plan"]),
            instance_id=str(value["instance_id"]),
            scripts=tuple(map(str, value["scripts"])),
            users=tuple(map(str, value["users"])),
            entries={
                str(path): Entry(str(entry["sha256"]), str(entry["target"]), entry["before"])
                for path, entry in value["entries"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Manifest()


def claim(root: Root, staging: Staging, old: Manifest, wanted: File | Link) -> Entry:
    """The record of a path about to be written; keeps a copy of a foreign file there. Raises RootedError."""
    if isinstance(wanted, File):
        made = Entry(hashlib.sha256(wanted.content).hexdigest(), "", None)
    else:
        made = Entry("", wanted.target, None)
    if wanted.path in old.entries:
        before = old.entries[wanted.path].before
        # After a crash the record may know of a file that was not kept yet: then it is still there.
        if before is None or "target" in before or root.status(_kept(wanted.path)) is not None:
            return made._replace(before=before)
    found = root.status(wanted.path)
    # /run forgets by itself, and so does what we would keep of it.
    if found is None or wanted.path.startswith("/run/"):
        return made
    if stat.S_ISLNK(found.st_mode):
        return made._replace(before={"target": root.link_target(wanted.path) or ""})
    content = root.read(wanted.path, KEPT_MAX)
    if content is None or len(content) > KEPT_MAX:
        return made
    staging.file(_kept(wanted.path), content, 0o600, *staging.own)
    return made._replace(before={"mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid})


def original(root: Root, old: Manifest, path: str) -> tuple[bytes, int, str] | None:
    """Content, mode and owner (``uid:gid``) of the file that stood at ``path`` before us, None if there was nothing.

    Raises RootedError if it was no file, or a large one.
    """
    before = old.entries[path].before if path in old.entries else {}
    if before is None:
        return None
    if "mode" in before:
        kept = root.read(_kept(path), KEPT_MAX)
        if kept is not None:
            return kept, int(before["mode"]), f"{before['uid']}:{before['gid']}"
    found = root.status(path)
    if found is None and not before:
        return None
    content = None if found is None or "target" in before else root.read(path, KEPT_MAX)
    if found is None or content is None or len(content) > KEPT_MAX:
        raise RootedError(f"nothing can be appended: not a file of at most {KEPT_MAX >> 20} MiB", where=path)
    return content, stat.S_IMODE(found.st_mode), f"{found.st_uid}:{found.st_gid}"


def release(root: Root, staging: Staging, path: str, entry: Entry) -> bool:
    """Stage that ``path`` becomes what it was before us, if it is still as we wrote it.

    False if it is not. Raises RootedError."""
    if not _is(root, path, entry):
        return False
    if entry.before is None:
        staging.removal(path)
    elif "target" in entry.before:
        staging.link(path, str(entry.before["target"]))
    else:
        content = root.read(_kept(path), KEPT_MAX)
        if content is None:
            return False
        before = entry.before
        staging.file(path, content, int(before["mode"]), int(before["uid"]), int(before["gid"]))
        staging.removal(_kept(path))
    return True


def _is(root: Root, path: str, entry: Entry) -> bool:
    if entry.target:
        return root.link_target(path) == entry.target
    content = root.read(path, KEPT_MAX)
    return content is not None and hashlib.sha256(content).hexdigest() == entry.sha256


def _kept(path: str) -> str:
    return f"{FOLDER}/before/{hashlib.sha256(path.encode()).hexdigest()}"

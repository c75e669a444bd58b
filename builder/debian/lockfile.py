"""The lock: which packages, to the byte, an image (or the tools closure) is made of.

JSON with one package per line, sorted by name, so that a diff of two locks reads as a list of upgrades. The file has no
mirror address: ``archive`` is ``debian`` or ``debian-security`` and every path is relative to that archive's root (see
:mod:`builder.debian.mirror`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from terminal import Failure, record

FORMAT_VERSION: Final = 1

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Debian policy 5.6.1: a package's name; 5.6.12: a version. Both become part of file names and command lines.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+:~-]{0,254}")
_WORD = re.compile(r"[a-z0-9][a-z0-9-]*")


class LockFailure(Failure):
    """A lock that cannot be read or is invalid."""


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One ``.deb``: where it is in its archive, and the hash and size (bytes) that it must have."""

    name: str
    version: str
    architecture: str
    archive: str
    suite: str
    path: str
    sha256: str
    size: int
    source: str
    source_version: str


@dataclass(frozen=True, slots=True)
class IndexStamp:
    """One ``Packages`` index that the lock was resolved from; ``date`` is its Release file's, in unix seconds."""

    archive: str
    suite: str
    component: str
    path: str
    sha256: str
    date: int


@dataclass(frozen=True, slots=True)
class Lock:
    """A whole lock.

    ``epoch`` (unix seconds) is the newest date of the indexes: the clock of everything that is built from this lock.
    ``request`` is the fingerprint of the request, so that a definition that changed without ``osbuild lock`` is
    noticed.
    """

    architecture: str
    epoch: int
    request: str
    indexes: tuple[IndexStamp, ...]
    packages: tuple[LockedPackage, ...]

    @classmethod
    def load(cls, path: Path) -> Lock:
        """Read and check the lock at ``path``. Raises :class:`LockFailure`."""
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            raise LockFailure("there is no lock", where=str(path), hint="run 'osbuild lock' to make one") from None
        except (OSError, UnicodeDecodeError) as error:
            raise LockFailure("the lock cannot be read", where=str(path)) from error
        try:
            return cls.parse(text)
        except ValueError as error:
            raise LockFailure(
                f"the lock is broken: {error}",
                where=str(path),
                hint="take the file from version control again ('git checkout'), or run 'osbuild lock' to make a new one",
            ) from None

    @classmethod
    def parse(cls, text: str) -> Lock:
        """The lock in ``text``. Raises ``ValueError`` with the place."""
        data = record.parse(text)
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        if data.get("version") != FORMAT_VERSION:
            raise ValueError(f"format version {data.get('version')!r}, this program knows {FORMAT_VERSION}")
        _expect_keys("the lock", data, ["version", *(field.name for field in fields(cls))])
        lock = cls(
            architecture=_matching("architecture", data["architecture"], _WORD),
            epoch=_count("epoch", data["epoch"]),
            request=_matching("request", data["request"], _SHA256),
            indexes=tuple(_record(IndexStamp, f"indexes[{i}]", item) for i, item in enumerate(_list(data, "indexes"))),
            packages=tuple(
                _record(LockedPackage, f"packages[{i}]", item) for i, item in enumerate(_list(data, "packages"))
            ),
        )
        for package in lock.packages:
            _check_package(package)
        twice = sorted(name for name, times in Counter(each.name for each in lock.packages).items() if times > 1)
        if twice:
            raise ValueError(f"{', '.join(twice)}: locked twice")
        return lock

    def dump(self) -> str:
        """The lock as text, the same for equal locks."""
        head = {
            "version": FORMAT_VERSION,
            "architecture": self.architecture,
            "epoch": self.epoch,
            "request": self.request,
        }
        parts = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        indexes = sorted(self.indexes, key=lambda stamp: (stamp.archive, stamp.path))
        packages = sorted(self.packages, key=lambda package: package.name)
        for key, records in (("indexes", indexes), ("packages", packages)):
            lines = ",\n".join("    " + json.dumps(asdict(record)) for record in records)
            parts.append(f"  {json.dumps(key)}: [\n{lines}\n  ]" if lines else f"  {json.dumps(key)}: []")
        return "{\n" + ",\n".join(parts) + "\n}\n"

    @property
    def id(self) -> str:
        """The sha256 over what determines the bytes of a build: epoch, architecture and packages (not the indexes)."""
        return fingerprint([self.architecture, self.epoch, [asdict(package) for package in self.packages]])

    def package(self, name: str) -> LockedPackage | None:
        """The package called ``name``, or None."""
        return next((package for package in self.packages if package.name == name), None)


def verb(old: str | None, new: str | None) -> str:
    """The change of a package, by its versions (None: it is not there).

    ``added``, ``removed``, ``updated``, or ``replaced`` for other bytes under the same version.
    """
    if old is None:
        return "added"
    if new is None:
        return "removed"
    return "replaced" if old == new else "updated"


@dataclass(frozen=True, slots=True)
class Change:
    """One package that differs between two locks; ``old`` or ``new`` is None when it was added or removed.

    ``security``: a security suite has a newer version than ``old``, whichever suite ``new`` is from, since after a
    point release others list it, too.
    """

    name: str
    old: LockedPackage | None
    new: LockedPackage | None
    security: bool = False

    @property
    def verb(self) -> str:
        """See :func:`verb`."""
        return verb(self.old.version if self.old else None, self.new.version if self.new else None)


def changes(old: Lock | None, new: Lock) -> tuple[Change, ...]:
    """The changes from ``old`` to ``new``, by name.

    A package whose bytes are the same (the suite that lists it may differ, after a point release) is no change.
    """
    before = {package.name: package for package in old.packages} if old is not None else {}
    after = {package.name: package for package in new.packages}
    found = []
    for name in sorted(before.keys() | after.keys()):
        left, right = before.get(name), after.get(name)
        if left is None or right is None or left.sha256 != right.sha256:
            found.append(Change(name, left, right))
    return tuple(found)


def fingerprint(value: object) -> str:
    """The sha256, in hex, of ``value``'s canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_T = TypeVar("_T", IndexStamp, LockedPackage)


def _record(kind: type[_T], where: str, item: object) -> _T:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: not an object")
    _expect_keys(where, item, [field.name for field in fields(kind)])
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = item[field.name]
        if field.type == "int":
            values[field.name] = _count(f"{where}.{field.name}", value)
        elif isinstance(value, str):
            values[field.name] = value
        else:
            raise ValueError(f"{where}.{field.name}: not a string")
    _matching(f"{where}.sha256", item["sha256"], _SHA256)
    _matching(f"{where}.archive", item["archive"], _WORD)
    _relative(f"{where}.path", item["path"])
    return kind(**values)


def _check_package(package: LockedPackage) -> None:
    _matching("name", package.name, _NAME)
    for value in (package.version, package.source_version):
        _matching(f"version of {package.name}", value, _VERSION)


def _expect_keys(where: str, item: Mapping[str, object], keys: Iterable[str]) -> None:
    wanted = set(keys)
    if missing := sorted(wanted - item.keys()):
        raise ValueError(f"{where}: {', '.join(missing)} missing")
    if unknown := sorted(item.keys() - wanted):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}")


def _list(data: Mapping[str, object], key: str) -> list[object]:
    value = data[key]
    if not isinstance(value, list):
        raise ValueError(f"{key}: not a list")
    return value


def _count(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where}: not a number")
    return value


def _matching(where: str, value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{where}: {value!r} is not what is expected there")
    return value


def _relative(where: str, value: str) -> None:
    # The path is joined to a mirror's address, which may be a directory of this machine.
    if value.startswith("/") or any(part in ("", ".", "..") for part in value.split("/")):
        raise ValueError(f"{where}: {value!r} leaves the archive")

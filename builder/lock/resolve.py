"""From a request to a lock: which packages, of which version, at which path and hash.

apt solves it (:mod:`builder.debian.apt`); this module gives apt its assumptions and turns the answer into a
:class:`Lock`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from builder.core.store import write_atomically
from builder.debian.apt import Chosen, Index, PrivateApt, Programs, Suite, compare_versions
from builder.debian.lockfile import Change, IndexStamp, Lock, LockedPackage, changes, fingerprint
from builder.debian.mirror import Mirror, stanzas
from builder.definition.definition import Definition
from terminal import Failure, table


class ResolveFailure(Failure):
    """The request cannot be turned into a lock."""


@dataclass(frozen=True, slots=True)
class Want:
    """A package requested by name; with ``suite``, it must come from that suite."""

    name: str
    suite: str | None = None


@dataclass(frozen=True)
class Request:
    """The requesting part of a definition.

    ``assume`` are names (of packages, or virtual) that are treated as installed already, so that nothing pulls them in:
    packages that only maintainer scripts need, since none ever runs.
    """

    architecture: str
    suites: tuple[Suite, ...]
    packages: tuple[Want, ...]
    assume: tuple[str, ...] = ()

    @classmethod
    def of(cls, definition: Definition) -> Request:
        """The requesting part of ``definition``."""
        return cls(
            definition.architecture,
            tuple(Suite(suite.suite, suite.archive, suite.components, suite.pin_only) for suite in definition.suites),
            tuple(Want(name, suite) for name, suite in definition.wants()),
            definition.assume,
        )

    @property
    def fingerprint(self) -> str:
        """The sha256 in a lock that identifies its request; order matters only for suites."""
        return fingerprint(
            {
                "architecture": self.architecture,
                "suites": [asdict(suite) for suite in self.suites],
                "packages": sorted([want.name, want.suite or ""] for want in self.packages),
                "assume": sorted(set(self.assume)),
            }
        )


def check(lock: Lock, request: Request, *, where: str) -> None:
    """Refuse to build from a ``lock`` that answers another request. Raises :class:`ResolveFailure`."""
    if lock.request != request.fingerprint or lock.architecture != request.architecture:
        raise ResolveFailure(
            "the lock was made for another list of packages",
            where=where,
            hint="the definition changed since: run 'osbuild lock'",
        )


def resolve(
    request: Request,
    *,
    programs: Programs,
    mirror: Mirror,
    state: Path,
    allow_expired: bool = False,
    detail: Callable[[str], None] = lambda _: None,
) -> Lock:
    """Answer ``request`` from ``mirror``, with apt's private state in the directory ``state``.

    Raises :class:`builder.debian.apt.AptFailure` for trouble with the archive (network, signature, unmet dependencies)
    and :class:`ResolveFailure` for a request that contradicts itself.
    """
    apt, catalogue = _prepare(
        request, programs=programs, mirror=mirror, state=state, allow_expired=allow_expired, detail=detail
    )
    return _resolve(request, apt, catalogue, detail)


def waiting(
    request: Request,
    old: Lock,
    *,
    programs: Programs,
    mirror: Mirror,
    state: Path,
    detail: Callable[[str], None] = lambda _: None,
) -> tuple[Change, ...]:
    """The security updates that ``osbuild lock`` would bring into the lock ``old``, which answers ``request``, by name.

    Raises as :func:`resolve`.
    """
    apt, catalogue = _prepare(
        request, programs=programs, mirror=mirror, state=state, allow_expired=False, detail=detail
    )
    new = _resolve(request, apt, catalogue, detail)
    return tuple(change for change in catalogue.judged(changes(old, new)) if change.security)


def _resolve(request: Request, apt: PrivateApt, catalogue: Catalogue, detail: Callable[[str], None]) -> Lock:
    """The newest lock that answers ``request``."""
    detail("solving dependencies")
    chosen = apt.resolve(
        [want.name for want in request.packages], catalogue.assumed(request.assume, request.architecture)
    )
    packages = tuple(catalogue.locked(package) for package in sorted(chosen, key=lambda package: package.name))
    return Lock(request.architecture, catalogue.epoch, request.fingerprint, catalogue.stamps, packages)


def _upgrade(
    request: Request,
    old: Lock,
    names: Iterable[str],
    control: Callable[[LockedPackage], str],
    apt: PrivateApt,
    catalogue: Catalogue,
    detail: Callable[[str], None],
) -> Lock:
    """The lock ``old`` with the newest ``names`` and what these need; every other package stays at its version.

    Packages of ``request`` that ``old`` lacks are added, and packages that nothing needs any more are removed.
    ``control`` returns the control paragraph of a locked package that the indexes no longer have.
    """
    wanted = {want.name for want in request.packages}
    locked = {package.name: package for package in old.packages}
    chosen = set(names)
    if unknown := sorted(chosen - locked.keys() - wanted):
        raise ResolveFailure(
            f"{', '.join(unknown)}: not in the lock",
            hint="name a package that is locked, or add it to the definition's packages",
        )
    detail("solving dependencies")
    installed = [
        _installed(catalogue.stanza(each) or control(each)) for each in old.packages if each.name not in request.assume
    ]
    status = "\n".join([*installed, catalogue.assumed(request.assume, request.architecture)])
    automatic = [(each.name, request.architecture) for each in old.packages if each.name not in wanted]
    if old.request != request.fingerprint:
        # The definition changed since: a package may now be requested from another suite.
        chosen |= {want.name for want in request.packages if want.suite is not None}
    done = apt.upgrade([*chosen, *(wanted - locked.keys())], status, automatic)
    gone = done.removed | set(request.assume)
    if lost := sorted(done.removed & wanted):
        raise ResolveFailure(
            f"this would remove packages of the definition: {', '.join(lost)}",
            hint="upgrade these as well, or everything: 'osbuild lock'",
        )
    after = {name: package for name, package in locked.items() if name not in gone}
    after |= {package.name: catalogue.locked(package) for package in done.installed}
    packages = tuple(after[name] for name in sorted(after))
    return Lock(request.architecture, max(old.epoch, catalogue.epoch), request.fingerprint, catalogue.stamps, packages)


def _prepare(
    request: Request,
    *,
    programs: Programs,
    mirror: Mirror,
    state: Path,
    allow_expired: bool,
    detail: Callable[[str], None],
) -> tuple[PrivateApt, Catalogue]:
    """apt with the newest indexes for ``request``, and their contents."""
    _check_request(request)
    pins = {want.name: want.suite for want in request.packages if want.suite is not None}
    apt = PrivateApt(
        state,
        programs,
        mirror,
        request.suites,
        request.architecture,
        pins,
        request.assume,
        allow_expired=allow_expired,
    )
    detail("fetching and verifying indexes")
    apt.update()
    return apt, Catalogue(apt.indexes())


class Catalogue:
    """All packages of some indexes, by name."""

    def __init__(self, indexes: Sequence[Index]) -> None:
        self._indexes = tuple(indexes)
        self._found: dict[str, list[tuple[Index, str]]] = {}
        for index in indexes:
            for name, stanza in index.names():
                self._found.setdefault(name, []).append((index, stanza))

    @property
    def epoch(self) -> int:
        """The newest date of the indexes, unix seconds."""
        return max((index.date for index in self._indexes), default=0)

    @property
    def stamps(self) -> tuple[IndexStamp, ...]:
        """The lock's entry for each index."""
        return tuple(
            IndexStamp(index.suite.archive, index.suite.name, index.component, index.path, index.sha256, index.date)
            for index in self._indexes
        )

    def candidate(self, name: str) -> Mapping[str, str] | None:
        """The fields of the newest version of ``name`` in the suites that are not pinned, or None."""
        stanzas_of = [_fields(stanza) for index, stanza in self._found.get(name, ()) if not index.suite.pinned]
        newest = functools.cmp_to_key(compare_versions)
        return max(stanzas_of, key=lambda fields: newest(fields["version"]), default=None)

    def assumed(self, names: Iterable[str], architecture: str) -> str:
        """A dpkg status file in which ``names`` are installed, in their newest versions and with all that they provide.

        Raises :class:`ResolveFailure` for a name that no suite has, neither as a package nor as a virtual one.
        """
        blocks: list[str] = []
        virtual: list[str] = []
        for name in sorted(set(names)):
            fields = self.candidate(name)
            if fields is None:
                virtual.append(self._checked_virtual(name))
                continue
            block = {
                "Package": name,
                "Version": fields["version"],
                "Architecture": fields["architecture"],
                "Multi-Arch": fields.get("multi-arch", ""),
                "Provides": fields.get("provides", ""),
            }
            blocks.append(_status(block))
        if virtual:
            blocks.append(
                _status(
                    {
                        "Package": "assumed-virtual-packages",
                        "Version": "0",
                        "Architecture": architecture,
                        "Provides": ", ".join(virtual),
                    }
                )
            )
        return "\n".join(blocks)

    def stanza(self, package: LockedPackage) -> str | None:
        """The stanza of this very package, or None if the archive has moved on."""
        for index, stanza in self._found.get(package.name, ()):
            if index.suite.archive == package.archive and _fields(stanza).get("sha256") == package.sha256:
                return stanza
        return None

    def locked(self, chosen: Chosen) -> LockedPackage:
        """Path and hash of ``chosen``, from the first suite that has this version."""
        for index, stanza in self._found.get(chosen.name, ()):
            fields = _fields(stanza)
            if (fields["version"], fields["architecture"]) != (chosen.version, chosen.architecture):
                continue
            if missing := sorted({"filename", "sha256", "size"} - fields.keys()):
                raise ResolveFailure(
                    f"'{chosen.name}' has no {', '.join(missing)} in its index",
                    where=f"{index.suite.archive}/{index.path}",
                )
            source, source_version = _source(fields)
            return LockedPackage(
                name=chosen.name,
                version=chosen.version,
                architecture=chosen.architecture,
                archive=index.suite.archive,
                suite=index.suite.name,
                path=fields["filename"],
                sha256=fields["sha256"],
                size=int(fields["size"]),
                source=source,
                source_version=source_version,
            )
        raise ResolveFailure(f"apt chose {chosen.name} {chosen.version} ({chosen.architecture}), which no index has")

    def judged(self, found: Iterable[Change]) -> tuple[Change, ...]:
        """The changes ``found``, each with whether it is a security update."""
        return tuple(replace(change, security=self._is_urgent(change)) for change in found)

    def _is_urgent(self, change: Change) -> bool:
        if change.new is None:
            return False
        versions = [
            _fields(stanza)["version"] for index, stanza in self._found.get(change.name, ()) if index.suite.is_security
        ]
        if change.old is None:
            # An added package may replace a removed one: a kernel package is named after its version.
            return change.new.version in versions
        return any(compare_versions(version, change.old.version) > 0 for version in versions)

    def _checked_virtual(self, name: str) -> str:
        provided = re.compile(rf"^Provides:.*[ ,]{re.escape(name)}(?=[ ,]|$)", re.MULTILINE)
        if not any(provided.search(index.text) for index in self._indexes):
            raise ResolveFailure(
                f"'{name}' is to be assumed, but no suite knows it",
                hint="correct the name under 'assume', or take it out",
            )
        return name


def describe(found: Sequence[Change]) -> str:
    """The changes as text, one per line: verb, name, versions, size in kilobytes, suite; empty if there are none."""
    rows = []
    for change in found:
        old = change.old.version if change.old else ""
        new = change.new.version if change.new else ""
        newest = change.new or change.old
        size = f"{math.ceil(newest.size / 1e3)} kB" if newest else ""
        rows.append(
            [
                change.verb,
                change.name,
                f"{old} -> {new}" if old and new else old or new,
                size,
                newest.suite if newest else "",
            ]
        )
    return table(rows)


def lock_command(
    request: Request,
    path: Path,
    *,
    programs: Programs,
    mirror: Mirror,
    state: Path,
    check_only: bool = False,
    allow_expired: bool = False,
    detail: Callable[[str], None] = lambda _: None,
    review: Callable[[Lock | None, Lock], None] = lambda _old, _new: None,
    only: Sequence[str] = (),
    control: Callable[[LockedPackage], str] = lambda _: "",
) -> tuple[Change, ...]:
    """``osbuild lock`` for one file: resolve ``request``, write the new lock at ``path`` unless ``check_only``.

    ``review`` receives the old and the new lock before anything is written, and raises to prevent it. With names in
    ``only`` it upgrades these alone, which needs an existing lock, and ``control``, which returns the control paragraph
    of a locked package that the indexes no longer have. Returns the changes to the lock at ``path``; a missing or
    broken lock counts as empty, since it is about to be replaced. Raises as :func:`resolve`.
    """
    old = Lock.load(path) if only else _loaded(path)
    apt, catalogue = _prepare(
        request, programs=programs, mirror=mirror, state=state, allow_expired=allow_expired, detail=detail
    )
    if old is not None and only:
        new = _upgrade(request, old, only, control, apt, catalogue, detail)
    else:
        new = _resolve(request, apt, catalogue, detail)
    if not check_only:
        review(old, new)
        write_atomically(path, new.dump())
    return catalogue.judged(changes(old, new))


def _loaded(path: Path) -> Lock | None:
    try:
        return Lock.load(path)
    except Failure:
        return None


def _check_request(request: Request) -> None:
    known = {suite.name for suite in request.suites}
    for want in request.packages:
        if want.suite is not None and want.suite not in known:
            raise ResolveFailure(
                f"'{want.name}' is requested from the suite '{want.suite}', which is not among the suites",
                hint=f"add it under 'suites', or use one of {', '.join(sorted(known))}",
            )
    if both := sorted({want.name for want in request.packages} & set(request.assume)):
        raise ResolveFailure(
            f"{', '.join(both)}: both requested and assumed to be there",
            hint="keep the name under 'packages' or under 'assume'",
        )


def _fields(stanza: str) -> dict[str, str]:
    return next(stanzas(stanza), {})


def _status(fields: Mapping[str, str]) -> str:
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    lines.insert(1, "Status: install ok installed")
    return "\n".join([*lines, "Maintainer: none", "Description: assumed to be there", ""])


def _installed(paragraph: str) -> str:
    """A control paragraph in the form of dpkg's status file."""
    first, _, rest = paragraph.strip().partition("\n")
    return f"{first}\nStatus: install ok installed\n{rest}\n"


def _source(fields: Mapping[str, str]) -> tuple[str, str]:
    # "Source: glibc" or "Source: glibc (2.41-12)"; absent when both are the package's own.
    match = re.fullmatch(r"(\S+)(?: \((\S+)\))?", fields.get("source", fields["package"]))
    if match is None:
        return fields["package"], fields["version"]
    return match[1], match[2] or fields["version"]

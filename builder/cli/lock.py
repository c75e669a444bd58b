"""``osbuild lock`` and ``osbuild scripts``: new versions in a lock, and the review of their maintainer scripts."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from builder.cli.verb import Verb, add_common, add_mirror
from builder.core import architecture, data
from builder.core.store import Store, write_atomically
from builder.debian import apt, deb, mirror, packages
from builder.debian.downloads import FetchFailure
from builder.debian.lockfile import Change, Lock, LockedPackage, fingerprint
from builder.debian.mirror import Mirror
from builder.debian.tools import Tools
from builder.definition import definition
from builder.definition.definition import Definition
from builder.lock import resolve, scripts
from builder.lock.scripts import Finding, Review, ReviewFailure, Script
from builder.pipeline import cache
from terminal import Failure, Phases, UsageFailure, table

EXAMPLES: Final = {
    "lock": """
  osbuild lock                           take the archive's newest versions into image/node.lock
  osbuild lock --check                   would that change anything? 1 if it would
  osbuild lock --upgrade docker.io       only this package, and what its new version needs
  osbuild lock image/tools.yaml          the same for the tools that builds run""",
    "scripts": """
  osbuild scripts                        the maintainer scripts of our locks, and what does their work
  osbuild scripts --show openssh-server  read one package's
  osbuild scripts --accept openssh-server --covered presets --reason "host keys are made on the node"
                                         after reading: 'osbuild lock' takes it from now on""",
}

_SHOWN_MAX: Final = 12
"""Number of findings that a refusal shows in full; it names the others."""


def add_verbs(verb: Verb) -> None:
    """Add the parsers of ``lock`` and ``scripts``."""
    locking = verb("lock", "resolve a definition's packages again and write its lock")
    _add_lock_arguments(locking)
    reviewing = verb(
        "scripts", "list the maintainer scripts of locked packages with their review, or accept what you have read"
    )
    _add_scripts_arguments(reviewing)
    locking.set_defaults(run=lock)
    reviewing.set_defaults(run=review)
    for each in (locking, reviewing):
        add_mirror(each)
        add_common(each)


def _add_lock_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``osbuild lock``, except those that all verbs have."""
    parser.add_argument(
        "definition", type=Path, nargs="?", metavar="DEFINITION", help="default: image/node.yaml; its lock is beside it"
    )
    parser.add_argument("--arch", choices=architecture.NAMES, help="lock for this one (default: the definition's)")
    parser.add_argument(
        "--upgrade",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="only this one (may be given again), and what its new version needs; all else stays as it is locked",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the lock would change")
    parser.add_argument("--allow-expired", action="store_true", help="accept an archive that has expired (a snapshot)")
    # For one case, whose failure message names it: the mirror has dropped a package of image/tools.lock.
    parser.add_argument("--host-apt", action="store_true", help=argparse.SUPPRESS)


def _add_scripts_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``osbuild scripts``, except those that all verbs have."""
    parser.add_argument("--definition", type=Path, metavar="FILE", help="default: image/node.yaml")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", metavar="PACKAGE", help="print this package's scripts")
    what.add_argument(
        "--accept", metavar="PACKAGE", nargs="+", default=[], help="write that these packages' scripts have been read"
    )
    parser.add_argument("--reason", default="", help="what you found in them, and why it need not be done")
    parser.add_argument(
        "--covered", metavar="STEP", action="append", default=[], help="a finishing step that does their work"
    )


def lock(arguments: argparse.Namespace) -> int:
    """``osbuild lock``; returns the exit code."""
    path = arguments.definition or data.image() / "node.yaml"
    what = definition.load(path, arguments.arch)
    lock_path = architecture.lock_path(path, what.architecture)
    if not os.access(lock_path.parent, os.W_OK):
        raise Failure(
            "the lock's folder is not yours to write",
            where=str(lock_path.parent),
            hint="copy the definition to a folder of your own and name it: osbuild lock FILE",
        )
    store, phases, source = (
        Store(arguments.store),
        Phases(quiet=arguments.quiet),
        mirror.find(arguments.mirror, arguments.snapshot),
    )

    def review(old: Lock | None, new: Lock) -> None:
        if _has_scripts(what):
            with phases.phase("reading maintainer scripts"):
                _review(path, lock_path, old, new, store, source, phases.detail)

    with cache.in_use(store), store.scratch() as state:
        programs = apt.host_programs() if arguments.host_apt else _closure_apt(store, source, phases)
        with phases.phase(f"resolving {len(what.packages)} packages"):
            found = resolve.lock_command(
                resolve.Request.of(what),
                lock_path,
                programs=programs,
                mirror=source,
                state=state,
                check_only=arguments.check,
                allow_expired=arguments.allow_expired,
                detail=phases.detail,
                review=review,
                only=arguments.upgrade,
                control=lambda package: _control(package, store, source, phases.detail),
            )
    if arguments.json:
        print(json.dumps([_fields(change) for change in found]))
    elif found:
        print(resolve.describe(found))
        if arguments.check:
            urgent = sum(change.security for change in found)
            print(f"{lock_path}: {len(found)} changes wait, {urgent} of them from a security suite")
    else:
        print(f"{lock_path}: nothing changed")
    return 1 if arguments.check and found else 0


def _fields(change: Change) -> dict[str, object]:
    newest = change.new or change.old
    return {
        "name": change.name,
        "change": change.verb,
        "old": change.old.version if change.old else None,
        "new": change.new.version if change.new else None,
        "bytes": newest.size if newest else 0,
        "suite": newest.suite if newest else None,
        "security": change.security,
    }


def _control(package: LockedPackage, store: Store, source: Mirror, detail: Callable[[str], None]) -> str:
    """The control paragraph of a package that the indexes no longer list: from the store, else from the mirror."""
    one = Lock(package.architecture, 0, "", (), (package,))
    (found,) = packages.obtain(one, store, lambda: source, detail)
    return found.control


def _closure_apt(store: Store, source: Mirror, phases: Phases) -> apt.Programs:
    try:
        with phases.phase("tools"):
            return Tools.ours(store, lambda: source, detail=phases.detail).apt()
    except FetchFailure as failure:
        # Its own hint, 'osbuild lock', is already running.
        failure.hint = (
            "if the mirror has dropped it: on a Debian host 'osbuild lock --host-apt image/tools.yaml' takes the newest tools, with "
            "the host's own apt; or name a mirror that keeps old versions with --snapshot URL"
        )
        raise


# --- maintainer scripts ----------------------------------------------------------------------------------------------


def reviews_path(path: Path) -> Path:
    """The review of the definition at ``path``: ours for our definitions, else ``scripts.json`` beside it."""
    ours = data.image()
    folder = ours if path.absolute().is_relative_to(ours.absolute()) else path.parent
    return folder / "scripts.json"


def _reviews(path: Path) -> tuple[Review, ...]:
    """The reviews for a definition: ours and its own."""
    files = dict.fromkeys((data.image() / "scripts.json", reviews_path(path)))
    return tuple(review for file in files for review in scripts.load(file))


def _has_scripts(what: Definition) -> bool:
    # The tools closure is unpacked and run where it lies; nothing of it is ever installed.
    return what.kernel is not None or what.container is not None


def _read(lock: Lock, store: Store, source: Callable[[], Mirror], detail: Callable[[str], None]) -> list[Script]:
    found = packages.obtain(lock, store, source, detail)
    return [scripts.canonical(each.name, name, text) for each in found for name, text in each.scripts.items()]


def _refused(lock_path: Path, store: Store) -> Path:
    """Where the refused replacement of the lock at ``lock_path`` waits for ``osbuild scripts --accept``."""
    return store.path("refused", f"{fingerprint(str(lock_path.absolute()))}.lock")


def _review(
    path: Path,
    lock_path: Path,
    old: Lock | None,
    new: Lock,
    store: Store,
    source: Mirror,
    detail: Callable[[str], None],
) -> None:
    """Raise :class:`ReviewFailure` if ``new`` has unreviewed scripts, with their differences from ``old``'s."""
    found = scripts.check(_read(new, store, lambda: source, detail), _reviews(path))
    open_ = [finding for finding in found if finding.now is not None]
    waiting = _refused(lock_path, store)
    if not open_:
        waiting.unlink(missing_ok=True)
        return
    waiting.parent.mkdir(exist_ok=True)
    write_atomically(waiting, new.dump())
    raise _refusal(path, open_, _locked_scripts(old, store))


def _refusal(path: Path, open_: Sequence[Finding], before: dict[tuple[str, str], Script]) -> ReviewFailure:
    shown = [scripts.show(each, before.get((each.package, each.script))) for each in open_[:_SHOWN_MAX]]
    rest = [f"{each.package}: {each.script} is {each.kind}" for each in open_[_SHOWN_MAX:]]
    names = list(dict.fromkeys(each.package for each in open_))
    where = "" if path == data.image() / "node.yaml" else f" --definition {path}"
    return ReviewFailure(
        "\n  ".join(
            [
                f"{len(open_)} maintainer scripts are not reviewed, and the lock was left as it is:",
                *("\n".join([*shown, *rest]).splitlines()),
            ]
        ),
        where=str(reviews_path(path)),
        hint="none of them will run: see what a finishing step does and what may be left undone, then "
        f"'osbuild scripts{where} --accept {' '.join(names)} --reason TEXT' (or --covered STEP), and lock again",
    )


def _locked_scripts(old: Lock | None, store: Store) -> dict[tuple[str, str], Script]:
    """The scripts of those packages of ``old`` that the store still has unpacked."""
    found = {}
    for package in old.packages if old is not None else ():
        if deb.is_unpacked(package.sha256, store):
            for name, text in deb.load(deb.folder(package.sha256, store)).scripts.items():
                script = scripts.canonical(package.name, name, text)
                found[script.package, script.name] = script
    return found


def review(arguments: argparse.Namespace) -> int:
    """``osbuild scripts``; returns the exit code: 1 if a script is not reviewed."""
    path = arguments.definition or data.image() / "node.yaml"
    store, phases = Store(arguments.store), Phases(quiet=arguments.quiet)
    with cache.in_use(store), phases.phase("reading maintainer scripts"):
        present = [
            script
            for lock in _locks(path, store)
            for script in _read(lock, store, lambda: mirror.find(arguments.mirror, arguments.snapshot), phases.detail)
        ]
    if arguments.accept:
        return _accept(arguments, path, present)
    if arguments.show is not None:
        return _show(arguments.show, present, as_json=arguments.json)
    return _list(present, path, as_json=arguments.json)


def _locks(path: Path, store: Store) -> Iterator[Lock]:
    """The locks that share the review of the definition at ``path``; a refused replacement instead of its lock."""
    folder = reviews_path(path).parent
    beside = folder.rglob("*.lock") if folder == data.image() else folder.glob("*.lock")
    owners = {architecture.definition_path(each) for each in beside}
    refused = {
        (path, name) for name in architecture.NAMES if _refused(architecture.lock_path(path, name), store).exists()
    }
    if not any(owner == path for owner, _ in owners | refused):
        refused.add((path, definition.load(path).architecture))
    for each, name in sorted(owners | refused):
        if each != path and not each.exists():
            continue
        what = definition.load(each, name)
        if _has_scripts(what):
            lock_path = architecture.lock_path(each, name)
            yield _waiting(lock_path, what, store) or Lock.load(lock_path)


def _waiting(lock_path: Path, what: Definition, store: Store) -> Lock | None:
    """The refused replacement of the lock at ``lock_path``, unless the definition's request has changed since."""
    file = _refused(lock_path, store)
    lock = Lock.load(file) if file.exists() else None
    return lock if lock is not None and lock.request == resolve.Request.of(what).fingerprint else None


def _accept(arguments: argparse.Namespace, path: Path, present: Iterable[Script]) -> int:
    file = reviews_path(path)
    try:
        scripts.check_steps(arguments.covered, "--covered")
    except ValueError as error:
        raise UsageFailure(str(error)) from None
    present = tuple(present)
    own = scripts.load(file)
    known = {script.package for script in present} | {review.package for review in own}
    if unknown := sorted(set(arguments.accept) - known):
        raise Failure(
            f"{', '.join(unknown)}: no such package has a maintainer script",
            where=str(path),
            hint="'osbuild scripts' lists those that have",
        )
    open_ = [each for each in scripts.check(present, _reviews(path)) if each.now is not None]
    wanted = [each for each in open_ if each.package in arguments.accept]
    if wanted and not arguments.reason.strip() and not arguments.covered:
        raise UsageFailure(
            "say what you found in the scripts",
            hint='--reason "what it does, and why that is not needed", or --covered STEP',
        )
    # An entry of our review need not be repeated beside another project's definition.
    elsewhere = {(each.package, each.script, each.sha256) for each in _reviews(path)} - {
        (each.package, each.script, each.sha256) for each in own
    }
    mine = [each for each in present if (each.package, each.name, each.sha256) not in elsewhere]
    after = scripts.accept(own, mine, arguments.accept, covered=arguments.covered, reviewed=arguments.reason.strip())
    if not os.access(file.parent, os.W_OK):
        raise Failure(
            "the review's folder is not yours to write",
            where=str(file.parent),
            hint="copy the definition to a folder of your own and name it: osbuild scripts --definition FILE ...",
        )
    write_atomically(file, scripts.dump(after))
    added, removed = sorted(set(after) - set(own)), sorted(set(own) - set(after))
    if arguments.json:
        print(json.dumps({"added": [_named(each) for each in added], "removed": [_named(each) for each in removed]}))
    else:
        for verb, entries in (("accepted", added), ("dropped", removed)):
            for each in entries:
                print(f"{verb} {each.package} {each.script}")
    return 0


def _named(review: Review) -> dict[str, str]:
    return {"package": review.package, "script": review.script, "sha256": review.sha256}


def _show(package: str, present: Iterable[Script], *, as_json: bool) -> int:
    found = sorted({script for script in present if script.package == package})
    if not found:
        raise Failure(
            f"no locked package of that name has a maintainer script: {package}",
            hint="'osbuild scripts' lists those that have",
        )
    if as_json:
        print(json.dumps([{"package": each.package, "script": each.name, "text": each.text} for each in found]))
    else:
        print("\n".join(f"--- {each.package} {each.name}\n{each.text.rstrip()}" for each in found))
    return 0


def _list(present: Iterable[Script], path: Path, *, as_json: bool) -> int:
    present, reviews = sorted(set(present)), _reviews(path)
    own = {(each.package, each.script) for each in scripts.load(reviews_path(path))}
    said = {(each.package, each.script, each.sha256): each for each in reviews}
    found = scripts.check(present, reviews)
    kinds = {(each.package, each.script): each.kind for each in found}
    rows: list[dict[str, object]] = []
    for script in present:
        entry = said.get((script.package, script.name, script.sha256))
        state = "reviewed" if entry else kinds[script.package, script.name]
        covered, reason = (list(entry.covered), entry.reviewed) if entry else ([], "")
        rows.append(
            {"package": script.package, "script": script.name, "state": state, "covered": covered, "reviewed": reason}
        )
    rows += [
        {"package": each.package, "script": each.script, "state": "stale", "covered": [], "reviewed": ""}
        for each in found
        if each.kind == "stale" and (each.package, each.script) in own
    ]
    if as_json:
        print(json.dumps(rows))
    else:
        print(table([_row(row) for row in rows], ["package", "script", "state", "covered by", "reason"]))
    return 1 if any(each.now is not None for each in found) else 0


def _row(row: dict[str, object]) -> list[str]:
    covered = row["covered"]
    steps = ", ".join(covered) if isinstance(covered, list) else ""
    return [str(row["package"]), str(row["script"]), str(row["state"]), steps, str(row["reviewed"])]

"""The same packages the conventional way, with mmdebstrap: dpkg unpacks them, their maintainer scripts configure them.

No build uses this. It is the reference for our tree (:mod:`builder.check.debian_tree`) and our build time
(bench/build.py). mmdebstrap is a program of the host, and takes the locked files from a folder: no mirror, no other
version.
"""

from __future__ import annotations

import json
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Final

from builder.check import tree_difference
from builder.check.tree_difference import Facts
from builder.core.store import Store, identify
from builder.debian.deb import Package
from builder.debian.fetch import fetch
from builder.debian.lockfile import Lock, LockedPackage
from builder.debian.mirror import Mirror
from builder.debian.packages import obtain
from terminal import Failure, record
from terminal.subprocesses import run_to_the_end

VERSION: Final = 1
"""Version of the way a tree is made and read; part of the id under which the store keeps it."""

# systemd-tmpfiles needs /proc, which cannot be mounted in the containers of many CI systems or under fakechroot, and
# etcd-server's script fails if it fails. So it is diverted (as by dpkg-divert) while the scripts run, and runs once at
# the end, from outside. A hook of the kernel's package is diverted to where no kernel's script looks, since it makes an
# initrd: we have our own, and theirs takes a while. (An excluded path would have each package pass a filter in Python.)
_DIVERT: Final = r"""
cd "$1"
mv usr/bin/systemd-tmpfiles usr/bin/systemd-tmpfiles.late
ln -s true usr/bin/systemd-tmpfiles
rm -f etc/kernel/postinst.d/initramfs-tools
printf '%s\n' /usr/bin/systemd-tmpfiles /usr/bin/systemd-tmpfiles.late : \
    /etc/kernel/postinst.d/initramfs-tools /etc/kernel/initramfs-tools.unused : >var/lib/dpkg/diversions
"""

# It is the tree's own program with the tree's own libraries, whatever the host has. It exits with 65 or 73 when single
# lines of its configuration failed (systemd-tmpfiles(8)), such as those for devices.
_LATE: Final = r"""
cd "$1"
mv usr/bin/systemd-tmpfiles.late usr/bin/systemd-tmpfiles
rm -f etc/kernel/initramfs-tools.unused
: >var/lib/dpkg/diversions
libraries=$(echo "$1"/usr/lib/*-linux-gnu)
usr/lib64/ld-linux-x86-64.so.2 --library-path "$libraries:$libraries/systemd" usr/bin/systemd-tmpfiles --root="$1" --create ||
    [ $? -eq 65 ] || [ $? -eq 73 ]
"""

COMPARABLE: Final = (
    f"--extract-hook=set -e;{_DIVERT}",
    f"--customize-hook=set -e;{_LATE}",
)
"""Options for a tree that is made to be compared, the same under every kind of privilege."""

_XATTR: Final = "SCHILY.xattr."
_CAPABILITY: Final = "security.capability"
_KINDS: Final = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.LNKTYPE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}


def together(node: Lock, comparison: Lock) -> Lock:
    """``node`` and what only ``comparison`` has: dpkg, and what maintainer scripts call (image/comparison.yaml)."""
    have = {package.name for package in node.packages}
    more = (package for package in comparison.packages if package.name not in have)
    return replace(node, packages=tuple(sorted((*node.packages, *more), key=lambda package: package.name)))


def tree(lock: Lock, store: Store, mirror: Callable[[], Mirror]) -> dict[str, Facts]:
    """The tree that mmdebstrap makes of ``lock``; kept in ``store``, since it takes a minute or two.

    Raises :class:`Failure` if packages cannot be fetched, or mmdebstrap is missing or fails.
    """
    key = identify("conventional", VERSION, [lock.id, list(COMPARABLE)])
    kept = store.path("steps", key) / "facts.json"
    if not kept.exists():
        # Not in the store, which may lie in a folder closed to others: without root, mmdebstrap works as another user.
        with store.making("steps", key) as work, tempfile.TemporaryDirectory(prefix="conventional-") as scratch:
            (work / "facts.json").write_text(json.dumps(_made(lock, store, mirror, Path(scratch))))
    return {path: Facts(**facts) for path, facts in record.parse(kept.read_text()).items()}


def _made(lock: Lock, store: Store, mirror: Callable[[], Mirror], scratch: Path) -> dict[str, object]:
    scratch.chmod(0o755)
    archive, target = scratch / "archive", scratch / "tree.tar"
    write_archive(archive, lock.packages, fetch(lock.packages, store, mirror), obtain(lock, store, mirror))
    run(command(archive, lock.packages, target, *COMPARABLE))
    with target.open("rb") as file:
        return {path: asdict(facts) for path, facts in read_tar(file).items()}


def write_archive(
    folder: Path, locked: Sequence[LockedPackage], files: Mapping[str, Path], unpacked: Iterable[Package]
) -> None:
    """A flat archive (sources.list(5)) in the new ``folder``: ``files`` of the packages by name, and their index.

    Copies, not links: without root, mmdebstrap reads them as another user who cannot enter a home folder; and nothing
    can reach the store.
    """
    folder.mkdir()
    folder.chmod(0o755)
    controls = {package.name: package.control for package in unpacked}
    stanzas = []
    for package in locked:
        name = f"{package.name}_{package.version.replace(':', '%3a')}_{package.architecture}.deb"
        shutil.copyfile(files[package.name], folder / name)
        (folder / name).chmod(0o644)
        place = f"Filename: ./{name}\nSize: {package.size}\nSHA256: {package.sha256}\n"
        stanzas.append(f"{controls[package.name].rstrip()}\n{place}")
    (folder / "Packages").write_text("\n".join(stanzas), "utf-8", "surrogateescape")


def command(archive: Path, locked: Iterable[LockedPackage], target: Path, *options: str) -> list[str]:
    """The call of mmdebstrap that installs exactly ``locked`` from ``archive`` into ``target`` (a folder or ``.tar``).

    With mode auto mmdebstrap chooses: root needs only chroot; others a user namespace, or else fakechroot. Variant
    custom is the fastest one that runs maintainer scripts.
    """
    names = ",".join(package.name for package in locked)
    return [
        *(
            "mmdebstrap",
            "--mode=auto",
            "--variant=custom",
            "--quiet",
            "--dpkgopt=force-unsafe-io",
            f"--include={names}",
        ),
        # The suite names nothing here: this archive has none.
        *(*options, "trixie", str(target), f"deb [trusted=yes] copy:{archive} ./"),
    ]


def run(words: Sequence[str]) -> None:
    """Run mmdebstrap. Raises :class:`Failure` with the end of its output."""
    try:
        done = run_to_the_end(words, LC_ALL="C.UTF-8")
    except FileNotFoundError:
        raise Failure(
            "mmdebstrap is not installed", hint="./scripts/setup --tests, or: apt-get install mmdebstrap"
        ) from None
    if done.returncode != 0:
        # apt repeats its whole command line.
        words_of_it = [line[:200] for line in (done.stdout + done.stderr).splitlines()]
        raise Failure(
            "\n".join([f"mmdebstrap ended with code {done.returncode}:", *words_of_it[-40:]]),
            hint="if versions do not fit each other: 'osbuild lock image/comparison.yaml'",
        )


def read_tar(file: IO[bytes]) -> dict[str, Facts]:
    """The tree in an open tar, with accounts named by its own /etc/passwd and /etc/group.

    Format: pax with numeric owners and SCHILY.xattr, as GNU tar writes it.

    Of the extended attributes only capabilities count: whether there are access lists and labels depends on the file
    system of TMPDIR. Raises :class:`Failure` if the tar is damaged, has members of an unknown kind, or no account
    database.
    """
    try:
        with tarfile.open(fileobj=file, mode="r|", encoding="utf-8") as archive:
            rows = list(_rows(archive))
    except tarfile.TarError as error:
        raise Failure(f"the tar of the other tree is damaged: {error}", hint="run the comparison again") from error
    found = {path: facts for path, facts, _ in rows}
    if not {"etc/passwd", "etc/group"} <= found.keys():
        raise Failure("the other tree has no /etc/passwd or no /etc/group", hint="did mmdebstrap install base-passwd?")
    users, groups = (tree_difference.names(found[path].content) for path in ("etc/passwd", "etc/group"))
    return {
        path: replace(facts, owner=f"{users.get(uid, uid)}:{groups.get(gid, gid)}") for path, facts, (uid, gid) in rows
    }


def _rows(archive: tarfile.TarFile) -> Iterator[tuple[str, Facts, tuple[int, int]]]:
    contents: dict[str, str] = {}
    for member in archive:
        path = member.name.removeprefix("./").rstrip("/")
        if path in ("", "."):
            continue
        kind = _KINDS.get(member.type)
        if kind is None:
            raise Failure(f"a member of type {member.type!r} in the other tree", where=f"/{path}")
        target = ""
        if kind == "symlink":
            target = member.linkname
        elif kind in ("char", "block"):
            target = f"{member.devmajor}:{member.devminor}"
        elif member.islnk():
            try:
                contents[path] = contents[member.linkname.removeprefix("./")]
            except KeyError:
                raise Failure("a hard link leads nowhere in the other tree", where=f"/{path}") from None
        elif opened := archive.extractfile(member):
            contents[path] = tree_difference.content(path, opened.read())
        capability = member.pax_headers.get(_XATTR + _CAPABILITY, "").encode("utf-8", "surrogateescape").hex()
        mode = stat.S_IMODE(member.mode)
        yield path, Facts(kind, mode, "", target, contents.get(path, ""), capability), (member.uid, member.gid)

"""Modes and owners that maintainer scripts set on files of their package.

Replaces the work of: dbus (dpkg-statoverride of the launch helper), openssh-client (ssh-agent), sudo (sudoers), passwd
and libpam-modules-bin (group shadow), libpam-modules (opasswd), base-files (login records), systemd (tmpfiles of the
journal and of credentials).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from builder.core.tree import Kind, Patch, Tree
from terminal import Failure


@dataclass(frozen=True, slots=True)
class Override:
    """The attributes to set; ``owner`` and ``group`` are names."""

    path: str
    owner: str
    group: str
    mode: int


OVERRIDES: Final = (
    Override("usr/lib/dbus-1.0/dbus-daemon-launch-helper", "root", "messagebus", 0o4754),
    Override("usr/bin/ssh-agent", "root", "_ssh", 0o2755),
    Override("usr/bin/sudo", "root", "root", 0o4755),
    Override("etc/sudoers", "root", "root", 0o440),
    Override("usr/sbin/unix_chkpwd", "root", "shadow", 0o2755),
    Override("usr/bin/chage", "root", "shadow", 0o2755),
    Override("usr/bin/expiry", "root", "shadow", 0o2755),
    Override("etc/security/opasswd", "root", "root", 0o600),
    Override("root", "root", "root", 0o700),
    Override("tmp", "root", "root", 0o1777),
    Override("var/tmp", "root", "root", 0o1777),
    Override("var/mail", "root", "mail", 0o2775),
    # systemd-tmpfiles would set these at each boot: in the image, /etc stays as it was built, and nothing is open
    # before
    Override("etc/credstore", "root", "root", 0o700),
    Override("etc/credstore.encrypted", "root", "root", 0o700),
    Override("var/log/journal", "root", "systemd-journal", 0o2755),
    Override("var/log/wtmp", "root", "utmp", 0o664),
    Override("var/log/btmp", "root", "utmp", 0o660),
    Override("var/log/lastlog", "root", "utmp", 0o664),
)
"""The packages' archives already set some of these; they are listed so that a change is noticed."""

_SUDOERS: Final = re.compile(r"etc/sudoers\.d/[^/]+")


def statoverride(tree: Tree, overrides: Iterable[Override] = OVERRIDES) -> Patch:
    """The entries of ``overrides`` that the tree has, with mode and owner replaced.

    Files in /etc/sudoers.d become 0440, or sudo refuses them.

    Runs after ``accounts``, whose /etc/passwd and /etc/group turn the names into numbers. Raises :class:`Failure` for
    an unknown name.
    """
    users, groups = _numbers(tree, "passwd"), _numbers(tree, "group")
    put = []
    for override in overrides:
        entry = tree.get(override.path)
        if entry is None or entry.kind is Kind.SYMLINK:
            continue
        if override.owner not in users or override.group not in groups:
            raise Failure(
                f"there is no user '{override.owner}' or no group '{override.group}'",
                where="/" + override.path,
                hint="run accounts first, and give both a fixed number",
            )
        put.append(replace(entry, mode=override.mode, uid=users[override.owner], gid=groups[override.group]))
    put.extend(
        replace(entry, mode=0o440, uid=0, gid=0)
        for entry in tree.below("etc/sudoers.d")
        if entry.kind is Kind.FILE and _SUDOERS.fullmatch(entry.path)
    )
    return Patch(tuple(put))


def _numbers(tree: Tree, name: str) -> dict[str, int]:
    path = f"etc/{name}"
    if path not in tree:
        raise Failure("the account database is missing", where="/" + path, hint="run accounts before statoverride")
    return {fields[0]: int(fields[2]) for line in tree.read(path).decode().splitlines() if (fields := line.split(":"))}

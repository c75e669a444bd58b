"""Accounts of a node: look names up under a root, and make what ``users`` asks for with useradd, usermod and chpasswd.

Lookups read /etc/passwd and /etc/group of the root themselves: nothing else is a source of accounts on a node, and the root
may be a folder. Hashes go through standard input, never through arguments, which every process can read.
"""

from __future__ import annotations

from typing import NamedTuple

from cloudconfig.machine import Machine
from cloudconfig.rooted import Root
from cloudconfig.schema import User
from terminal import Failure


class Entry(NamedTuple):
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str


class Accounts(NamedTuple):
    """What passwd(5) and group(5) say: entries by name, and groups by name as (gid, members)."""

    users: dict[str, Entry]
    groups: dict[str, tuple[int, frozenset[str]]]

    def owner(self, text: str) -> tuple[int, int]:
        """Numeric ids of ``user`` or ``user:group`` by name or number; without a group, the user's own. Raises Failure."""
        user, _, group = text.partition(":")
        entry = self.users.get(user)
        if entry is None and not user.isdigit():
            raise Failure(f"no account is called {user}", hint="declare it in users")
        uid = entry.uid if entry else int(user)
        if not group:
            return uid, entry.gid if entry else 0
        if group in self.groups:
            return uid, self.groups[group][0]
        if not group.isdigit():
            raise Failure(f"no group is called {group}")
        return uid, int(group)


def read(root: Root) -> Accounts:
    """The accounts under ``root``; lines that are none are passed over. Raises RootedError."""
    users: dict[str, Entry] = {}
    for fields in _lines(root, "/etc/passwd", 7):
        if fields[2].isdecimal() and fields[3].isdecimal():
            users[fields[0]] = Entry(fields[0], int(fields[2]), int(fields[3]), fields[5], fields[6])
    groups: dict[str, tuple[int, frozenset[str]]] = {}
    for fields in _lines(root, "/etc/group", 4):
        if fields[2].isdecimal():
            groups[fields[0]] = (int(fields[2]), frozenset(fields[3].split(",")) - {""})
    # Every system has these two; a folder to write into may have no such files.
    users.setdefault("root", Entry("root", 0, 0, "/root", "/bin/sh"))
    groups.setdefault("root", (0, frozenset()))
    return Accounts(users, groups)


def missing_groups(accounts: Accounts, users: tuple[User, ...]) -> list[tuple[str, str]]:
    """(key path, group) of every group that is asked for and is not there; a user made here brings one of its own name."""
    own = {user.name for user in users if not user.no_user_group}
    return [
        (user.at, group)
        for user in users
        for group in (*user.groups, *((user.primary_group,) if user.primary_group else ()))
        if group not in accounts.groups and group not in own
    ]


def apply(accounts: Accounts, user: User, machine: Machine, shadow: dict[str, str]) -> bool:
    """Make ``user``, or bring its groups, shell and hash up to date; False if there was nothing to do. Raises Failure.

    ``shadow`` are the hashes of now by name.
    """
    entry = accounts.users.get(user.name)
    if entry is None:
        machine.run(("useradd", *_creation(user), user.name))
        changed = True
    else:
        wanted = [g for g in user.groups if user.name not in accounts.groups.get(g, (0, frozenset()))[1]]
        options = [*(("-a", "-G", ",".join(wanted)) if wanted else ())]
        if user.shell and user.shell != entry.shell:
            options += ["-s", user.shell]
        changed = bool(options)
        if changed:
            machine.run(("usermod", *options, user.name))
    if user.passwd and shadow.get(user.name) != user.passwd:
        machine.run(("chpasswd", "-e"), f"{user.name}:{user.passwd}\n")
        changed = True
    return changed


def hashes(root: Root) -> dict[str, str]:
    """The hash of each account in shadow(5), to tell whether one must be set. Raises RootedError."""
    return {fields[0]: fields[1] for fields in _lines(root, "/etc/shadow", 2)}


def _creation(user: User) -> list[str]:
    """useradd's options for a new account."""
    options = ["--no-create-home" if user.no_create_home else "--create-home"]
    for flag, on in (
        ("--system", user.system),
        ("--no-user-group", user.no_user_group),
        ("--no-log-init", user.no_log_init),
    ):
        options += [flag] if on else []
    for flag, value in (
        ("--comment", user.gecos),
        ("--home-dir", user.homedir),
        ("--gid", user.primary_group),
        ("--groups", ",".join(user.groups)),
        ("--shell", user.shell or ("" if user.system else "/bin/bash")),
    ):
        options += [flag, value] if value else []
    return options


def _lines(root: Root, path: str, count: int) -> list[list[str]]:
    text = (root.read(path) or b"").decode("utf-8", "replace")
    return [fields for line in text.splitlines() if len(fields := line.split(":")) >= count]

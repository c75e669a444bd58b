"""Accounts of a node: look names up under a root, and carry out ``users`` with useradd, usermod and chpasswd.

Lookups read /etc/passwd and /etc/group of the root themselves: nothing else is a source of accounts on a node, and the
root may be a folder. Hashes go through standard input, never through arguments, which every process can read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cloudconfig.node.machine import Machine
from cloudconfig.node.rooted import Root
from cloudconfig.text.schema import Group, Password, User
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
        """Numeric ids of ``user`` or ``user:group`` by name or number.

        Without a group, the user's own. Raises Failure."""
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


class Shadow(NamedTuple):
    """A line of shadow(5): the hash, and the day from which the account is closed (empty: none)."""

    hash: str
    expires: str


def shadows(root: Root) -> dict[str, Shadow]:
    """The entry of each account in shadow(5), to find out what must be set. Raises RootedError."""
    return {fields[0]: Shadow(fields[1], fields[7]) for fields in _lines(root, "/etc/shadow", 8)}


class Roster(NamedTuple):
    """What a plan requires of accounts."""

    users: tuple[User, ...]
    groups: tuple[Group, ...] = ()
    passwords: tuple[Password, ...] = ()

    def shell_problems(self, has: Callable[[str], bool]) -> list[tuple[str, str]]:
        """(key path, shell) of each shell that is not there; ``has`` returns whether a path exists."""
        return [(f"{user.at}.shell", user.shell) for user in self.users if user.shell and not has(user.shell)]


def apply(root: Root, roster: Roster, machine: Machine) -> None:
    """Make groups, then accounts, or bring them up to date, then memberships and passwords.

    Raises Failure with the key path.

    Groups that are named and not there are made: who comes from CoreOS or cloud-init expects it. An account's own group
    is useradd's to make, unless there is one of that name already, which the account then takes.
    """
    known = read(root)
    shadow = shadows(root)
    # The password of chpasswd counts, as with cloud-init: setting or locking another one first would do both again at
    # each boot.
    later = {password.user for password in roster.passwords}
    users = [user._replace(lock_passwd=False, passwd="") if user.name in later else user for user in roster.users]
    groups = {name: set(members) for name, (_gid, members) in known.groups.items()}

    def group(name: str, at: str) -> None:
        if name not in groups:
            _run(machine, ("groupadd", name), at)
            groups[name] = set()

    for wanted in roster.groups:
        group(wanted.name, wanted.at)
    for user in users:
        for name in (*user.groups, *((user.primary_group,) if user.primary_group else ())):
            if name != user.name or user.name in known.users or user.no_user_group:
                group(name, user.at)
    for user in users:
        entry = known.users.get(user.name)
        if entry is None:
            add(machine, user, has_group=user.name in groups)
            groups.setdefault(user.name, set())
            for name in user.groups:
                groups[name].add(user.name)
        else:
            _change(machine, user, entry, groups, shadow)
        if user.passwd and shadow.get(user.name, Shadow("", "")).hash != _hash(user):
            _run(machine, ("chpasswd", "-e"), user.at, f"{user.name}:{_hash(user)}\n")
    for wanted in roster.groups:
        for member in wanted.members:
            if member not in groups[wanted.name]:
                _run(machine, ("usermod", "-a", "-G", wanted.name, member), wanted.at)
    for password in roster.passwords:
        _set_password(machine, password, shadow.get(password.user, Shadow("", "")).hash)


def add(machine: Machine, user: User, *, has_group: bool) -> None:
    """Make a new account, all of whose groups are there.

    ``has_group``: there is one of its own name. Raises Failure."""
    _run(machine, ("useradd", *_creation(user, has_group=has_group), user.name), user.at)


def _change(machine: Machine, user: User, entry: Entry, groups: dict[str, set[str]], shadow: dict[str, Shadow]) -> None:
    """Bring an account that is there up to date: groups, shell, the day it ends, the lock."""
    wanted = [name for name in user.groups if user.name not in groups[name] and name != user.name]
    options = [*(("-a", "-G", ",".join(wanted)) if wanted else ())]
    if user.shell and user.shell != entry.shell:
        options += ["-s", user.shell]
    now = shadow.get(user.name, Shadow("", ""))
    if user.expiredate and now.expires != str(days(user.expiredate)):
        options += ["--expiredate", user.expiredate]
    if options:
        _run(machine, ("usermod", *options, user.name), user.at)
    if user.lock_passwd and not user.passwd and not now.hash.startswith(("!", "*")):
        _run(machine, ("usermod", "--lock", user.name), user.at)


def _hash(user: User) -> str:
    """The hash that an account gets, locked if requested."""
    return f"!{user.passwd}" if user.lock_passwd and not user.passwd.startswith("!") else user.passwd


def _set_password(machine: Machine, password: Password, now: str) -> None:
    """Set a password if it differs from the current one."""
    if password.hash:
        if now == password.hash:
            return
        _run(machine, ("chpasswd", "-e"), password.at, f"{password.user}:{password.hash}\n")
    else:
        from cloudconfig.node import crypt  # ctypes is slow to import on emulated processors

        if now and crypt.same(password.plain, now):
            return
        _run(machine, ("chpasswd",), password.at, f"{password.user}:{password.plain}\n")
    if password.expire:
        _run(machine, ("chage", "--lastday", "0", password.user), password.at)


def days(date: str) -> int:
    """Days from 1970 to ``YYYY-MM-DD``. Raises ValueError."""
    from datetime import date as calendar_date

    return (calendar_date.fromisoformat(date) - calendar_date(1970, 1, 1)).days


def _run(machine: Machine, argv: tuple[str, ...], at: str, secret: str = "") -> None:
    try:
        machine.run(argv, secret)
    except Failure as failure:
        raise Failure(failure.message, where=at) from failure


def _creation(user: User, *, has_group: bool) -> list[str]:
    """useradd's options for a new account; ``has_group``: there is a group of its name already."""
    primary = "" if user.primary_group == user.name and not user.no_user_group else user.primary_group
    takes = has_group and not user.no_user_group and not primary
    groups = [name for name in user.groups if name != user.name or user.no_user_group or primary]
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
        ("--uid", user.uid),
        ("--gid", user.name if takes else primary),
        ("--groups", ",".join(groups)),
        ("--expiredate", user.expiredate),
        ("--inactive", user.inactive),
        ("--shell", user.shell or ("" if user.system else "/bin/bash")),
    ):
        options += [flag, value] if value else []
    return options


def _lines(root: Root, path: str, count: int) -> list[list[str]]:
    text = (root.read(path) or b"").decode("utf-8", "replace")
    return [fields for line in text.splitlines() if len(fields := line.split(":")) >= count]

"""The account database: /etc/passwd, group, shadow and gshadow, with numbers that never change.

Replaces the work of: base-passwd (the two master files, subuid, subgid), passwd (shadow files), every call of
systemd-sysusers (systemd, udev, dbus, etcd-server, openssh-server, systemd-resolved, systemd-timesyncd), and every
addgroup of a postinst that brings no sysusers.d file (docker.io's ``docker``, openssh-client's ``_ssh``).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from builder.core.tree import Entry, Kind, Patch, Tree, directory, file
from terminal import Failure

SHADOW_GROUP: Final = 42
NOLOGIN: Final = "/usr/sbin/nologin"

FIXED_IDS: Final[Mapping[str, int]] = MappingProxyType(
    {
        # Debian assigns these at install time, from 999 downwards, in the order of installation. We freeze one
        # order: files on the state disk have these numbers, so an entry never changes, and a new name takes the next
        # lower number.
        "systemd-journal": 999,
        "systemd-network": 998,
        "systemd-resolve": 997,
        "systemd-timesync": 996,
        "messagebus": 995,
        "sshd": 994,
        "etcd": 993,
        "input": 992,
        "sgx": 991,
        "clock": 990,
        "kvm": 989,
        "render": 988,
        "_ssh": 987,
        "docker": 986,
        "fleet": 985,
        "systemd-coredump": 984,
        "polkitd": 983,
        "redis": 982,
    }
)
"""Numbers of names that neither Debian's policy (below 100) nor a package fixes; user and group of a name share one."""


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account. ``groups`` are the supplementary ones; the primary group has the same name and ``gid``.

    No account has a password: people log in by key.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[str, ...] = ()
    home: str = "/"
    shell: str = "/bin/bash"
    gecos: str = ""


CORE: Final = Account(
    "core", 1000, 1000, ("sudo", "systemd-journal", "docker", "fleet"), "/home/core", gecos="Flotilla"
)
"""The account people log in with, under the name that CoreOS gave it."""

EXTRA_GROUPS: Final = ("docker", "_ssh", "fleet")
"""Groups that no sysusers.d file declares: docker.io and openssh-client make theirs in postinst, ``fleet`` is ours."""


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    gid: int
    gecos: str
    home: str
    shell: str
    expired: bool = False

    def passwd(self) -> str:
        return f"{self.name}:x:{self.uid}:{self.gid}:{self.gecos}:{self.home}:{self.shell}\n"

    def shadow(self) -> str:
        # '*' matches no password, but keys work. The day of the last change stays empty: no ageing, and no clock in
        # the image.
        return f"{self.name}:*::::::{'1' if self.expired else ''}:\n"


@dataclass(slots=True)
class _Database:
    ids: Mapping[str, int]
    users: dict[str, _User] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    members: dict[str, list[str]] = field(default_factory=dict)

    def fixed(self, name: str, where: str) -> int:
        """The number frozen for ``name``."""
        if name not in self.ids:
            raise Failure(
                f"the account '{name}' has no fixed number",
                where=where,
                hint="give it one in the definition's ids (the next free number below those in use), and never change it again",
            )
        return self.ids[name]

    def add_group(self, name: str, gid: int, where: str) -> None:
        """Add a group unless its name is there already, as systemd-sysusers does."""
        if name in self.groups:
            return
        taken = next((other for other, number in self.groups.items() if number == gid), None)
        if taken is not None:
            raise Failure(f"the groups '{taken}' and '{name}' both have the number {gid}", where=where)
        self.groups[name] = gid

    def add_user(self, user: _User, where: str) -> None:
        """Add a user unless its name is there already."""
        if user.name in self.users:
            return
        taken = next((other.name for other in self.users.values() if other.uid == user.uid), None)
        if taken is not None:
            raise Failure(f"the users '{taken}' and '{user.name}' both have the number {user.uid}", where=where)
        self.users[user.name] = user

    def join(self, user: str, group: str, where: str) -> None:
        """Make ``user`` a member of ``group``."""
        if group not in self.groups:
            raise Failure(f"'{user}' should join the group '{group}', which does not exist", where=where)
        present = self.members.setdefault(group, [])
        if user not in present:
            present.append(user)


def accounts(
    tree: Tree,
    people: Iterable[Account] = (CORE,),
    groups: Iterable[str] = EXTRA_GROUPS,
    ids: Mapping[str, int] = FIXED_IDS,
) -> Patch:
    """The account database (four files), empty subuid and subgid, and homes of ``people`` with a copy of /etc/skel.

    ``groups`` are made beside those that packages declare; ``ids`` numbers every name that is not numbered elsewhere.
    Raises :class:`Failure` naming the account if a number is missing or used twice, or for a broken sysusers.d line.
    """
    database = _Database(ids)
    _read_masters(tree, database)
    memberships: list[tuple[str, str, str]] = []
    for entry in tree.glob("usr/lib/sysusers.d/*.conf"):
        if entry.kind is Kind.FILE:
            memberships.extend(_read_sysusers(entry, database))
    for name in groups:
        database.add_group(name, database.fixed(name, "groups"), "groups")
    homes: list[Entry] = []
    for person in people:
        where = f"account {person.name}"
        database.add_group(person.name, person.gid, where)
        database.add_user(
            _User(person.name, person.uid, person.gid, person.gecos, person.home, person.shell),
            where,
        )
        memberships.extend((person.name, group, where) for group in person.groups)
        homes.extend(_home(tree, person))
    for user, group, where in memberships:
        database.join(user, group, where)
    return Patch((*_files(database), *homes))


def _read_masters(tree: Tree, database: _Database) -> None:
    for name in ("passwd", "group"):
        path = f"usr/share/base-passwd/{name}.master"
        if path not in tree:
            raise Failure("Debian's list of accounts is missing", where="/" + path, hint="add the package base-passwd")
    for line in tree.read("usr/share/base-passwd/group.master").decode().splitlines():
        name, _, gid, _ = line.split(":")
        database.add_group(name, int(gid), "/usr/share/base-passwd/group.master")
    for line in tree.read("usr/share/base-passwd/passwd.master").decode().splitlines():
        name, _, uid, gid, gecos, home, shell = line.split(":")
        database.add_user(_User(name, int(uid), int(gid), gecos, home, shell), "/usr/share/base-passwd/passwd.master")


def _read_sysusers(entry: Entry, database: _Database) -> Iterator[tuple[str, str, str]]:
    """Add the users and groups of one sysusers.d file; yield its memberships (user, group, where)."""
    for number, line in enumerate(entry.content.read().decode().splitlines(), start=1):
        where = f"/{entry.path}:{number}"
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise Failure(f"not a sysusers.d line ({error})", where=where) from None
        kind, name, number_text, gecos, home, shell = [*words, *["-"] * 6][:6]
        plain = ["" if word == "-" else word for word in (number_text, gecos, home, shell)]
        match kind.rstrip("!"):
            case "g":
                database.add_group(name, _number(plain[0], name, database, where), where)
            case "u":
                _sysusers_user(name, plain, kind.endswith("!"), database, where)
            case "m":
                yield name, number_text, where
            case "r":  # a range for numbers that are chosen at random, which ours never are
                continue
            case _:
                raise Failure(f"unknown sysusers.d type '{kind}'", where=where)


def _sysusers_user(name: str, fields: list[str], expired: bool, database: _Database, where: str) -> None:
    id_text, gecos, home, shell = fields
    uid_text, _, group_text = id_text.partition(":")
    uid = database.users[name].uid if name in database.users else _number(uid_text, name, database, where)
    if not group_text:
        database.add_group(name, uid, where)
        gid = database.groups[name]
    elif group_text.isdigit():
        gid = int(group_text)
    elif group_text in database.groups:
        gid = database.groups[group_text]
    else:
        raise Failure(f"the user '{name}' wants the group '{group_text}', which does not exist", where=where)
    shell = shell or ("/bin/sh" if uid == 0 else NOLOGIN)
    database.add_user(_User(name, uid, gid, gecos, home or "/", shell, expired), where)


def _number(text: str, name: str, database: _Database, where: str) -> int:
    return int(text) if text.isdigit() else database.fixed(name, where)


def _files(database: _Database) -> Iterator[Entry]:
    users = sorted(database.users.values(), key=lambda user: user.uid)
    groups = sorted(database.groups.items(), key=lambda item: item[1])

    def joined(group: str) -> str:
        return ",".join(sorted(database.members.get(group, ())))

    yield file("etc/passwd", "".join(user.passwd() for user in users))
    yield file("etc/group", "".join(f"{name}:x:{gid}:{joined(name)}\n" for name, gid in groups))
    yield file("etc/shadow", "".join(user.shadow() for user in users), 0o640, gid=SHADOW_GROUP)
    yield file("etc/gshadow", "".join(f"{name}:*::{joined(name)}\n" for name, _ in groups), 0o640, gid=SHADOW_GROUP)
    yield file("etc/subuid", "")
    yield file("etc/subgid", "")


def _home(tree: Tree, person: Account) -> Iterator[Entry]:
    """The person's home directory with the contents of /etc/skel, as useradd makes it."""
    home = person.home.strip("/")
    if not home or home in tree:
        return
    yield directory(home, 0o750, uid=person.uid, gid=person.gid)
    for entry in tree.below("etc/skel"):
        path = f"{home}/{entry.path.removeprefix('etc/skel/')}"
        yield replace(entry, path=path, uid=person.uid, gid=person.gid)

"""Finds texts that lock out every user by mistake.

Each is reported wherever it is visible without the image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cloudconfig.text.schema import CORE, CloudConfig, Unit, User, WriteFile
from unitfile.name import canonical

# Without these no key and no text reaches a node, or no user can reach it.
_NEEDED = {
    "ssh.service": "sshd",
    "ssh.socket": "sshd",
    "sshd.service": "sshd",
    "sshd-hostkeys.service": "sshd's keys",
    "cloudconfig.service": "user-data",
    "cloudconfig-online.service": "user-data",
    "systemd-networkd.service": "the network",
    "systemd-udevd.service": "the network",
    "sysinit.target": "the boot",
    "basic.target": "the boot",
    "multi-user.target": "the boot",
    "dbus.service": "systemd's bus",
    "dbus.socket": "systemd's bus",
}
_NO_SHELLS = ("/bin/false", "/usr/bin/false", "/sbin/nologin", "/usr/sbin/nologin", "/bin/true", "/usr/bin/true")


class Danger(NamedTuple):
    """A key path, what it does, and what to do instead."""

    path: str
    message: str
    hint: str = ""


def dangers(config: CloudConfig) -> Iterator[Danger]:
    """What in ``config`` may lock its author out."""
    for unit in config.units:
        yield from _unit(unit)
    passwords = {password.user: password.at for password in config.passwords}
    for user in config.users:
        yield from _user(user)
        if user.name in passwords and (user.lock_passwd or user.passwd):
            key = "lock_passwd" if user.lock_passwd else "passwd"
            message = f"has no effect: {passwords[user.name]} sets the password of this account, which unlocks it"
            yield Danger(f"{user.at}.{key}", message, "keep one of the two")
    with_keys = {user.name for user in config.users if user.ssh_authorized_keys}
    with_keys |= {CORE} if config.ssh_authorized_keys else set()
    places = _key_files(config)
    for file in config.write_files:
        if file.path.startswith(("/etc/pam.d/", "/etc/nsswitch.conf")):
            yield Danger(f"{file.at}.path", "decides who may log in; a mistake in it locks out all users")
        name = places.get(file.path)
        if name in with_keys:
            message = f"the keys in this file and those that ssh_authorized_keys gives to {name} are put together"
            yield Danger(f"{file.at}.path", message, "one of the two is enough")


def key_lines(config: CloudConfig) -> Iterator[tuple[WriteFile, str, tuple[str, ...]]]:
    """Each file of write_files that is an authorized_keys of core or of one of users.

    Yields the file, its user and its lines with keys."""
    places = _key_files(config)
    for file in config.write_files:
        if file.path in places:
            lines = [line.strip() for line in file.content.decode("utf-8", "replace").splitlines()]
            yield file, places[file.path], tuple(line for line in lines if line and not line.startswith("#"))


def with_key_files(config: CloudConfig) -> CloudConfig:
    """``config`` with such files turned into keys.

    ssh_authorized_keys and meta-data write to the same place, so that none removes the others' keys."""
    found: dict[str, tuple[str, ...]] = {}
    files: set[str] = set()
    for file, user, lines in key_lines(config):
        found[user] = (*found.get(user, ()), *lines)
        files.add(file.path)
    if not files:
        return config
    users = tuple(
        user._replace(ssh_authorized_keys=(*user.ssh_authorized_keys, *found.get(user.name, ())))
        if user.name != CORE
        else user
        for user in config.users
    )
    return config._replace(
        users=users,
        ssh_authorized_keys=(*config.ssh_authorized_keys, *found.get(CORE, ())),
        write_files=tuple(file for file in config.write_files if file.path not in files),
    )


def _key_files(config: CloudConfig) -> dict[str, str]:
    """Whose keys are at a path: of core, and of those in users."""
    homes = {user.name: user.homedir or f"/home/{user.name}" for user in config.users} | {CORE: "/home/core"}
    places = {f"{home}/.ssh/authorized_keys": name for name, home in homes.items()}
    return places | {f"/var{path}": name for path, name in places.items() if path.startswith("/home/")}


def _unit(unit: Unit) -> Iterator[Danger]:
    name = canonical(unit.name)
    needed = _NEEDED.get(name)
    if needed is None:
        return
    locks = f"locks you out: {needed} is needed to reach this node, or to repair it"
    if unit.mask:
        yield Danger(f"{unit.at}.mask", locks, "leave it away")
    elif unit.command == "stop":
        yield Danger(f"{unit.at}.command", locks, "leave it away")
    elif unit.content is not None:
        yield Danger(
            f"{unit.at}.content",
            f"replaces the image's unit: {needed} is needed to reach this node",
            "change it by drop_ins",
        )


def _user(user: User) -> Iterator[Danger]:
    if user.name != CORE:
        return
    if user.shell in _NO_SHELLS:
        yield Danger(f"{user.at}.shell", "locks core out, the account that people log in with")
    if user.expiredate:
        yield Danger(
            f"{user.at}.expiredate", "from that day on core is locked out, the account that people log in with"
        )

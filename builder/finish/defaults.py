"""Configuration files that packages keep under /usr/share and copy into place on installation.

Replaces the work of: readline-common (inputrc), base-files (profile, motd, root's dot files, dpkg origin, login
records, /etc/opt), debianutils (shells), openssh-server (sshd_config; host keys are made on the node), libpam-modules
(opasswd, environment), systemd (var/log/journal, mtab). libwrap0's hosts.allow and hosts.deny and kmod's modules would
hold only comments, and are equivalent to missing files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from builder.core.tree import Entry, Kind, Patch, Tree, directory, file, symlink
from terminal import Failure

COPIES: Final = (
    ("usr/share/base-files/profile", "etc/profile"),
    ("usr/share/base-files/dot.profile", "root/.profile"),
    ("usr/share/base-files/dot.bashrc", "root/.bashrc"),
    ("usr/share/readline/inputrc", "etc/inputrc"),
)
"""Source and target; copied where the first exists and the second does not."""

EMPTY: Final = (
    ("etc/motd", 0o644),
    ("etc/environment", 0o644),
    ("etc/security/opasswd", 0o600),
    ("etc/fstab", 0o644),
    # login records; statoverride sets their group to utmp
    ("var/log/wtmp", 0o664),
    ("var/log/btmp", 0o660),
    ("var/log/lastlog", 0o664),
)


JOURNALD: Final = "usr/lib/systemd/systemd-journald"

SSHD: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Keys only; root only through sudo; one host key, since making an RSA key takes long on an emulated processor.
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "no",
        "HostKey": "/etc/ssh/ssh_host_ed25519_key",
        "X11Forwarding": "no",
        "UseDNS": "no",
    }
)
"""Settings that replace those of Debian's sshd_config."""


def defaults(tree: Tree, sshd: Mapping[str, str] = SSHD) -> Patch:
    """The copies, sshd_config with ``sshd``'s settings, /etc/shells from all lists, and empty files that scripts make.

    Existing files stay as they are. Raises :class:`Failure` for an invalid ``sshd`` keyword.
    """
    made = [file(target, tree.read(source)) for source, target in COPIES if source in tree and target not in tree]
    made.extend(file(path, "", mode) for path, mode in EMPTY if path not in tree)
    made.extend(_sshd(tree, sshd))
    made.extend(_shells(tree))
    if "etc/dpkg/origins/debian" in tree:
        made.append(symlink("etc/dpkg/origins/default", "debian"))
    if "etc/opt" not in tree:
        made.append(directory("etc/opt"))
    if "etc/mtab" not in tree:
        made.append(symlink("etc/mtab", "../proc/self/mounts"))
    if JOURNALD in tree:
        made.append(directory("var/log/journal"))  # its presence makes the journal persistent
    return Patch(tuple(made))


def _sshd(tree: Tree, settings: Mapping[str, str]) -> Iterator[Entry]:
    source = "usr/share/openssh/sshd_config"
    if source not in tree or "etc/ssh/sshd_config" in tree:
        return
    text = tree.read(source).decode()
    for keyword, value in settings.items():
        if not re.fullmatch(r"[A-Za-z0-9]+", keyword):
            raise Failure(f"'{keyword}' is no keyword of sshd_config", where="sshd")
        line = f"{keyword} {value}"
        text, count = re.subn(rf"(?m)^#?{keyword}\b.*$", line, text, count=1)
        # the first of several lines counts, except for host keys: there each line adds one
        text = text if count else f"{text.rstrip()}\n{line}\n"
    yield file("etc/ssh/sshd_config", text)


def _shells(tree: Tree) -> Iterable[Entry]:
    """/etc/shells as update-shells makes it: Debian's list, then the paths of shells.d, with and without /usr."""
    if "usr/share/debianutils/shells" not in tree:
        return
    lines = tree.read("usr/share/debianutils/shells").decode().splitlines()
    for entry in tree.below("usr/share/debianutils/shells.d"):
        if entry.kind is not Kind.FILE:
            continue
        for shell in entry.content.read().decode().split():
            spellings = [shell, shell.removeprefix("/usr") if shell.startswith("/usr/bin/") else f"/usr{shell}"]
            lines.extend(spelling for spelling in sorted(spellings) if spelling not in lines)
    yield file("etc/shells", "".join(line + "\n" for line in lines))

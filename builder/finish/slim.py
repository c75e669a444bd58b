"""Removes what no node uses: documentation, translations, tests, tools of packages that we do not have.

Replaces the work of: nothing; it removes files of packages. Licences (/usr/share/doc/*/copyright) stay: the image must
be distributed with them.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from builder.core.tree import Kind, Patch, Tree

UNWANTED: Final = (
    # documentation and translations
    *("usr/share/doc/*", "!usr/share/doc/*/copyright", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*"),
    *(
        "usr/share/lintian",
        "usr/share/bug",
        "usr/share/doc-base",
        "usr/share/menu",
        "usr/share/linda",
        "usr/share/gtk-doc",
    ),
    *("usr/share/help/*", "usr/share/pixmaps/*", "usr/share/applications/*", "usr/share/base-files/info.dir"),
    *("etc/*/README", "etc/*/README.*"),
    # shells' completions, and package managers and init systems of others
    *(
        "usr/share/bash-completion",
        "usr/share/zsh",
        "usr/share/fish",
        "etc/bash_completion.d",
        "usr/share/initramfs-tools",
    ),
    *(
        "etc/init.d",
        "etc/rc?.d",
        "etc/sv",
        "etc/runit",
        "etc/initramfs-tools",
        "usr/lib/dracut",
        "usr/share/runit",
        "etc/ufw",
    ),
    *("etc/cron.*", "etc/logrotate.d", "etc/apt", "etc/update-motd.d", "usr/share/debconf", "usr/share/perl5/Debconf"),
    *(
        "usr/share/ucf",
        "etc/ucf.conf",
        "usr/lib/lsb",
        "var/lib/dpkg",
        "var/lib/ucf",
        "var/lib/pam",
        "var/cache/debconf",
    ),
    *(
        "etc/alternatives",
        "etc/adduser.conf",
        "etc/deluser.conf",
        "etc/debconf.conf",
        "usr/lib/runit-helper",
        "var/log/runit",
    ),
    # of the kernel; its image stays for the build to take. Hardware and message databases: see databases.py
    *(
        "boot/*",
        "!boot/vmlinuz-*",
        "usr/lib/udev/hwdb.d",
        "etc/udev/hwdb.d",
        "usr/lib/systemd/catalog",
        "usr/lib/klibc*",
    ),
    # Python: tests, the graphical toolkit, building extensions, packaging of others
    *("usr/lib/python3*/test/*", "usr/lib/python3*/idlelib", "usr/lib/python3*/tkinter", "usr/lib/python3*/turtle*"),
    *(
        "usr/lib/python3*/ensurepip",
        "usr/lib/python3*/lib2to3",
        "usr/lib/python3*/config-3*",
        "usr/lib/python3*/pydoc_data",
    ),
    *(
        "usr/lib/python3*/__phello__",
        "usr/lib/python3*/*/tests",
        "usr/lib/python3/dist-packages/*/tests",
        "usr/share/python3",
    ),
    *(
        "usr/lib/python3*/lib-dynload/_test*",
        "usr/lib/python3*/lib-dynload/_*test.*",
        "usr/lib/python3*/lib-dynload/_xxtest*",
    ),
    *("usr/share/dh-python", "usr/lib/valgrind", "usr/share/binfmts", "usr/share/gdb", "usr/share/gcc"),
    # character sets: the programs on a node all use UTF-8; these few are needed by FAT and old protocols
    *(
        "usr/lib/*/gconv/*",
        "!usr/lib/*/gconv/gconv-modules*",
        "!usr/lib/*/gconv/ISO8859-1.so",
        "!usr/lib/*/gconv/ISO8859-15.so",
    ),
    *(
        "!usr/lib/*/gconv/UTF-16.so",
        "!usr/lib/*/gconv/UTF-32.so",
        "!usr/lib/*/gconv/UNICODE.so",
        "!usr/lib/*/gconv/IBM850.so",
    ),
    *("!usr/lib/*/gconv/CP1252.so", "!usr/lib/*/gconv/IBM437.so", "usr/share/i18n"),
    # the same in Python: the tables of East Asian character sets from before Unicode
    *(f"usr/lib/python3*/lib-dynload/_codecs_{name}.*" for name in ("cn", "hk", "iso2022", "jp", "kr", "tw")),
    *("usr/lib/locale/*", "!usr/lib/locale/C.utf8*"),
    # terminals that are not in use
    *("usr/share/zoneinfo/right", "usr/share/zoneinfo/posix", "usr/share/consolefonts", "usr/share/X11"),
    # programs in perl, which is missing, and leftovers of package management
    *("usr/bin/c_rehash", "usr/sbin/pam-auth-update", "usr/sbin/pam_getenv", "usr/lib/ssl/misc", "usr/bin/py3clean"),
    *("usr/bin/py3compile", "usr/bin/py3versions", "usr/share/apport", "etc/dpkg", "usr/bin/dpkg*", "usr/sbin/dpkg*"),
    # for building other programs, locales or time zones
    *("usr/include", "usr/lib/*/*.a", "usr/bin/pygettext3*", "usr/bin/bashbug", "usr/bin/localedef"),
    *("usr/sbin/iconvconfig", "usr/sbin/zic", "usr/bin/tzselect"),
    # test and load programs
    *("usr/bin/containerd-stress", "usr/lib/systemd/tests", "usr/share/docker.io/contrib", "usr/lib/pcrlock.d"),
)
"""Whole paths with shell wildcards; a directory goes with its contents.

``!`` keeps what an earlier pattern would drop.
"""


@dataclass(frozen=True)
class Slimmed(Patch):
    """A patch with what it saves: bytes by owning package."""

    saved: Mapping[str, int] = field(default_factory=dict)


def slim(tree: Tree, patterns: Iterable[str] = UNWANTED) -> Slimmed:
    """Remove what ``patterns`` match, except what ``!`` patterns keep, and matching directories that are then empty."""
    listed = tuple(patterns)
    drop = _matcher(pattern for pattern in listed if not pattern.startswith("!"))
    keep = _matcher(pattern[1:] for pattern in listed if pattern.startswith("!"))
    dropped: list[str] = []
    saved: Counter[str] = Counter()
    alive: set[str] = set()
    folders: list[str] = []
    for entry in tree:
        if not drop.match(entry.path) or keep.match(entry.path):
            alive.update(_upwards(entry.path))
        elif entry.kind is Kind.DIRECTORY:
            folders.append(entry.path)
        else:
            dropped.append(entry.path)
            saved[entry.owner] += entry.size
    dropped.extend(path for path in folders if path not in alive)
    gone = set(dropped)
    topmost = sorted(path for path in gone if path.rpartition("/")[0] not in gone)
    return Slimmed(remove=tuple(topmost), saved=dict(sorted(saved.items(), key=lambda item: (-item[1], item[0]))))


def _upwards(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts) + 1))


def _matcher(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for paths that match a pattern themselves or lie below a directory that does."""
    bodies = [fnmatch.translate(pattern).removesuffix(r"\Z").removesuffix(r"\z") for pattern in patterns]
    return re.compile("|".join(f"{body}(?:/.*)?\\Z" for body in bodies) or r"(?!)")

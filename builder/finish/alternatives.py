"""Generic names for programs that come in several makes: awk, pager, iptables.

Replaces the work of: every update-alternatives (mawk, less, util-linux, iptables, debianutils, xz-utils), and bash's
/bin/sh.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from builder.core.tree import Patch, Tree, symlink


@dataclass(frozen=True, slots=True)
class Alternative:
    """A generic name ``link`` (a path) for the first of ``makes`` (names in the same directory) that the tree holds."""

    link: str
    makes: tuple[str, ...]


def _tables(program: str, makes: tuple[str, ...]) -> tuple[Alternative, ...]:
    """The three programs of one packet filter front end."""
    return tuple(
        Alternative(f"usr/sbin/{program}{suffix}", tuple(f"{make}{suffix}" for make in makes))
        for suffix in ("", "-restore", "-save")
    )


ALTERNATIVES: Final = (
    Alternative("usr/bin/sh", ("dash", "bash")),
    Alternative("usr/bin/awk", ("gawk", "mawk")),
    Alternative("usr/bin/nawk", ("gawk", "mawk")),
    Alternative("usr/bin/pager", ("less", "more")),
    Alternative("usr/bin/which", ("which.debianutils",)),
    Alternative("usr/bin/editor", ("nano", "vim.basic", "vim.tiny")),
    Alternative("usr/bin/vi", ("vim.basic", "vim.tiny")),
    Alternative("usr/bin/nc", ("nc.openbsd", "nc.traditional")),
    Alternative("usr/bin/lzma", ("xz",)),
    Alternative("usr/bin/unlzma", ("unxz",)),
    # Debian's default, and docker's: the nft variant; the legacy one would need the kernel's old tables.
    *_tables("iptables", ("iptables-nft", "iptables-legacy")),
    *_tables("ip6tables", ("ip6tables-nft", "ip6tables-legacy")),
    *_tables("arptables", ("arptables-nft",)),
    *_tables("ebtables", ("ebtables-nft",)),
)
"""The result of Debian's priorities for the packages we may have; a name without a package is not made."""


def alternatives(tree: Tree, table: Iterable[Alternative] = ALTERNATIVES) -> Patch:
    """One direct link per name (``awk -> mawk``), without the detour over /etc/alternatives.

    The choice never changes on a node, and a program of /usr should not depend on the overlay of /etc. A name that a
    package brings itself stays as it is.
    """
    put = []
    for alternative in table:
        folder = alternative.link.rpartition("/")[0]
        make = next((name for name in alternative.makes if f"{folder}/{name}" in tree), None)
        if make is not None and alternative.link not in tree:
            put.append(symlink(alternative.link, make))
    return Patch(tuple(put))

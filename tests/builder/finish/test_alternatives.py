"""Generic names: first make that is there, never over a package's own file."""

from __future__ import annotations

from builder.core.tree import Tree, file
from builder.finish.alternatives import Alternative, alternatives


def links(tree: Tree, *table: Alternative) -> dict[str, str]:
    """What the step links, by path; with the default table if none is given."""
    patch = alternatives(tree, table) if table else alternatives(tree)
    return {entry.path: entry.target for entry in patch.put}


def test_the_first_make_that_is_there_gets_the_name() -> None:
    tree = Tree([file("usr/bin/more", ""), file("usr/bin/mawk", "")])
    assert links(tree) == {"usr/bin/awk": "mawk", "usr/bin/nawk": "mawk", "usr/bin/pager": "more"}
    tree.put(file("usr/bin/less", ""))
    assert links(tree)["usr/bin/pager"] == "less"


def test_iptables_is_the_nft_make_with_all_its_programs() -> None:
    names = [f"usr/sbin/iptables-{make}{suffix}" for make in ("nft", "legacy") for suffix in ("", "-save", "-restore")]
    assert links(Tree([file(name, "") for name in names])) == {
        "usr/sbin/iptables": "iptables-nft",
        "usr/sbin/iptables-save": "iptables-nft-save",
        "usr/sbin/iptables-restore": "iptables-nft-restore",
    }


def test_a_package_s_own_file_stays() -> None:
    tree = Tree([file("usr/bin/sh", "a real shell"), file("usr/bin/dash", "")])
    assert links(tree, Alternative("usr/bin/sh", ("dash",))) == {}

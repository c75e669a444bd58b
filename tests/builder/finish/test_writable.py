"""/var and what lies under it: moved with modes and owners, links and mount points left."""

from __future__ import annotations

import pytest

from builder.core.tree import Entry, Kind, Tree, directory, file, symlink
from builder.finish.writable import SKELETON, writable
from terminal import Failure


def finished(*entries: Entry) -> Tree:
    """A tree of ``entries`` after the step."""
    tree = Tree(entries)
    tree.apply(writable(tree))
    return tree


def test_contents_move_with_mode_and_owner() -> None:
    tree = finished(
        directory("home/core", 0o750, uid=1000, gid=1000),
        file("home/core/.profile", "P", uid=1000, gid=1000),
        directory("root", 0o700),
        file("var/lib/x/state", "S", 0o600, uid=7, gid=8),
    )
    assert (tree[f"{SKELETON}/home/core"].mode, tree[f"{SKELETON}/home/core"].uid) == (0o750, 1000)
    assert (tree[f"{SKELETON}/lib/x/state"].uid, tree[f"{SKELETON}/lib/x/state"].mode) == (7, 0o600)
    assert tree[f"{SKELETON}/root"].mode == 0o700
    assert {name: tree[name].target for name in ("home", "root", "opt", "srv")} == {
        "home": "var/home",
        "root": "var/root",
        "opt": "var/opt",
        "srv": "var/srv",
    }
    assert list(tree.below("var")) == []


def test_mount_points_and_the_links_of_var() -> None:
    tree = finished(directory("var/run"), file("var/lock/old", ""), directory("tmp", 0o1777), file("etc/x", ""))
    assert tree[f"{SKELETON}/run"].target == "/run"
    assert tree[f"{SKELETON}/lock"].target == "/run/lock"
    assert f"{SKELETON}/lock/old" not in tree
    assert tree[f"{SKELETON}/tmp"].mode == tree["tmp"].mode == 0o1777
    assert tree["proc"].mode == 0o555
    assert all(
        tree[name].kind is Kind.DIRECTORY for name in ("dev", "etc", "run", "sys", "var", "boot", "mnt", "media")
    )
    assert tree.read("etc/x") == b""


def test_twice_is_refused() -> None:
    with pytest.raises(Failure, match="a symlink"):
        finished(symlink("home", "var/home"))

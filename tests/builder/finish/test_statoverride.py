"""Modes and owners by name, only for what is there."""

from __future__ import annotations

import pytest

from builder.core.tree import Tree, directory, file, symlink
from builder.finish.statoverride import Override, statoverride
from terminal import Failure

HELPER = "usr/lib/dbus-1.0/dbus-daemon-launch-helper"


def tree_of() -> Tree:
    """An account database and some files."""
    tree = Tree([file("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), directory("etc/sudoers.d")])
    tree.add(file("etc/group", "root:x:0:\nmessagebus:x:995:\nshadow:x:42:\nmail:x:8:\nstaff:x:50:\n_ssh:x:987:\n"))
    return tree


def test_names_become_numbers_and_the_content_stays() -> None:
    tree = tree_of()
    tree.add(file(HELPER, "program", 0o755))
    tree.add(file("etc/sudoers.d/core", "core ALL=(ALL) NOPASSWD: ALL\n", 0o644))
    tree.add(symlink("usr/bin/sudo", "/elsewhere"))
    tree.apply(statoverride(tree))
    helper = tree[HELPER]
    assert (helper.mode, helper.uid, helper.gid, helper.content.read()) == (0o4754, 0, 995, b"program")
    assert tree["etc/sudoers.d/core"].mode == 0o440
    assert tree["etc/sudoers.d"].mode == 0o755
    assert tree["usr/bin/sudo"].target == "/elsewhere"


def test_unknown_names_and_a_missing_database() -> None:
    tree = tree_of()
    tree.add(file("x", ""))
    with pytest.raises(Failure, match="no group 'nobodies'"):
        statoverride(tree, [Override("x", "root", "nobodies", 0o644)])
    with pytest.raises(Failure, match="account database is missing"):
        statoverride(Tree())

"""The tree's merge rules: what may meet on one path, and what may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core.tree import Entry, Inline, Kind, Patch, PathConflict, Tree, directory, file, parents, symlink

names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@st.composite
def entries(draw: st.DrawFn, owner: str) -> Entry:
    path, kind = draw(paths), draw(st.sampled_from(list(Kind)))
    target = "elsewhere" if kind is Kind.SYMLINK else ""
    return Entry(path, kind, content=Inline(b"x" if kind is Kind.FILE else b""), target=target, owner=owner)


def closed_upwards(tree: Tree) -> bool:
    return all(tree[path].kind is Kind.DIRECTORY for entry in tree for path in parents(entry.path))


@given(st.lists(entries("one"), max_size=12))
def test_whatever_is_added_every_parent_is_a_directory(added: list[Entry]) -> None:
    tree = Tree()
    for entry in added:
        try:
            tree.add(entry)
        except PathConflict:
            continue
    assert closed_upwards(tree)
    assert [entry.path for entry in tree] == sorted(entry.path for entry in tree)


@given(st.lists(entries("one"), max_size=8), st.lists(entries("two"), max_size=8))
def test_a_conflict_names_both_owners_and_changes_nothing(first: list[Entry], second: list[Entry]) -> None:
    tree = Tree()
    for entry in first:
        try:
            tree.add(entry)
        except PathConflict:
            continue
    for entry in second:
        before = list(tree)
        try:
            tree.add(entry)
        except PathConflict as conflict:
            assert "two" in str(conflict)
            assert {item.path: item for item in tree}.items() >= {item.path: item for item in before}.items()


@given(st.lists(entries("one"), max_size=8), st.randoms(use_true_random=False))
def test_merging_disjoint_packages_does_not_depend_on_their_order(added: list[Entry], random: object) -> None:
    files = {entry.path: file(f"{entry.path}/leaf", b"x") for entry in added}
    forward, backward = Tree(), Tree()
    for entry in files.values():
        forward.add(entry)
    for entry in reversed(files.values()):
        backward.add(entry)
    assert list(forward) == list(backward)


def test_a_directory_met_twice_keeps_the_first_owners_mode() -> None:
    tree = Tree([directory("etc", 0o700), directory("etc", 0o755)])
    assert tree["etc"].mode == 0o700


def test_put_replaces_a_file_but_not_a_full_directory() -> None:
    tree = Tree([file("etc/x", "old")])
    tree.put(file("etc/x", "new"))
    assert tree.read("etc/x") == b"new"
    with pytest.raises(PathConflict):
        tree.put(file("etc", "no"))


def test_remove_takes_all_below() -> None:
    tree = Tree([file("a/b/c", "1"), file("ab", "2")])
    tree.apply(Patch(remove=("a",)))
    assert [entry.path for entry in tree] == ["ab"]


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("bin/sh", "usr/bin/dash"),
        ("etc/up", "usr/bin"),
        ("etc/above/bin", "usr/bin"),
        ("usr/bin/../bin/sh", "usr/bin/dash"),
    ],
)
def test_links_are_followed_inside_the_tree_only(path: str, end: str) -> None:
    tree = Tree(
        [
            symlink("bin", "usr/bin"),
            symlink("usr/bin/sh", "dash"),
            file("usr/bin/dash", "sh"),
            symlink("etc/up", "/usr/bin"),
            symlink("etc/above", "../../../usr"),
        ]
    )
    assert tree.resolve(path) == end


def test_a_link_loop_is_an_error_not_a_hang() -> None:
    with pytest.raises(KeyError):
        Tree([symlink("a", "b"), symlink("b", "a")]).read("a")


@given(st.lists(entries("one"), max_size=12), st.lists(paths, max_size=4))
def test_a_patch_removes_as_one_path_after_the_other_would(added: list[Entry], gone: list[str]) -> None:
    tree = Tree()
    for entry in added:
        try:
            tree.add(entry)
        except PathConflict:
            continue
    twin = tree.copy()
    tree.apply(Patch(remove=tuple(gone)))
    for path in gone:
        twin.remove(path)
    assert list(tree) == list(twin)
    assert closed_upwards(tree)

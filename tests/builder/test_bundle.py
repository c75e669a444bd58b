"""What is kept in the store reads back as it was, and a tree's packages are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.core import bundle
from builder.core.store import Store
from builder.core.tree import Entry, Inline, Kind, Slice, Tree, directory, file, symlink
from builder.debian import deb
from tests.builder import debmaker
from tests.builder.debmaker import member


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def tree_of(tmp_path: Path, store: Store) -> Tree:
    """A package's files, some of ours, and one that lies in neither."""
    path = tmp_path / "example.deb"
    brought = deb.unpack(path, debmaker.deb(path, [member("./usr/bin/tool", b"tool"), member("./usr/empty")]), store)
    (tmp_path / "elsewhere").write_bytes(b"..other..")
    other = Slice(tmp_path / "elsewhere", 2, 5, Inline(b"other").sha256)
    ping = Entry("usr/bin/ping", Kind.FILE, 0o4755, 1, 2, 3, Inline(b"ping"), xattrs={"security.capability": b"\0\xff"})
    ours = [ping, directory("var/x", 0o700, uid=5), symlink("bin", "usr/bin"), Entry("usr/o", Kind.FILE, content=other)]
    return Tree([*brought.entries, *ours, file("etc/empty", b"")])


def contents(tree: Tree) -> list[tuple[object, ...]]:
    return [
        (
            each.path,
            each.kind,
            each.mode,
            each.uid,
            each.gid,
            each.mtime,
            each.target,
            each.owner,
            dict(each.xattrs),
            each.content.read(),
            each.size,
            each.content.sha256 if each.kind is Kind.FILE else "",
        )
        for each in tree
    ]


def test_a_tree_reads_back_as_it_was(tmp_path: Path, store: Store) -> None:
    tree, folder = tree_of(tmp_path, store), tmp_path / "step"
    folder.mkdir()
    bundle.save_tree(tree, folder, store)
    assert contents(bundle.load_tree(folder, store)) == contents(tree)
    # What the package has is not there twice.
    assert (folder / "data").read_bytes() == b"ping" + b"other"


def test_a_tree_moves_with_its_store(tmp_path: Path, store: Store) -> None:
    tree, folder = tree_of(tmp_path, store), store.path("steps", "one")
    folder.mkdir()
    bundle.save_tree(tree, folder, store)
    expected = contents(tree)
    store.root.rename(tmp_path / "moved")
    moved = Store(tmp_path / "moved")
    assert contents(bundle.load_tree(moved.path("steps", "one"), moved)) == expected

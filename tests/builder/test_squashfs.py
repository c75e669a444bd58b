"""An image put together from blocks that were compressed before, as unsquashfs sees it: no other than one that
mksquashfs packed as a whole.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.core import verity
from builder.core.store import Store
from builder.core.tree import Entry, Inline, Kind, Tree, directory, file, symlink
from builder.debian.tools import Tools
from builder.formats import pool
from builder.formats.filesystem import pack
from builder.formats.pool import Pool, contents, fits
from builder.formats.squashfs import read
from terminal import Failure
from tests.builder.test_filesystem import EPOCH, names, numbers

pytestmark = pytest.mark.slow

OPTIONS = ["-comp", "zstd", "-b", "4K"]
"""The smallest blocks there are, so that little content has many."""
BLOCK = 4096


def listing(image: Path, closure: Tools) -> list[bytes]:
    """All that is in an image: lines for each path with all its attributes (of which an image may have a path's
    extended ones in any order), then the contents of all files.
    """
    words, mark, data = closure.run("unsquashfs", "-pf", "-", str(image)).partition(b"#\n# START OF DATA")
    assert mark
    return [*sorted(words.splitlines()), data]


def check(base: Tree, tree: Tree, closure: Tools, work: Path) -> Pool:
    """Assemble ``tree`` from what was kept of ``base``, and compare it with mksquashfs's own image of it."""
    made = pool.pool(base, OPTIONS, closure, Store(work / "store"))
    made.assemble(tree, work / "assembled", EPOCH)
    pack(tree, "squashfs", OPTIONS, work / "whole", EPOCH, closure)
    assert listing(work / "assembled", closure) == listing(work / "whole", closure)
    return made


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that cannot be compressed much, others for each seed."""
    return b"".join((seed * 1_000_003 + number).to_bytes(4, "big") * 2 for number in range(-(-size // 8)))[:size]


sizes = st.sampled_from([0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 5])
datas = st.one_of(
    st.binary(max_size=200), st.builds(noise, sizes, st.integers(0, 3)), st.builds(lambda size: bytes(size), sizes)
)
# Few values that are no text: unsquashfs's own memory breaks while it escapes some of them, of any image.
values = st.text('abc "', max_size=40).map(str.encode) | st.just(b"\1\0\x80\xff")
xattrs = st.dictionaries(st.sampled_from(["user.a", "user.b", "trusted.c", "security.capability"]), values, max_size=3)
paths = st.lists(names.map(lambda name: name[:60]), min_size=1, max_size=4)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Any tree: a path below a file or a link makes that a directory."""
    tree = Tree()
    for parts in draw(st.lists(paths, max_size=12)):
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            present = tree.get(above)
            if present is not None and present.kind is not Kind.DIRECTORY:
                tree.put(directory(above))
        path, kind = "/".join(parts), draw(st.sampled_from(list(Kind)))
        present = tree.get(path)
        if present is None or present.kind is not Kind.DIRECTORY:
            tree.put(
                Entry(
                    path,
                    kind,
                    # mksquashfs gives every link this mode when it reads a tar, and so do our trees.
                    0o777 if kind is Kind.SYMLINK else draw(st.integers(0, 0o7777)),
                    draw(numbers),
                    draw(numbers),
                    draw(st.integers(1, 2 * EPOCH)),
                    Inline(draw(datas) if kind is Kind.FILE else b""),
                    draw(names) if kind is Kind.SYMLINK else "",
                    xattrs=draw(xattrs),
                )
            )
    return tree


@settings(max_examples=40)
@given(base=trees(), other=trees(), data=st.data())
def test_any_tree_is_listed_as_if_packed_whole(base: Tree, other: Tree, data: st.DataObject, closure: Tools) -> None:
    """Whatever was kept: the tree's own contents, some of them, or those of another tree."""
    tree = data.draw(st.sampled_from([base, other]))
    with tempfile.TemporaryDirectory() as work:
        check(base, tree, closure, Path(work))


def test_a_change_writes_what_changed_and_tables(closure: Tools, tmp_path: Path) -> None:
    base = Tree(file(f"usr/{number}", noise(100_000, number)) for number in range(9))
    tree = base.copy()
    tree.put(file("etc/motd", "hello\n"))
    made = check(base, tree, closure, tmp_path)
    kept = (made.folder / "image").read_bytes()
    _, end = read(made.folder / "image")
    assembled = (tmp_path / "assembled").read_bytes()
    superblock = 96
    assert assembled[superblock:end] == kept[superblock:end]
    assert assembled[end:].startswith(b"hello\n")


def test_directories_of_every_length(closure: Tools, tmp_path: Path) -> None:
    """A run of names has 256 at most; beyond a block of the table a listing has an index; beyond 64 KiB it needs a
    larger inode.
    """
    for count in (0, 1, 255, 256, 257, 700, 3000):
        base = Tree([directory("d"), *(file(f"d/{'name' * 5}{number}", str(number)) for number in range(count))])
        work = tmp_path / str(count)
        work.mkdir()
        check(base, base, closure, work)


def test_more_fragments_than_a_block_of_their_table_holds(closure: Tools, tmp_path: Path) -> None:
    base = Tree(file(f"{number:04}", noise(BLOCK - 90, number)) for number in range(1100))
    check(base, base, closure, tmp_path)


@pytest.mark.parametrize("count", [0, 1, 30])
def test_a_tree_with_fewer_paths_than_the_pool_has_fragments(count: int, closure: Tools, tmp_path: Path) -> None:
    base = Tree(file(f"{number:04}", noise(BLOCK - 90, number)) for number in range(40))
    check(base, Tree(list(base)[:count]), closure, tmp_path)


def test_owners_and_attributes_beyond_a_block_of_their_tables(closure: Tools, tmp_path: Path) -> None:
    tree = Tree(
        Entry(f"{n:05}", Kind.FILE, uid=n, gid=n + 1, mtime=1, xattrs={"user.number": str(n).encode() * 9})
        for n in range(2500)
    )
    check(Tree(), tree, closure, tmp_path)


def test_the_same_tree_gives_the_same_bytes_whoever_packed_the_pool(closure: Tools, tmp_path: Path) -> None:
    base = Tree(file(f"usr/{number}", noise(50_000, number)) for number in range(40))
    tree = base.copy()
    tree.put(file("etc/motd", "hello\n"))
    images = set()
    for name in ("one", "other"):
        made = pool.pool(base, OPTIONS, closure, Store(tmp_path / name))
        for time in range(2):
            made.assemble(tree, tmp_path / f"{name}-{time}", EPOCH)
            images.add((tmp_path / f"{name}-{time}").read_bytes())
    assert len(images) == 1


def test_it_is_protected_without_reading_what_was_kept(closure: Tools, tmp_path: Path) -> None:
    """The root hash is that of all bytes, as veritysetup finds; a block that is damaged after it was kept does not
    pass.
    """
    base = Tree(file(f"usr/{number}", noise(100_000, number)) for number in range(9))
    tree = base.copy()
    tree.put(file("etc/motd", "hello\n"))
    made = pool.pool(base, OPTIONS, closure, Store(tmp_path / "store"))
    for name in ("quick", "plain"):
        made.assemble(tree, tmp_path / name, EPOCH)
    assert made.protect(tmp_path / "quick") == verity.protect(tmp_path / "plain")
    assert (tmp_path / "quick").read_bytes() == (tmp_path / "plain").read_bytes()

    with (made.folder / "image").open("r+b") as image:
        image.seek(10 * verity.BLOCK)
        damaged = bytes(byte ^ 1 for byte in image.read(1))
        image.seek(10 * verity.BLOCK)
        image.write(damaged)
    made.assemble(tree, tmp_path / "damaged", EPOCH)
    assert made.protect(tmp_path / "damaged").root_hash != verity.protect(tmp_path / "damaged").root_hash


def test_a_root_may_lie_on_another_file_system(closure: Tools, tmp_path: Path) -> None:
    """The kernel copies nothing by itself from one kind of file system to another."""
    base = Tree([file("a", noise(300_000))])
    made = pool.pool(base, OPTIONS, closure, Store(tmp_path / "store"))
    made.assemble(base, tmp_path / "here", EPOCH)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        assert Path(memory).stat().st_dev != tmp_path.stat().st_dev
        made.assemble(base, Path(memory) / "there", EPOCH)
        assert (Path(memory) / "there").read_bytes() == (tmp_path / "here").read_bytes()


@pytest.mark.parametrize("left", [0, 50, 10_000, -20])
def test_a_pool_that_a_power_cut_has_shortened_is_reported(left: int, closure: Tools, tmp_path: Path) -> None:
    base = Tree([file("a", noise(300_000)), file("b", "short")])
    made = pool.pool(base, OPTIONS, closure, Store(tmp_path / "store"))
    image = made.folder / "image"
    os.truncate(image, left if left >= 0 else image.stat().st_size + left)
    with pytest.raises(Failure, match="cut short") as caught:
        made.assemble(base, tmp_path / "root", EPOCH)
    assert caught.value.where == str(image)
    assert "osbuild cache --prune" in (caught.value.hint or "")


def test_a_pool_is_kept_by_what_is_in_it(closure: Tools, tmp_path: Path) -> None:
    """Names, modes and the order of equal contents make no other pool; another content or another compression does."""
    store = Store(tmp_path / "store")
    one = Tree([file("a", "x" * 5000), file("b", "y" * 5000)])
    first = pool.pool(one, OPTIONS, closure, store).folder
    renamed = Tree([file("c/a", "x" * 5000, 0o755), file("d", "y" * 5000), symlink("e", "d"), file("f", "x" * 5000)])
    assert pool.pool(renamed, OPTIONS, closure, store).folder == first
    assert pool.pool(Tree([file("a", "x" * 5000)]), OPTIONS, closure, store).folder != first
    assert pool.pool(one, ["-comp", "lz4"], closure, store).folder != first
    assert len(contents(renamed)) == 2


@pytest.mark.parametrize(
    ("kind", "options", "is_fit"),
    [
        ("squashfs", ["-comp", "zstd", "-Xcompression-level", "1", "-b", "1M"], True),
        ("squashfs", ["-comp", "lz4", "-Xhc", "-no-fragments"], True),
        ("squashfs", [], True),
        ("squashfs", ["-all-root"], False),
        ("squashfs", ["-comp", "zstd", "-p", "x d 755 0 0"], False),
        ("erofs", ["-zlz4"], False),
    ],
)
def test_only_options_about_compression_fit(kind: str, options: list[str], is_fit: bool) -> None:
    assert fits(kind, options) == is_fit


@pytest.mark.parametrize("options", [["-comp", "xz"], ["-comp", "gzip"], ["-comp", "lz4", "-Xhc"], ["-no-fragments"]])
def test_compressors_with_options_of_their_own(options: list[str], closure: Tools, tmp_path: Path) -> None:
    """What mksquashfs writes of a compressor's options stays where the kernel looks for it."""
    tree = Tree([file("usr/a", noise(300_000)), file("usr/b", "short"), file("usr/c", os.urandom(5000))])
    made = pool.pool(tree, options, closure, Store(tmp_path / "store"))
    made.assemble(tree, tmp_path / "assembled", EPOCH)
    pack(tree, "squashfs", options, tmp_path / "whole", EPOCH, closure)
    assert listing(tmp_path / "assembled", closure) == listing(tmp_path / "whole", closure)

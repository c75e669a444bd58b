"""The stream that carries a tree into its writer, read back by others: Python's tarfile, and what mksquashfs made of
it.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core.tree import Content, Entry, Inline, Kind, Slice, Tree, directory, file, symlink
from builder.debian.tools import Tools
from builder.formats.filesystem import feed, pack, tar_stream
from terminal import Failure

pytestmark = pytest.mark.slow

EPOCH = 1_700_000_000

# What Linux takes for a name: any bytes but NUL and the slash; those that are no UTF-8 come as surrogates, as from
# os.fsdecode.
names = (
    st.binary(min_size=1, max_size=120)
    .map(lambda raw: os.fsdecode(raw.replace(b"\0", b"_").replace(b"/", b"_")))
    .filter(lambda name: name not in (".", ".."))
)
numbers = st.integers(0, 2**32 - 2)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(list(Kind)))
    return Entry(
        "/".join(draw(st.lists(names, min_size=1, max_size=3))),
        kind,
        draw(st.integers(0, 0o7777)),
        draw(numbers),
        draw(numbers),
        draw(st.integers(0, 2 * EPOCH)),
        Inline(draw(st.binary(max_size=1500)) if kind is Kind.FILE else b""),
        draw(names) if kind is Kind.SYMLINK else "",
        xattrs=draw(st.dictionaries(st.sampled_from(["user.a", "security.capability"]), st.binary(), max_size=2)),
    )


def read_back(stream: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(stream), encoding="utf-8", errors="surrogateescape") as tar:
        return [(member, stream[member.offset_data :][: member.size]) for member in tar]


@given(st.lists(entries(), max_size=5, unique_by=lambda entry: entry.path))
def test_tarfile_reads_back_every_entry(given: list[Entry]) -> None:
    stream = b"".join(tar_stream(iter(given), EPOCH))
    assert len(stream) % 512 == 0
    (root, _), *rest = read_back(stream)
    assert (root.name, root.isdir(), root.mode, root.uid, root.gid, root.mtime) == (".", True, 0o755, 0, 0, EPOCH)
    kinds = {Kind.FILE: tarfile.REGTYPE, Kind.DIRECTORY: tarfile.DIRTYPE, Kind.SYMLINK: tarfile.SYMTYPE}
    for entry, (member, data) in zip(given, rest, strict=True):
        assert member.name == entry.path.rstrip("/")
        assert (member.type, member.mode, member.uid, member.gid) == (
            kinds[entry.kind],
            entry.mode,
            entry.uid,
            entry.gid,
        )
        assert (data, member.linkname if member.issym() else "") == (entry.content.read(), entry.target)
        xattrs = {
            key.removeprefix("SCHILY.xattr."): value.encode("utf-8", "surrogateescape")
            for key, value in member.pax_headers.items()
            if key.startswith("SCHILY.xattr.")
        }
        assert xattrs == entry.xattrs


@given(st.lists(entries(), max_size=5))
def test_no_time_is_later_than_the_epoch_and_directories_are_as_old(given: list[Entry]) -> None:
    for member, _ in read_back(b"".join(tar_stream(iter(given), EPOCH))):
        assert 0 < member.mtime <= EPOCH
        assert member.mtime == EPOCH or not member.isdir()


def test_a_directory_comes_before_what_is_in_it() -> None:
    tree = Tree([file("usr/lib/a/b", "x"), directory("usr/lib-x"), symlink("lib", "usr/lib")])
    names = [member.name for member, _ in read_back(b"".join(tar_stream(iter(tree), EPOCH)))]
    assert names == [".", "lib", "usr", "usr/lib", "usr/lib-x", "usr/lib/a", "usr/lib/a/b"]


@pytest.fixture
def tree() -> Tree:
    """A little of everything, and enough content for several processors to work on."""
    noise = b"".join(number.to_bytes(4, "big") for number in range(250_000))
    return Tree(
        [
            Entry("usr/bin/ping", Kind.FILE, 0o4755, 3_000_000, 70_000, 5, Inline(b"x" * 10), xattrs={"security.capability": b"\1\0\x80\xff"}),
            Entry("usr/share/late", Kind.FILE, 0o640, mtime=EPOCH + 9, content=Inline(b"late")),
            Entry("usr", Kind.DIRECTORY, mtime=77),
            symlink("bin", "usr/bin"),
            *(file(f"usr/share/noise/{number}", noise[number * 100_000 :]) for number in range(4)),
        ]
    )  # fmt: skip


def test_squashfs_holds_what_the_tree_says(tree: Tree, closure: Tools, tmp_path: Path) -> None:
    """unsquashfs -pf writes an image down in words: path, kind, time, mode, owner."""
    image = tmp_path / "image"
    pack(tree, "squashfs", ["-comp", "lz4"], image, EPOCH, closure)
    said = closure.run("unsquashfs", "-pf", "-", str(image)).partition(b"#\n# START OF DATA")[0].decode()
    lines = [line for line in said.splitlines() if "noise" not in line]
    assert lines == [
        f"/ D {EPOCH} 755 0 0",
        f"bin S {EPOCH} 777 0 0 usr/bin",
        f"usr D {EPOCH} 755 0 0",
        f"usr/bin D {EPOCH} 755 0 0",
        next(line for line in lines if line.startswith("usr/bin/ping R 5 4755 3000000 70000 10 ")),
        r"usr/bin/ping x security.capability=0t\001\000\200\377",
        f"usr/share D {EPOCH} 755 0 0",
        next(line for line in lines if line.startswith(f"usr/share/late R {EPOCH} 640 0 0 4 ")),
    ]


def test_erofs_has_the_same_root(tree: Tree, closure: Tools, tmp_path: Path) -> None:
    image = tmp_path / "image"
    pack(tree, "erofs", ["-zlz4"], image, EPOCH, closure)
    said = closure.run("dump.erofs", "--path=/", str(image)).decode()
    assert "Access: 0755/rwxr-xr-x" in said
    assert "Timestamp: 2023-11-14 22:13:20" in said


@pytest.mark.parametrize(
    ("kind", "options"), [("squashfs", ["-comp", "lz4"]), ("squashfs", ["-comp", "zstd"]), ("erofs", ["-zlz4"])]
)
def test_the_same_tree_gives_the_same_bytes(
    kind: str, options: list[str], tree: Tree, closure: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many threads as it likes, another time zone, another mask, and a SOURCE_DATE_EPOCH that is not ours."""
    images = set()
    for number, (zone, mask) in enumerate([("UTC", 0o22), ("Asia/Tokyo", 0o77), ("UTC", 0)]):
        monkeypatch.setenv("TZ", zone)
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(number))
        before = os.umask(mask)
        try:
            pack(tree, kind, options, tmp_path / str(number), EPOCH, closure)
        finally:
            os.umask(before)
        images.add((tmp_path / str(number)).read_bytes())
    assert len(images) == 1


def test_a_writer_that_refuses_is_quoted(tree: Tree, closure: Tools, tmp_path: Path) -> None:
    with pytest.raises(Failure) as failure:
        pack(tree, "squashfs", ["-comp", "nonsense"], tmp_path / "image", EPOCH, closure)
    assert "mksquashfs ended with code 1" in str(failure.value)
    assert "nonsense" in str(failure.value)
    assert "definition" in str(failure.value.hint)


def shell(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def test_a_full_disk_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no space left") as failure:
        feed(shell("cat > /dev/full"), os.environ, iter([b"x" * 100_000]), tmp_path / "image")
    assert "--output" in str(failure.value.hint)


def test_a_writer_that_dies_early_is_reported_with_its_signal(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="sh was ended by signal 9"):
        feed(shell("kill -9 $$"), {}, iter([b"x" * 100_000] * 50), tmp_path / "image")


def test_a_failing_source_ends_the_writer(tmp_path: Path) -> None:
    """A content that cannot be read, or Ctrl-C: the writer does not go on with half a tree."""

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise KeyboardInterrupt

    mark = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt):
        feed(shell(f"echo $$ > {mark}; exec sleep 60"), os.environ, broken(), tmp_path / "image")
    if mark.exists() and mark.read_text():  # it may have been ended before it wrote
        assert subprocess.run(["kill", "-0", mark.read_text().strip()], capture_output=True).returncode != 0


def test_what_lies_in_the_store_arrives_in_its_place(tmp_path: Path) -> None:
    stored = os.urandom(300_000)
    (tmp_path / "data").write_bytes(stored)
    parts: list[bytes | Content] = [
        b"one",
        Slice(tmp_path / "data", 7, 200_001, ""),
        Inline(b"two"),
        Slice(tmp_path / "data", 0, 3, ""),
        b"three",
    ]
    feed(shell(f"cat > {tmp_path / 'image'}"), os.environ, iter(parts), tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == b"one" + stored[7:200_008] + b"two" + stored[:3] + b"three"


def test_a_stored_file_that_is_cut_short_ends_the_writer(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"short")
    parts: list[bytes | Content] = [b"one", Slice(tmp_path / "data", 2, 100, "")]
    with pytest.raises(Failure, match=r"cut short \(3 of 100 bytes\)"):
        feed(shell("exec cat"), os.environ, iter(parts), tmp_path / "image")

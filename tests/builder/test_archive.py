"""Archives for clouds: read back by Python's tarfile and by the host's GNU tar, holes and all."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.debian.tools import Tools
from builder.formats import archive
from builder.formats.archive import GRAIN, Member
from terminal import Failure
from tests.builder.tarball import contents

EPOCH = 1_700_000_000
PIECE = st.tuples(st.integers(0, 3 * GRAIN), st.binary(min_size=1, max_size=40))


def unpacked(members: list[Member]) -> dict[str, bytes]:
    data = b"".join(archive.tar(members, EPOCH))
    with tarfile.open(fileobj=io.BytesIO(data)) as read:
        return contents(read)


@given(pieces=st.lists(PIECE, max_size=40), tail=st.integers(0, 2 * GRAIN), holes=st.booleans())
def test_a_sparse_file_comes_back_whole(pieces: list[tuple[int, bytes]], tail: int, holes: bool) -> None:
    """Whether the host has holes in it or zeros, and with more runs than the header has rows for."""
    expected = b"".join(bytes(gap) + data for gap, data in pieces) + bytes(tail)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "disk.raw")
        if holes:
            with path.open("wb") as file:
                file.truncate(len(expected))
                for gap, data in pieces:
                    file.seek(gap, io.SEEK_CUR)
                    file.write(data)
        else:
            path.write_bytes(expected)
        found = b"".join(archive.tar([Member("disk.raw", path, sparse=True), Member("note", b"after")], EPOCH))
        assert unpacked([Member("disk.raw", path, sparse=True)]) == {"disk.raw": expected}
    with tarfile.open(fileobj=io.BytesIO(found)) as read:
        assert contents(read) == {"disk.raw": expected, "note": b"after"}


def test_holes_and_zeros_are_the_same_bytes(tmp_path: Path) -> None:
    content = bytes(5 * GRAIN) + b"data" + bytes(3 * GRAIN)
    (tmp_path / "zeros").write_bytes(content)
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(len(content))
        file.seek(5 * GRAIN)
        file.write(b"data")
    zeros, holes = (
        b"".join(archive.tar([Member("disk.raw", tmp_path / name, sparse=True)], EPOCH)) for name in ("zeros", "holes")
    )
    assert zeros == holes
    assert len(zeros) < 2 * GRAIN


def test_gnu_tar_unpacks_it(tmp_path: Path, closure: Tools) -> None:
    """More runs than fit into the header and one block after it; the last is a hole."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        for number in range(40):
            file.seek(2 * number * GRAIN)
            file.write(b"%d" % number * 600)
        file.truncate(100 * GRAIN)
    members = [Member("first", b"1"), Member("disk.raw", path, sparse=True), Member("whole", path)]
    archive.tar_gz(members, tmp_path / "x.tar.gz", EPOCH, closure)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xzf", tmp_path / "x.tar.gz", "-C", tmp_path / "out"], check=True)
    assert (tmp_path / "out/disk.raw").read_bytes() == path.read_bytes() == (tmp_path / "out/whole").read_bytes()
    assert (tmp_path / "out/first").read_bytes() == b"1"
    assert (tmp_path / "out/disk.raw").stat().st_mtime == EPOCH
    listed = subprocess.run(
        ["tar", "-tvzf", tmp_path / "x.tar.gz", "--numeric-owner"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert [line.split()[:3] for line in listed] == [
        ["-rw-r--r--", "0/0", size] for size in ("1", str(100 * GRAIN), str(100 * GRAIN))
    ]


def test_gzip_has_neither_name_nor_time(tmp_path: Path, closure: Tools) -> None:
    """RFC 1952: magic, method, flags, time."""
    archive.tar_gz([Member("a", b"b")], tmp_path / "x.tar.gz", EPOCH, closure)
    data = (tmp_path / "x.tar.gz").read_bytes()
    assert data[:8] == b"\x1f\x8b\x08\0\0\0\0\0"
    assert gzip.decompress(data) == b"".join(archive.tar([Member("a", b"b")], EPOCH))


def test_sizes_beyond_octal_are_binary() -> None:
    for size in (0, 8**11 - 1, 8**11, 8**12):
        member = tarfile.TarInfo("large")
        member.size = size
        assert archive._number(size) == member.tobuf(tarfile.GNU_FORMAT)[124:136]


def test_a_folder_that_is_not_there_is_a_failure(tmp_path: Path, closure: Tools) -> None:
    with pytest.raises(Failure, match="No such file"):
        archive.tar_gz([Member("a", b"b")], tmp_path / "no/x.tar.gz", EPOCH, closure)

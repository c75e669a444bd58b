"""Finding a file's bytes on a state disk: with real file systems, which e2fsprogs of the tools closure make and read."""

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.debian.tools import Tools
from cluster.faults import corruption
from cluster.faults.corruption import Found, Run
from terminal import Failure, UsageFailure

REAL_CACHE = {key: os.environ.get(key) for key in ("XDG_CACHE_HOME", "HOME")}


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Tools:
    """The closure of the person at the desk: this room's other tests have a cache of their own, which is empty."""
    before = REAL_CACHE["XDG_CACHE_HOME"]
    if before is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", before)
    return Tools.ours()


@pytest.fixture
def disk(tools: Tools, tmp_path: Path) -> Path:
    """A state disk with a file of 300,000 bytes that is in pieces, one with a hole, and a folder."""
    tree = tmp_path / "tree/lib/etcd"
    tree.mkdir(parents=True)
    (tree / "log").write_bytes(random.Random(1).randbytes(300_000))
    with (tree / "holes").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(500_000)
        file.write(b"data")
    (tmp_path / "tree/opt").mkdir()
    (tmp_path / "tree/opt/app").write_bytes(b"application")
    (tmp_path / "tree/opt/link").symlink_to("app")
    path = tmp_path / "state.img"
    with path.open("wb") as file:
        file.truncate(32 << 20)
    tools.run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-d", str(tmp_path / "tree"), str(path))
    return path


def content(tools: Tools, disk: Path, path: str, tmp_path: Path) -> bytes:
    """What the file system says is in its file."""
    target = tmp_path / "dumped"
    tools.run("debugfs", "-R", f"dump {path} {target}", str(disk))
    return target.read_bytes()


def test_the_bytes_of_a_file_are_those_that_change(tools: Tools, disk: Path, tmp_path: Path) -> None:
    before = content(tools, disk, "/lib/etcd/log", tmp_path)
    stretches = corruption.find(disk, "/var/lib/etcd/log", 1000, 50_000)
    assert sum(length for _, length in stretches) == 50_000
    left = corruption.invert(disk, stretches)
    after = content(tools, disk, "/lib/etcd/log", tmp_path)
    assert after[1000:51_000] == bytes(byte ^ 0xFF for byte in before[1000:51_000])
    assert after[:1000] + after[51_000:] == before[:1000] + before[51_000:]
    corruption.restore(disk, stretches, left)
    assert content(tools, disk, "/lib/etcd/log", tmp_path) == before


def test_a_journal_that_a_power_cut_left_is_replayed_first(tools: Tools, disk: Path) -> None:
    tools.run("debugfs", "-w", "-R", "feature needs_recovery", str(disk))
    corruption.find(disk, "/opt/app", 0, 1)
    said = tools.run("debugfs", "-R", "features", str(disk)).decode()
    assert "needs_recovery" not in said


@pytest.mark.parametrize(
    ("path", "begin", "says"),
    [
        ("/var/lib/etcd/none", 0, "does not exist on the node's state disk"),
        ("/var/lib/etcd", 0, "is no regular file"),
        ("/opt/link", 0, "is no regular file"),
        ("/opt/app", 11, "the file has 11 bytes, not 12"),
        ("/var/lib/etcd/holes", 0, "byte 0 of the file is not on the disk: those from 499712 were written"),
    ],
)
def test_what_cannot_be_found_is_reported(disk: Path, path: str, begin: int, says: str) -> None:
    with pytest.raises(Failure, match=says):
        corruption.find(disk, path, begin, 1)


def test_a_disk_that_no_node_has_formatted_yet(tmp_path: Path) -> None:
    disk = tmp_path / "state.img"
    disk.write_bytes(bytes(4096))
    with pytest.raises(Failure, match="has no file system yet"):
        corruption.find(disk, "/opt/app", 0, 1)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/var/lib/etcd/x", "/lib/etcd/x"),
        ("/etc/hostname", "/lib/flotilla/etc/upper/hostname"),
        ("/home/core/x", "/home/core/x"),
        ("/root/x", "/root/x"),
    ],
)
def test_paths_of_a_node_in_its_state(path: str, inside: str) -> None:
    assert corruption.state_path(path) == inside


@pytest.mark.parametrize(
    "path", ["", "var/x", "/", "/var", "/usr/bin/x", "/var/../etc/x", '/var/"x', "/var/a\nb", "/variable/x"]
)
def test_paths_that_are_not_on_the_state_disk(path: str) -> None:
    with pytest.raises(UsageFailure, match="state disk"):
        corruption.state_path(path)


STAT = """\
Inode: 14   Type: regular    Mode:  0644   Flags: 0x80000
Generation: 0    Version: 0x00000000:00000000
User:     0   Group:     0   Project:     0   Size: 70000000
File ACL: 0
Links: 1   Blockcount: 40
EXTENTS:
(ETB0):9000, (0-1):500-501, (2):700, (3-9[u]):800-806
"""


def test_what_debugfs_says_is_read() -> None:
    runs = (Run(0, 500, 2), Run(2, 700, 1), Run(3, 800, 7, written=False))
    assert corruption.parse_stat(STAT) == Found(70000000, runs)
    assert corruption.parse_stat(STAT.replace("regular", "directory")) is None
    assert corruption.parse_stat("/x: File not found by ext2_lookup\n") is None


def test_room_that_was_only_set_aside_has_no_bytes() -> None:
    found = corruption.parse_stat(STAT)
    assert found is not None
    assert corruption.locate(found, 4000, 200, 4096) == [(500 * 4096 + 4000, 200)]
    assert corruption.locate(found, 8190, 4, 4096) == [(501 * 4096 + 4094, 2), (700 * 4096, 2)]
    with pytest.raises(Failure, match="byte 12288 of the file is not on the disk: those from 0 were written"):
        corruption.locate(found, 12287, 2, 4096)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_every_byte_of_a_file_is_found_once(counts: list[int], data: st.DataObject) -> None:
    """Pieces anywhere on the disk, in any order: what is found for a range is what one would find byte by byte."""
    block, physical, logical, runs = 64, 100, 0, []
    for count in counts:
        physical += data.draw(st.integers(1, 9))
        runs.append(Run(logical, physical, count))
        logical, physical = logical + count, physical + count
    size = logical * block - data.draw(st.integers(0, block - 1))
    found = Found(size, tuple(data.draw(st.permutations(runs))))
    begin = data.draw(st.integers(0, size - 1))
    count = data.draw(st.integers(1, size - begin))
    where = {
        at: (run.physical + each) * block + at % block
        for run in runs
        for each in range(run.count)
        for at in range((run.logical + each) * block, (run.logical + each + 1) * block)
    }
    offsets = [
        offset + each for offset, length in corruption.locate(found, begin, count, block) for each in range(length)
    ]
    assert offsets == [where[at] for at in range(begin, begin + count)]

"""Writing and verifying, on a file in place of a disk; the tests on machines do it on real ones."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from builder.debian.tools import Tools
from install import state, write
from install.gpt import table
from install.layout import Layout
from terminal import Failure, Phases
from tests.install.smalldisk import MIB, medium

pytestmark = pytest.mark.slow

SIZE = 60 * MIB


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A medium in the test's folder."""
    return medium(tmp_path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A disk full of something else."""
    path = tmp_path / "disk"
    path.write_bytes(b"\xa5" * SIZE)
    return path


@pytest.fixture
def phases() -> Phases:
    """Silence."""
    return Phases(quiet=True)


def has_table(path: Path) -> bool:
    """Would a reader find partitions?"""
    data = path.read_bytes()
    return b"EFI PART" in (data[512:520], data[-512:-504]) or data[510:512] == b"\x55\xaa"


def test_the_disk_becomes_what_the_image_is(layout: Layout, target: Path, tmp_path: Path, phases: Phases) -> None:
    write.write(layout, SIZE, tmp_path, target, phases)
    data = target.read_bytes()
    expected = bytearray(layout.size)
    for extent in layout.extents:
        source = (tmp_path / extent.source).read_bytes()[extent.source_offset :][: extent.size]
        expected[extent.offset : extent.offset + extent.size] = source
    primary, backup = table(layout.grown(SIZE))
    expected[: len(primary)] = primary
    assert data[: layout.size] == bytes(expected)
    assert data[-MIB:] == bytes(MIB - len(backup)) + backup
    assert len(data) == SIZE
    # So the first boot finds an empty state partition, and formats it.
    assert not any(data[layout.state.start :][:MIB])


def test_state_with_user_data_is_copied_whole(
    layout: Layout, target: Path, tmp_path: Path, phases: Phases, closure: Tools
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    image = state.make(b"#cloud-config\nhostname: it\n", layout.state.size, work, str(closure.path("mke2fs")))
    write.write(layout, SIZE, tmp_path, target, phases, image)
    part = tmp_path / "part"
    part.write_bytes(target.read_bytes()[layout.state.start :][: layout.state.size])
    assert part.read_bytes() == image.read_bytes()
    closure.run("e2fsck", "-f", "-n", str(part))
    assert closure.run("debugfs", "-R", "cat /lib/flotilla/user-data", str(part)) == b"#cloud-config\nhostname: it\n"
    stat = closure.run("debugfs", "-R", "stat /lib/flotilla/user-data", str(part)).decode()
    assert "Mode:  0600" in stat
    assert "Mode:  0755" in closure.run("debugfs", "-R", "stat /lib/flotilla", str(part)).decode()
    assert "Mode:  0755" in closure.run("debugfs", "-R", "stat /", str(part)).decode()


def test_a_damaged_medium_leaves_no_table(layout: Layout, target: Path, tmp_path: Path, phases: Phases) -> None:
    root = tmp_path / "root.img"
    data = bytearray(root.read_bytes())
    data[5000] ^= 1
    root.write_bytes(data)
    with pytest.raises(Failure, match="medium is damaged") as caught:
        write.write(layout, SIZE, tmp_path, target, phases)
    assert caught.value.where == str(root)
    assert not has_table(target)


def test_a_medium_that_ends_early_is_damaged(layout: Layout, target: Path, tmp_path: Path, phases: Phases) -> None:
    os.truncate(tmp_path / "root.img", 4096)
    with pytest.raises(Failure, match="medium is damaged"):
        write.write(layout, SIZE, tmp_path, target, phases)
    assert not has_table(target)


def test_a_medium_without_its_root_says_which_file(
    layout: Layout, target: Path, tmp_path: Path, phases: Phases
) -> None:
    (tmp_path / "root.img").unlink()
    with pytest.raises(Failure) as caught:
        write.write(layout, SIZE, tmp_path, target, phases)
    assert caught.value.where == str(tmp_path / "root.img")
    assert not has_table(target)


@pytest.mark.parametrize(("failing", "blamed"), [("pread", "root.img"), ("pwrite", "disk")])
def test_trouble_of_reading_and_writing_names_the_right_one(
    layout: Layout,
    target: Path,
    tmp_path: Path,
    phases: Phases,
    monkeypatch: pytest.MonkeyPatch,
    failing: str,
    blamed: str,
) -> None:
    """As a scratched medium, or a worn-out disk, in the middle of the root."""
    real = getattr(os, failing)
    place = layout.extents[1].source_offset if failing == "pread" else layout.extents[1].offset

    def broken(file: int, what: Any, at: int) -> Any:
        emptying = failing == "pwrite" and what[:4] != b"root"
        if at == place and not emptying and Path(f"/proc/self/fd/{file}").readlink().name == blamed:
            raise OSError(errno.EIO, "Input/output error")
        return real(file, what, at)

    monkeypatch.setattr(os, failing, broken)
    with pytest.raises(Failure, match="Input/output error") as caught:
        write.write(layout, SIZE, tmp_path, target, phases)
    assert caught.value.where == str(tmp_path / blamed)
    assert not has_table(target)


def test_a_disk_that_forgets_is_found_out(
    layout: Layout, target: Path, tmp_path: Path, phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit is lost between writing and reading back; the real disk does it, not the program."""
    sync = os.fsync
    done = []

    def losing(file: int) -> None:
        sync(file)
        done.append(file)
        if len(done) == 2:  # after copying
            at = layout.extents[1].offset + 7
            (byte,) = os.pread(file, 1, at)
            os.pwrite(file, bytes([byte ^ 4]), at)

    monkeypatch.setattr(os, "fsync", losing)
    with pytest.raises(Failure, match="other bytes than were written") as caught:
        write.write(layout, SIZE, tmp_path, target, phases)
    assert caught.value.where == str(target)
    assert caught.value.hint is not None
    assert "no partition table" in caught.value.hint
    assert not has_table(target)


@pytest.mark.parametrize("step", range(1, 4))
def test_an_interrupted_installation_boots_nothing_and_says_so(
    layout: Layout,
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
) -> None:
    """Interrupted at each point where something must have reached the disk: after emptying, after copying, after the
    backup of the table.
    """
    sync = os.fsync
    calls = []

    def interrupted(file: int) -> None:
        sync(file)
        calls.append(file)
        if len(calls) == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write.write(layout, SIZE, tmp_path, target, Phases())
    data = target.read_bytes()
    assert not any(data[:MIB])
    assert "no partition table" in capsys.readouterr().err
    monkeypatch.undo()
    write.write(layout, SIZE, tmp_path, target, Phases(quiet=True))
    assert has_table(target)


def test_the_table_is_written_after_all_else(
    layout: Layout, target: Path, tmp_path: Path, phases: Phases, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    places: list[int] = []

    def recorded(file: int, data: Any, at: int) -> int:
        places.append(at)
        return pwrite(file, data, at)

    monkeypatch.setattr(os, "pwrite", recorded)
    write.write(layout, SIZE, tmp_path, target, phases)
    assert places[-1] == 0
    assert places[-2] > SIZE - MIB
    assert max(places[:-2]) <= SIZE - MIB


def test_a_sparse_file_with_no_data_copies_nothing(tmp_path: Path) -> None:
    path = tmp_path / "hole"
    with path.open("wb") as file:
        file.truncate(MIB)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert list(write.data(descriptor, MIB)) == []
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("blocks", [[0], [255], [0, 1, 2], [3, 9], range(256)])
def test_data_of_a_sparse_file_is_found_in_whole_blocks(tmp_path: Path, blocks: Sequence[int]) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(MIB)
        for block in blocks:
            file.seek(block * 4096 + 17)
            file.write(b"x")
    with path.open("rb") as file:
        found = list(write.data(file.fileno(), MIB))
    covered = bytearray(MIB)
    original = path.read_bytes()
    for begin, end in found:
        assert begin % 4096 == end % 4096 == 0
        covered[begin:end] = original[begin:end]
    assert hashlib.sha256(covered).digest() == hashlib.sha256(original).digest()

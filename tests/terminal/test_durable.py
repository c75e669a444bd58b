"""Files that are there whole or not at all. What a kill leaves is seen where they are used: tests/trust/dying.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from terminal import durable


@pytest.fixture
def umask() -> Iterator[None]:
    """One that takes everything from others."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mode", "expected"), [(None, 0o600), (0o644, 0o644), (0o640, 0o640)])
def test_a_mode_holds_whatever_the_umask_says(tmp_path: Path, mode: int | None, expected: int) -> None:
    durable.create(tmp_path / "new", "text", mode=mode)
    assert (tmp_path / "new").read_text() == "text"
    assert (tmp_path / "new").stat().st_mode & 0o777 == expected


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            durable.create(tmp_path / name, "text")
    assert (tmp_path / "there").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_file_is_replaced_and_what_a_kill_left_is_gone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file.new").write_text("hal")
    durable.replace(tmp_path / "file", "new", mode=0o600)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "new")]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_replacement_that_cannot_be_written_leaves_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        durable.replace(tmp_path / "file", "\udcff")
    assert (tmp_path / "file").read_text() == "old"

"""Folders of ours as entries, and the ids that say whether they changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.core import inputs
from builder.core.tree import Kind
from terminal import Failure


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "overlay"
    for name, text in {"etc/issue": "hello", "etc/sudoers.d/core": "core", "usr/bin/run": "#!/bin/sh"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "usr/bin/run").chmod(0o700)
    (folder / "etc/link").symlink_to("issue")
    (folder / "etc/__pycache__").mkdir()
    (folder / "etc/__pycache__/x.pyc").write_text("")
    return folder


def test_files_and_links_come_with_modes_of_ours(folder: Path) -> None:
    found = {entry.path: entry for entry in inputs.folder_entries(folder, "under/")}
    assert {path: entry.mode for path, entry in found.items()} == {
        "under/etc/issue": 0o644,
        "under/etc/link": 0o777,
        "under/etc/sudoers.d/core": 0o440,
        "under/usr/bin/run": 0o755,
    }
    assert (found["under/etc/link"].kind, found["under/etc/link"].target) == (Kind.SYMLINK, "issue")
    assert {(entry.uid, entry.gid, entry.mtime) for entry in found.values()} == {(0, 0, 0)}


def rewrite(folder: Path) -> None:
    (folder / "etc/issue").write_text("hallo")


def move(folder: Path) -> None:
    (folder / "etc/issue").rename(folder / "etc/issue.net")


def make_executable(folder: Path) -> None:
    (folder / "etc/issue").chmod(0o755)


def turn_link(folder: Path) -> None:
    (folder / "etc/link").unlink()
    (folder / "etc/link").symlink_to("elsewhere")


def add_empty_file(folder: Path) -> None:
    (folder / "etc/empty").touch()


@pytest.mark.parametrize("change", [rewrite, move, make_executable, turn_link, add_empty_file])
def test_the_id_changes_with_what_would_be_built(change: Callable[[Path], None], folder: Path) -> None:
    before = inputs.digest(folder)
    change(folder)
    assert inputs.digest(folder) != before


def touch(folder: Path) -> None:
    os.utime(folder / "etc/issue", (1, 1))


def mask(folder: Path) -> None:
    (folder / "etc/issue").chmod(0o600)


def compile_something(folder: Path) -> None:
    (folder / "etc/__pycache__/y.pyc").write_text("bytecode")


@pytest.mark.parametrize("change", [touch, mask, compile_something])
def test_the_id_stays_when_nothing_would_be_built_again(change: Callable[[Path], None], folder: Path) -> None:
    before = inputs.digest(folder)
    change(folder)
    assert inputs.digest(folder) == before


def test_a_folder_that_is_not_there_is_no_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no such folder"):
        list(inputs.folder_entries(tmp_path / "ovrelay", ""))


def test_a_pipe_has_no_place_in_an_image(folder: Path) -> None:
    os.mkfifo(folder / "etc/pipe")
    with pytest.raises(Failure, match="etc/pipe"):
        list(inputs.folder_entries(folder, ""))


def test_our_own_code_has_an_id() -> None:
    assert len(inputs.code()) == 64


def test_node_code_lies_below_its_package() -> None:
    paths = {entry.path for entry in inputs.node_code(("terminal",))}
    assert "usr/lib/flotilla/terminal/failure.py" in paths
    assert not any("__pycache__" in path for path in paths)

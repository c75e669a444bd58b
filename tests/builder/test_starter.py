"""``osbuild new``: what it writes is a definition that loads, says what it adds, and overwrites no file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli import new as verb
from builder.cli import run
from builder.core import data
from builder.definition import definition
from terminal import command

Out = pytest.CaptureFixture[str]


def new(folder: Path) -> int:
    return command("osbuild", run, ["new", str(folder)])


def test_a_starter_adds_to_our_node(tmp_path: Path, capsys: Out) -> None:
    folder = tmp_path / "not there" / "mine"
    assert new(folder) == 0
    path = folder / "node.yaml"
    assert capsys.readouterr().out == (
        f"made '{path}'; next: edit it, then\n  osbuild lock '{path}'\n  osbuild image --definition '{path}'\n"
    )
    assert sorted(each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()) == [
        "README.md",
        "node.yaml",
        "overlay/etc/motd",
    ]
    ours, mine = definition.load(data.image() / "node.yaml"), definition.load(path)
    assert mine.name == "mine"
    assert mine.wants() == [*ours.wants(), ("htop", None)]
    assert mine.overlays() == (*ours.overlays(), folder / "overlay")
    # Besides these it is ours, whatever becomes of that.
    added = {"name": ours.name, "packages": ours.packages, "overlay": ours.overlay}
    assert mine.model_copy(update=added) == ours
    assert len(path.read_text().splitlines()) <= 12


def test_an_empty_folder_will_do_and_no_other(tmp_path: Path, capsys: Out) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    assert new(folder) == 0
    (folder / "node.yaml").write_text("edited")
    assert new(folder) == 1
    assert "mine: this folder is not empty" in capsys.readouterr().err
    assert (folder / "node.yaml").read_text() == "edited"


@pytest.mark.parametrize("below", ["file", "file/mine"])
def test_what_is_no_folder_is_reported(below: str, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "file").write_text("mine")
    assert new(tmp_path / below) == 1
    assert "cannot write a definition there: " in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_the_folder_one_stands_in_gives_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir("here")
    assert new(Path()) == 0
    assert definition.load(Path("node.yaml")).name == "here"


@pytest.mark.parametrize("name", ["yes", "12", "1e3", "null", "2026-01-01", "a: b", "{x}", "", "\udc80"])
def test_any_folder_name_gives_a_definition(name: str, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(verb.files(name)["node.yaml"])
    assert definition.load(path).name in (name, "mine")


@given(st.text())
def test_every_file_can_be_written(name: str) -> None:
    for text in verb.files(name).values():
        assert text.encode()

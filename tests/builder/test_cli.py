"""The command's face: exit codes, what goes to stdout, and locking through a made-up archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.cli import run
from builder.debian import apt
from builder.debian.apt import Programs
from builder.debian.tools import Tools
from terminal import command
from tests.builder.conftest import Archive, Signer
from tests.builder.smallworld import World

Out = pytest.CaptureFixture[str]

DEFINITION = """\
version: 1
name: mine
suites: [{suite: one}]
packages: [tool]
container: {repository: test/mine}
"""


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


def osbuild(*words: str | Path) -> int:
    return command("osbuild", run, [str(word) for word in words])


VERBS = ["image", "container", "verify", "lock", "scripts", "tools", "cache", "schema", "new"]


@pytest.mark.parametrize("verb", [[], *([verb] for verb in VERBS)])
def test_help_ends_with_examples(verb: list[str], capsys: Out) -> None:
    with pytest.raises(SystemExit) as end:
        run([*verb, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert f"\nexamples:\n  osbuild {' '.join(verb)}" in said
    assert "--host-apt" not in said


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["image", "--target", "nonsense"], ["container"], ["tools", "a", "b"], ["new"]]
)
def test_wrong_usage_is_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(words)
    assert end.value.code == 2


def test_version(capsys: Out) -> None:
    assert osbuild("--version") == 0
    assert capsys.readouterr().out.startswith("osbuild ")


# --- tools -----------------------------------------------------------------------------------------------------------


def test_tools_prints_what_to_run(world: World, closure: Tools, capsys: Out) -> None:
    assert osbuild("tools", "mksquashfs", "--store", world.store) == 0
    assert capsys.readouterr().out == f"{world.store}/tools/{closure.root.name}/launch/mksquashfs\n"
    assert osbuild("tools", "mksquashfs", "--store", world.store, "--json") == 0
    (program,) = json.loads(capsys.readouterr().out)
    assert Path(program).is_file()


def test_tools_alone_lists_all_programs(world: World, capsys: Out) -> None:
    assert osbuild("tools", "--store", world.store) == 0
    assert {"mksquashfs", "mkfs.erofs", "depmod", "apt-get"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["nonsense", "../etc/passwd"])
def test_an_unknown_tool_is_1(name: str, world: World, capsys: Out) -> None:
    assert osbuild("tools", name, "--store", world.store) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "has no program" in said.err
    assert "hint: add its package to image/tools.yaml" in said.err


# --- cache -----------------------------------------------------------------------------------------------------------


def test_cache_shows_and_prunes(world: World, capsys: Out) -> None:
    assert world.container("--quiet") == 0
    capsys.readouterr()
    assert osbuild("cache", "--store", world.store) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [str(world.store), "artifacts", "size"]
    assert [line.split()[:2] for line in lines[1:3]] == [["downloads", "2"], ["packages", "2"]]

    kept: list[str | Path] = [*("--keep", world.small.with_suffix(".lock")), "--quiet"]
    assert osbuild("cache", "--prune", *kept, "--store", world.store) == 0
    assert capsys.readouterr().out.startswith("pruned 1 artifacts")  # the step's; packages are in the lock that is kept
    assert osbuild("cache", "--prune", "--json", "--quiet", "--store", world.store) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert {each["kind"]: each["artifacts"] for each in parsed["pruned"]} == {
        "downloads": 2,
        "packages": 2,
        "tools": 0,
        "steps": 0,
    }
    assert {each["kind"]: each["artifacts"] for each in parsed["held"]} == {
        "downloads": 0,
        "packages": 0,
        "tools": 1,
        "steps": 0,
    }


def test_cache_prunes_nothing_when_a_lock_cannot_be_read(world: World, capsys: Out) -> None:
    assert world.container("--quiet") == 0
    assert osbuild("cache", "--prune", "--keep", world.root / "nonsense.lock", "--store", world.store) == 1
    assert "there is no lock" in capsys.readouterr().err
    assert len(list((world.store / "downloads").iterdir())) == 2


# --- lock ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A definition that has no lock yet."""
    path = tmp_path / "mine.yaml"
    path.write_text(DEFINITION)
    return path


@pytest.fixture
def lock(mine: Path, world: World, archive: Archive, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """``osbuild lock`` of that definition, with the archive of this test, which apt believes; --host-apt would take the
    host's own.
    """
    monkeypatch.setattr(Tools, "apt", lambda _: programs)
    return ["lock", str(mine), "--store", str(world.store), "--mirror", f"file://{archive.root.parent}", "--quiet"]


def test_lock_writes_and_says_what_changed(
    lock: list[str], mine: Path, archive: Archive, signer: Signer, capsys: Out
) -> None:
    archive.add("one", "tool", Depends="part")
    archive.add("one", "part")
    archive.write(signer)
    assert osbuild(*lock, "--check") == 1
    assert not mine.with_suffix(".lock").exists()
    capsys.readouterr()
    assert osbuild(*lock) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["added", "part"], ["added", "tool"]]
    assert mine.with_suffix(".lock").exists()
    assert osbuild(*lock, "--check") == 0
    assert "nothing changed" in capsys.readouterr().out


def test_an_archive_that_stands_still_needs_a_word(
    lock: list[str], archive: Archive, signer: Signer, capsys: Out
) -> None:
    archive.add("one", "tool")
    archive.write(signer, age=90 * 86400, valid=86400)
    assert osbuild(*lock) == 1
    assert "--allow-expired" in capsys.readouterr().err
    assert osbuild(*lock, "--allow-expired") == 0


def test_lock_with_the_hosts_apt_needs_no_closure(
    lock: list[str], archive: Archive, signer: Signer, programs: Programs, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.add("one", "tool")
    archive.write(signer)
    (closure,) = (world.store / "tools").iterdir()
    closure.unlink()
    monkeypatch.setattr(apt, "host_programs", lambda: programs)
    assert osbuild(*lock, "--host-apt") == 0
    assert list((world.store / "tools").iterdir()) == []


def test_when_the_mirror_dropped_a_tool_the_way_out_is_named(
    lock: list[str], world: World, archive: Archive, capsys: Out
) -> None:
    (closure,) = (world.store / "tools").iterdir()
    closure.unlink()
    assert osbuild(*lock) == 1
    said = capsys.readouterr().err
    assert "the mirror has no " in said
    assert "'osbuild lock --host-apt image/tools.yaml'" in said


def test_a_folder_that_is_not_ours_is_reported_before_anything(
    lock: list[str], capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert osbuild(*lock) == 1
    assert "the lock's folder is not yours to write" in capsys.readouterr().err

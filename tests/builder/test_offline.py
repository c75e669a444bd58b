"""``--offline``: from the store alone, or a list of what it lacks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.debian import mirror
from builder.debian.mirror import Mirror
from builder.debian.tools import Tools, our_lock
from tests.builder.smallworld import World
from tests.builder.test_build import osbuild, snapshot

Out = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


@pytest.fixture
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for a mirror at all fails the test."""

    def find(*_: object) -> Mirror:
        raise AssertionError("a mirror was looked up")

    monkeypatch.setattr(mirror, "find", find)


@pytest.mark.parametrize("lost", ["packages", "downloads", "steps"])
def test_a_store_that_has_enough_needs_no_mirror(lost: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package is there as it was downloaded or as it was unpacked: either will do."""
    builds: tuple[list[str | Path], ...] = (["container", world.small], ["image", "--definition", world.node])
    for words in builds:
        assert osbuild(world, *words) == 0
        before = snapshot(world.output)
        shutil.rmtree(world.store / lost)
        with monkeypatch.context() as patched:
            patched.setattr(mirror, "find", None)
            assert osbuild(world, *words, "--force", "--offline") == 0
        assert snapshot(world.output) == before
        shutil.rmtree(world.output)


@pytest.mark.usefixtures("no_mirror")
def test_what_is_missing_is_listed_with_its_bytes(world: World, capsys: Out) -> None:
    base, tool = world.locked["base"].size, world.locked["tool"].size
    assert osbuild(world, "container", world.small, "--offline") == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{world.store}: 2 packages are not in the store, {base + tool:,} bytes to download" in said.err
    assert f"{base:,}  base 1.0\n" in said.err
    assert f"{tool:,}  tool 1.0\n" in said.err
    assert "hint: build once without --offline" in said.err
    assert not world.output.exists()
    assert world.leftovers() == []


@pytest.mark.usefixtures("no_mirror")
def test_missing_tools_are_listed_as_well(world: World, capsys: Out) -> None:
    (closure,) = (world.store / "tools").iterdir()
    closure.unlink()
    assert osbuild(world, "container", world.small, "--offline") == 1
    packages = [*our_lock().packages, world.locked["base"], world.locked["tool"]]
    said = capsys.readouterr().err
    assert f"{len(packages)} packages are not in the store, {sum(each.size for each in packages):,} bytes" in said
    assert f"in {len(packages) - 20} more" in said


def test_with_no_cache_the_downloads_must_be_there(world: World, capsys: Out) -> None:
    """What is unpacked is of no use to a build that unpacks again."""
    assert world.container() == 0
    (world.store / "downloads" / f"{world.locked['tool'].sha256}.deb").unlink()
    assert osbuild(world, "container", world.small, "--offline", "--no-cache") == 1
    assert "1 package is not in the store" in capsys.readouterr().err
    assert osbuild(world, "container", world.small, "--no-cache") == 0

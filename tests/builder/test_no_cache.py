"""``--no-cache``: every step again, in place of what the store held, and no harm to whoever is using that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder.debian.tools import Tools
from builder.pipeline import cache
from builder.targets import container
from tests.builder.smallworld import World
from tests.builder.test_build import osbuild, snapshot
from tests.builder.test_kill import PATIENCE
from tests.eventually import eventually

Out = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


def made(world: World) -> dict[str, bytes]:
    """Every file that builds made in the store."""
    files = [path for kind in ("packages", "steps") for path in (world.store / kind).rglob("*") if path.is_file()]
    return {path.relative_to(world.store).as_posix(): path.read_bytes() for path in files}


def spoil_package(world: World) -> None:
    """Flip one byte of what the tool's package was unpacked to."""
    (path,) = (world.store / "packages").glob(f"{world.locked['tool'].sha256[:40]}*/data.tar")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"echo tool", b"echo t00l"))
    assert path.read_bytes() != data


def spoil_step(world: World) -> None:
    """Take the tool out of every finished tree."""
    for path in (world.store / "steps").glob("*/tree.json"):
        path.write_text(json.dumps([row for row in json.loads(path.read_text()) if row[2][0] != "usr/bin/tool"]))


@pytest.mark.parametrize("spoil", [spoil_package, spoil_step])
def test_what_was_damaged_is_ignored_and_replaced(spoil: object, world: World) -> None:
    assert callable(spoil)
    assert world.container() == 0
    right, store = snapshot(world.output), made(world)
    spoil(world)
    assert world.container("--force") == 0
    assert snapshot(world.output) != right  # the damage is real, and nothing else would notice it
    assert world.container("--no-cache") == 0
    assert snapshot(world.output) == right
    assert made(world) == store
    assert world.container("--force") == 0
    assert snapshot(world.output) == right
    assert world.leftovers() == []


def test_nothing_is_downloaded_and_what_is_right_stays_in_place(world: World) -> None:
    assert world.container() == 0
    before = {path: path.stat().st_ino for path in world.store.rglob("*") if path.name in ("data.tar", "tree.json")}
    shutil.rmtree(world.mirror)
    assert world.container("--no-cache") == 0
    assert {path: path.stat().st_ino for path in before} == before


def test_a_build_that_fails_replaces_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert world.container() == 0
    spoil_package(world)
    store = made(world)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(container, "tar_stream", fail)
    with pytest.raises(KeyboardInterrupt):
        world.container("--no-cache")
    assert made(world) == store
    assert world.leftovers() == []


def test_a_parallel_build_keeps_what_it_is_reading(world: World) -> None:
    """The damaged package is replaced only when the other build is done, and the output is there before."""
    assert world.container() == 0
    spoil_package(world)
    store = made(world)
    with cache.in_use(world.open_store()):  # as any build does while it runs
        running = world.start("container", world.small, "--no-cache")
        eventually(lambda: "to replace what was damaged" in running.said(), running.said)
        assert made(world) == store
        assert (world.output / "manifest.json").exists()
    assert running.wait(PATIENCE) == 0, running.said()
    assert made(world) != store
    assert world.leftovers() == []


def test_an_output_that_is_up_to_date_is_made_again(world: World, capsys: Out) -> None:
    assert osbuild(world, "container", world.small) == 0
    assert osbuild(world, "container", world.small, "--no-cache") == 0
    assert capsys.readouterr().out == f"built {world.output}\n" * 2

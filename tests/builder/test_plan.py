"""``osbuild plan``, through the command: it foretells what the next build does, and does nothing itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from builder.about.sizes import megabytes
from builder.cli import run
from builder.debian.tools import Tools
from terminal import command
from tests.builder.smallworld import NODE, SMALL, World

Out = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


def osbuild(world: World, *words: str, definition: Path | None = None) -> int:
    options = ["--definition", definition or world.small, "--store", world.store, "--output", world.output]
    return command("osbuild", run, [str(word) for word in ["plan", *words, *options]])


def steps(world: World, capsys: Out, definition: Path | None = None) -> dict[str, tuple[int, int]]:
    """The steps of the plan: action and what, with count and bytes."""
    capsys.readouterr()
    assert osbuild(world, "--json", definition=definition) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert parsed["fetched"] == sum(step["bytes"] for step in parsed["steps"] if step["action"] == "fetch")
    return {f"{step['action']} {step['what']}": (step["count"], step["bytes"]) for step in parsed["steps"]}


def test_everything_is_fetched_at_first_and_nothing_at_last(world: World, capsys: Out) -> None:
    size = sum(world.locked[name].size for name in ("base", "tool"))
    rest = {"reuse tools": (1, 0), "make artifacts": (1, 0)}
    first = {"fetch package": (2, size), "make slow steps of the tree": (1, 0), **rest}
    assert steps(world, capsys) == first
    assert steps(world, capsys) == first, "planning did something"
    assert not world.output.exists()
    assert world.container("--quiet") == 0
    assert steps(world, capsys) == {}
    (world.overlay / "etc/issue").write_text("another\n")
    assert steps(world, capsys) == {"reuse package": (2, size), "reuse slow steps of the tree": (1, 0), **rest}
    shutil.rmtree(world.store / "packages")
    assert steps(world, capsys) == {"unpack package": (2, size), "reuse slow steps of the tree": (1, 0), **rest}


def test_an_image_is_planned_for_its_target(world: World, capsys: Out) -> None:
    assert world.image("--quiet") == 0
    assert steps(world, capsys, world.node) == {}
    capsys.readouterr()
    assert osbuild(world, "--release", definition=world.node) == 0
    assert "make    1      artifacts" in capsys.readouterr().out


def test_contents_are_compressed_once(world: World, capsys: Out) -> None:
    """And again if they are to be compressed otherwise; a release is packed as a whole."""
    assert steps(world, capsys, world.node)["make compressed contents"] == (1, 0)
    assert world.image("--quiet") == 0
    (world.overlay / "etc/issue").write_text("another\n")
    assert steps(world, capsys, world.node)["reuse compressed contents"] == (1, 0)
    world.node.write_text(world.node.read_text().replace("fast: [-comp, lz4]", "fast: [-comp, gzip]"))
    found = steps(world, capsys, world.node)
    assert (found["reuse slow steps of the tree"], found["make compressed contents"]) == ((1, 0), (1, 0))
    world.node.write_text(world.node.read_text().replace("fast: [-comp, gzip]", "fast: [-comp, gzip, -all-root]"))
    assert not any("compressed" in what for what in steps(world, capsys, world.node))


def test_missing_tools_are_in_the_plan(world: World, capsys: Out) -> None:
    for link in (world.store / "tools").iterdir():
        link.unlink()
    found = steps(world, capsys)
    assert found["fetch package of the tools"][0] > 10
    assert found["make tools"] == (1, 0)


def test_the_plan_for_people(world: World, capsys: Out) -> None:
    size = sum(world.locked[name].size for name in ("base", "tool"))
    assert osbuild(world) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["action", "count", "what", "size"],
        ["fetch", "2", "package", *megabytes(size).split()],
    ]
    assert lines[-1].endswith(f" to fetch; the result goes into {world.output}")
    assert world.container("--quiet") == 0
    capsys.readouterr()
    assert osbuild(world) == 0
    assert capsys.readouterr().out == f"{world.output} is up to date: nothing to do\n"
    assert osbuild(world, "--force") == 0
    assert "reuse" in capsys.readouterr().out


def test_a_lock_that_is_not_there_is_reported(world: World, capsys: Out) -> None:
    world.small.with_suffix(".lock").unlink()
    assert osbuild(world) == 1
    assert f"hint: run 'osbuild lock {world.small}'" in capsys.readouterr().err


def test_a_definition_that_makes_nothing_is_reported(world: World, capsys: Out) -> None:
    text = "".join(line for line in SMALL.splitlines(keepends=True) if not line.startswith("container:"))
    path = world.define("nothing", text, ["base", "tool"])
    assert osbuild(world, definition=path) == 1
    assert "neither a root nor a container" in capsys.readouterr().err


def test_planning_leaves_no_trace(world: World, tmp_path: Path, capsys: Out) -> None:
    words = ["plan", "--definition", world.small, "--output", world.output, "--store", tmp_path / "nowhere"]
    assert command("osbuild", run, [str(word) for word in words]) == 0
    assert "fetch   2" in capsys.readouterr().out
    assert not (tmp_path / "nowhere").exists()
    assert not world.output.exists()


def test_offline_reports_what_is_missing_before_the_build_does(world: World, capsys: Out) -> None:
    assert osbuild(world, "--offline") == 1
    planned = capsys.readouterr().err
    assert "2 packages are not in the store" in planned
    assert command("osbuild", run, world.arguments("container", world.small, "--offline", "--quiet")) == 1
    assert capsys.readouterr().err == planned
    assert world.container("--quiet") == 0
    (world.overlay / "etc/issue").write_text("another\n")
    assert osbuild(world, "--offline") == 0


def test_without_the_cache_all_is_unpacked_and_made_again(world: World, capsys: Out) -> None:
    assert world.container("--quiet") == 0
    capsys.readouterr()
    assert osbuild(world, "--no-cache", "--packages") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[1:5]] == ["unpack", "make", "make", "reuse"]
    assert lines[4] == ["reuse", "1", "tools"]
    assert [line[:3] for line in lines[7:9]] == [["unpack", "tool", "1.0"], ["unpack", "base", "1.0"]]


def test_our_own_bytecode_is_in_the_plan(world: World, capsys: Out) -> None:
    path = world.define(
        "coded", NODE.replace("name: node", "name: coded") + "node_code: [etcd]\n", ["base", "node", "tool"]
    )
    assert steps(world, capsys, path)["make bytecode of our code"] == (1, 0)

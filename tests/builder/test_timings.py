"""``--timings``: where the time went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.timings import describe
from builder.tools import Tools
from tests.builder.smallworld import World

Out = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


def test_the_slowest_comes_first_and_steps_stand_below_their_phase() -> None:
    said = describe(10.0, {"tools": 1.0, "tree": 6.0}, {"tree": {"slim": 1.0, "bytecode": 4.0}})
    assert [line.rsplit(maxsplit=3) for line in said.splitlines()[1:]] == [
        ["tree", "6.00", "60", "%"],
        ["  bytecode", "4.00", "40", "%"],
        ["  slim", "1.00", "10", "%"],
        ["tools", "1.00", "10", "%"],
        ["everything else", "3.00", "30", "%"],
        ["total", "10.00", "100", "%"],
    ]


def test_a_build_tells_phases_and_steps(world: World, capsys: Out) -> None:
    assert world.image("--timings", "--quiet") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"built {world.output}"
    names = [line.rsplit(maxsplit=3)[0] for line in said[2:]]
    assert {"tree", "  merging packages", "  modules", "packing the root (squashfs)", "  root"} <= set(names)
    assert names[-2:] == ["everything else", "total"]


def test_a_machine_reads_them(world: World, capsys: Out) -> None:
    """All of it adds up: steps to less than their phase, phases to less than the whole."""
    assert world.image("--json", "--quiet") == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["steps"]) <= set(told["seconds"])
    for phase, steps in told["steps"].items():
        assert sum(steps.values()) <= told["seconds"][phase]
    assert sum(told["seconds"].values()) <= told["total"]


def test_nothing_done_is_told_too(world: World, capsys: Out) -> None:
    assert world.container() == 0
    capsys.readouterr()
    assert world.container("--timings") == 0
    assert "\ncheck " in capsys.readouterr().out

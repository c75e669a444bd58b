"""``--timings``: where the time went."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.about import timings
from builder.about.timings import busy, describe
from builder.debian.tools import Tools
from terminal import Span
from tests.builder.smallworld import World

Out = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


def span(*path: str, begin: float, end: float, lane: int = 0) -> Span:
    return Span(path, "", begin, end, lane, len(path) - 1)


SPANS = [
    span("tools", begin=0, end=1),
    span("tree", begin=1, end=7),
    span("tree", "slim", begin=1, end=2),
    span("tree", "unpack", begin=2, end=5, lane=1),
    span("tree", "unpack", begin=3, end=6, lane=2),
    span("tree", "unpack", "hash", begin=3, end=4, lane=2),
]


def test_the_slowest_comes_first_and_steps_stand_below_their_phase() -> None:
    assert (
        describe(10.0, SPANS)
        == """\
phase            seconds  share  times
tree             6.000    60 %
  unpack         4.000    40 %   2
    hash         1.000    10 %
  slim           1.000    10 %
tools            1.000    10 %
everything else  3.000    30 %
total            10.000   100 %"""
    )


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted), max_size=12))
def test_what_runs_at_once_counts_once(stretches: list[list[int]]) -> None:
    spans = [span("x", begin=begin, end=end) for begin, end in stretches]
    assert busy(spans) == len({second for begin, end in stretches for second in range(begin, end)})


def test_a_build_records_phases_and_steps(world: World, capsys: Out) -> None:
    assert world.image("--timings", "--quiet") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"built {world.output}"
    names = [re.split(r"  +\d", line)[0] for line in said[2:]]
    assert {"check", "tree", "  merging packages", "  slow steps", "    modules", "  accounts", "  unpacking"} <= set(
        names
    )
    assert {"packing the root (squashfs)", "  root", "listing what is in it", "  list of files"} <= set(names)
    assert names[-2:] == ["everything else", "total"]


def test_a_machine_reads_them(world: World, capsys: Out) -> None:
    """All of it adds up: each span lies in the one around it, phases are less than the whole; each package was unpacked
    once.
    """
    assert world.image("--json", "--quiet") == 0
    parsed = json.loads(capsys.readouterr().out)
    spans = parsed["spans"]
    for each in spans:
        assert 0 <= each["begin"] <= each["end"] <= parsed["total"] + 0.1
        around = [other for other in spans if other["path"] == each["path"][:-1] and other["begin"] <= each["begin"]]
        assert len(each["path"]) == 1 or any(each["end"] <= other["end"] for other in around)
    assert sum(parsed["seconds"].values()) <= parsed["total"]
    assert {each["path"][0] for each in spans} == {*parsed["seconds"], "check"}
    unpacked = [each for each in spans if each["path"][-1] == "unpacking"]
    assert sorted(each["detail"] for each in unpacked) == ["base", "node", "tool"]
    assert all(each["lane"] > 0 for each in unpacked)


def test_the_page_is_no_artifact(world: World) -> None:
    assert world.image("--quiet") == 0
    assert (world.output / timings.NAME).exists()
    assert timings.NAME not in (world.output / "manifest.json").read_text()


def test_nothing_done_is_reported_too(world: World, capsys: Out) -> None:
    assert world.container() == 0
    capsys.readouterr()
    assert world.container("--timings") == 0
    assert "\ncheck " in capsys.readouterr().out

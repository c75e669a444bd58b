"""Budgets: what holds, who is blamed, and that a build which is too large leaves everything as it was."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ByteSize

from builder.about import budget
from builder.about.budget import Growth, Measured
from builder.cli import run
from builder.debian.tools import Tools
from builder.definition import definition
from builder.definition.definition import Limits
from terminal import Failure, command
from tests.builder.smallworld import NODE, SMALL, World

pytestmark = pytest.mark.slow

OWNERS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 10**9), max_size=30)
Out = pytest.CaptureFixture[str]


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


def osbuild(*words: str | Path) -> int:
    return command("osbuild", run, [str(word) for word in words])


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("120 MB", 120_000_000), ("1.5 kB", 1_500), ("0 MB", 0), ("18MiB", 18 << 20), ("2 GiB", 2 << 30), ("7", 7)],
)
def test_sizes_are_read_as_people_write_them(text: str, bytes_: int, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(f"{NODE}budget: {{release: {{root: {text}}}}}\n")
    assert definition.load(path).budget["release"].root == bytes_


@pytest.mark.parametrize("text", ["many", "120 MX", "-1 MB", "1e3 MB", ""])
def test_what_is_no_size_is_reported_with_its_place(text: str, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(f'{NODE}budget: {{release: {{root: "{text}"}}}}\n')
    with pytest.raises(Failure) as caught:
        definition.load(path)
    assert "budget.release.root" in caught.value.message
    assert caught.value.where == f"{path}:{len(NODE.splitlines()) + 1}:20"


@pytest.mark.parametrize("level", ["slow", "Fast", "arm64"])
def test_there_are_two_levels(level: str, tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(f"{NODE}budget: {{{level}: {{root: 1 MB}}}}\n")
    with pytest.raises(Failure, match="budget"):
        definition.load(path)


def test_an_architecture_has_limits_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(
        NODE.replace("arm64: {", "arm64: {budget: {release: {boot: 30 MB}}, ")
        + "budget: {release: {root: 120 MB, boot: 18 MB}, fast: {root: 200 MB}}\n"
    )
    found = {
        (part, architecture, level): budget.limit(definition.load(path, architecture).budget, part, level)
        for part in ("root", "boot", "archive")
        for architecture in ("amd64", "arm64")
        for level in get_args(budget.Level)
    }
    assert {key: held for key, held in found.items() if held is not None} == {
        ("root", "amd64", "release"): 120_000_000,
        ("root", "arm64", "release"): 120_000_000,
        ("boot", "amd64", "release"): 18_000_000,
        ("boot", "arm64", "release"): 30_000_000,
        ("root", "amd64", "fast"): 200_000_000,
        ("root", "arm64", "fast"): 200_000_000,
    }


@given(OWNERS, OWNERS)
def test_growth_names_all_who_grew_and_no_other(before: dict[str, int], now: dict[str, int]) -> None:
    found = budget.growth(before, now)
    assert {each.owner for each in found} == {owner for owner in now if now[owner] > before.get(owner, 0)}
    grew = [each.new - (each.old or 0) for each in found]
    assert grew == sorted(grew, reverse=True)
    assert all(each.old == before.get(each.owner, 0) and each.new == now[each.owner] for each in found)
    assert [each.new for each in budget.growth(None, now)] == sorted(now.values(), reverse=True)


@given(OWNERS, OWNERS)
def test_what_is_accepted_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, int], two: dict[str, int]
) -> None:
    path = tmp_path_factory.mktemp("sizes") / "node.sizes.json"
    budget.accept(path, "amd64", {"root": Measured(1, {"old": 1})})
    budget.accept(path, "arm64", {"root": Measured(1, two)})
    budget.accept(path, "amd64", {"root": Measured(1, one), "boot": Measured(1, two)})
    assert budget.load(path, "amd64") == {"root": one, "boot": two}
    assert budget.load(path, "arm64") == {"root": two}
    assert budget.load(path, "riscv64") == {}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"version": 2}', '{"version": 1, "amd64": []}', '{"version": 1, "amd64": {"root": {"a": -1}}}',
     '{"version": 1, "amd64": {"root": {"a": "1"}}}', '{"version": 1, "amd64": {"root": 7}}'],
)  # fmt: skip
def test_a_broken_file_of_sizes_is_reported(text: str, tmp_path: Path) -> None:
    path = tmp_path / "node.sizes.json"
    path.write_text(text)
    with pytest.raises(Failure) as caught:
        budget.load(path, "amd64")
    assert caught.value.where == str(path)
    assert "--accept" in (caught.value.hint or "")


def test_ten_are_named_and_the_report_reads_well() -> None:
    limits: budget.Budget = {"release": Limits(root=ByteSize(1_000_000))}
    found = {"root": Measured(1_300_000, {f"owner-{number:02}": 1000 * number for number in range(1, 16)})}
    (unknown,) = budget.excesses(limits, "release", found, {})
    assert [each.owner for each in unknown.grown] == [f"owner-{number:02}" for number in range(15, 5, -1)]
    (known,) = budget.excesses(limits, "release", found, {"root": {"owner-15": 14_000, "owner-14": 15_000}})
    assert known.grown[0] == Growth("owner-13", 0, 13_000)
    assert Growth("owner-15", 14_000, 15_000) not in known.grown
    assert len(known.grown) == 10
    assert list(budget.excesses(limits, "fast", found, {})) == []


def test_a_build_that_is_too_large_fails_and_publishes_nothing(world: World, capsys: Out) -> None:
    assert world.image() == 0
    before = {path.name: path.stat().st_ino for path in world.output.iterdir()}
    assert osbuild("budget", "--accept", world.output, "--definition", world.node) == 0
    assert json.loads((world.root / "image/node.sizes.json").read_text())["amd64"]["boot"]["kernel"] > 0
    world.node.write_text(NODE + "budget: {fast: {root: 20 kB, boot: 1 GB}}\n")
    (world.overlay / "etc/large").write_bytes(random.Random(3).randbytes(1_000_000))
    capsys.readouterr()
    assert osbuild(*world.arguments("image", "--definition", world.node)) == 1
    printed = capsys.readouterr().err
    assert f"osbuild: error: {world.node}: root has " in printed
    assert "more than budget.fast.root allows (0.02 MB)" in printed
    assert "grew most since node.sizes.json" in printed
    assert [line.split()[0] for line in printed.split("grew\n")[1].splitlines()[:1]] == ["flotilla"]
    assert "boot has" not in printed
    assert {path.name: path.stat().st_ino for path in world.output.iterdir()} == before
    # Where nothing was accepted, the largest are named; and room made is room.
    (world.root / "image/node.sizes.json").unlink()
    assert osbuild(*world.arguments("image", "--definition", world.node)) == 1
    assert "node.sizes.json has nothing to compare with" in capsys.readouterr().err
    world.node.write_text(NODE + "budget: {fast: {root: 20 MB}, release: {root: 1 kB}}\n")
    assert osbuild(*world.arguments("image", "--definition", world.node)) == 0
    capsys.readouterr()
    assert osbuild(*world.arguments("image", "--release", "--allow-outdated", "--definition", world.node)) == 1
    assert "root has" in capsys.readouterr().err


def test_a_container_has_a_budget_too(world: World, capsys: Out) -> None:
    world.small.write_text(SMALL + "budget: {release: {archive: 10 kB}}\n")
    assert osbuild(*world.arguments("container", world.small)) == 1
    assert "archive has" in capsys.readouterr().err
    world.small.write_text(SMALL + "budget: {release: {archive: 10 MB}}\n")
    assert osbuild(*world.arguments("container", world.small)) == 0
    capsys.readouterr()
    assert osbuild("budget", world.output, "--definition", world.small) == 0
    assert "archive  0." in capsys.readouterr().out


def test_the_command_prints_room_and_growth(world: World, capsys: Out) -> None:
    world.node.write_text(NODE + "budget: {fast: {root: 20 MB}}\n")
    assert world.image() == 0
    words: list[str | Path] = ["budget", world.output, "--definition", world.node]
    capsys.readouterr()
    assert osbuild(*words, "--accept", "--json") == 0
    parsed = json.loads(capsys.readouterr().out)
    assert parsed["accepted"] == str(world.root / "image/node.sizes.json")
    assert [(part["part"], part["limit"], part["grown"]) for part in parsed["parts"]] == [
        ("root", 20_000_000, []),
        ("boot", None, []),
    ]
    (world.overlay / "etc/more").write_text("more\n" * 100)
    assert world.image() == 0
    capsys.readouterr()
    assert osbuild(*words) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["part", "size", "limit", "left"]
    assert "root: the owners that grew most since node.sizes.json" in out
    assert out.splitlines()[-1].startswith("flotilla ")
    # A limit that was lowered since the build sets the exit code, too.
    world.node.write_text(NODE + "budget: {fast: {root: 1 kB}}\n")
    assert osbuild(*words) == 1
    assert "too much" in capsys.readouterr().out


def test_a_build_of_before_budgets_is_refused(world: World, capsys: Out) -> None:
    assert world.image() == 0
    path = world.output / "manifest.json"
    parsed = json.loads(path.read_text())
    del parsed["sizes"], parsed["boot"]
    path.write_text(json.dumps(parsed))
    assert osbuild("budget", world.output, "--definition", world.node) == 1
    assert "build again" in capsys.readouterr().err
    assert osbuild("inspect", world.output) == 0

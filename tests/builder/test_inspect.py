"""``osbuild inspect`` and ``osbuild diff``, through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.cli import run
from builder.debian.tools import Tools
from terminal import command
from tests.builder.debmaker import member
from tests.builder.smallworld import REPORTS, TOOL, World

Out = pytest.CaptureFixture[str]


def osbuild(*words: str | Path) -> int:
    return command("osbuild", run, [str(word) for word in words])


def manifest(packages: dict[str, str], artifacts: dict[str, int], owners: dict[str, int]) -> dict[str, Any]:
    """A manifest as a build writes it; hashes follow from versions and sizes."""
    return {
        "version": 1,
        "build": "b" * 32,
        "name": "node",
        "target": "qemu",
        "architecture": "amd64",
        "epoch": 1,
        "packages": [
            {"name": name, "version": version.removesuffix("*"), "sha256": version}
            for name, version in packages.items()
        ],
        "artifacts": [{"name": name, "size": size, "sha256": str(size)} for name, size in artifacts.items()],
        "owners": [{"owner": name, "bytes": size} for name, size in owners.items()],
    }


OLD = manifest(
    {"bash": "5.2", "curl": "8.1", "dash": "0.5", "zlib": "1"},
    {"cmdline": 10, "root.img": 100_000_000},
    {"bash": 5_000_000, "curl": 900, "zlib": 100},
)
NEW = manifest(
    {"bash": "5.3", "dash": "0.5*", "etcd": "3.5", "zlib": "1"},
    {"cmdline": 10, "root.img": 101_500_000},
    {"etcd": 40_000_000, "bash": 4_900_000, "zlib": 100},
)


UNLISTED = "files are not compared: no list of them in {}"


@pytest.fixture
def builds(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the manifests above."""
    for name, value in (("old", OLD), ("new", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(value))
    return tmp_path / "old", tmp_path / "new"


# --- inspect ---------------------------------------------------------------------------------------------------------


def test_inspect_prints_what_is_there(builds: tuple[Path, Path], capsys: Out) -> None:
    assert osbuild("inspect", builds[1]) == 0
    assert (
        capsys.readouterr().out
        == f"""\
node for qemu, amd64, 4 packages, build {"b" * 32}

artifact  size
cmdline   10 B
root.img  101.5 MB

owner  version  size     share
etcd   3.5      40.0 MB  89.1 %
bash   5.3      4.9 MB   10.9 %
zlib   1        100 B    0.0 %
all 3           44.9 MB  100.0 %
"""
    )


def test_inspect_shows_the_ten_largest_owners_only(tmp_path: Path, capsys: Out) -> None:
    value = manifest({}, {}, {f"p{number:02}": 1000 - number for number in range(30)})
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    assert osbuild("inspect", tmp_path / "manifest.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == [*(f"p{number:02}" for number in range(10)), "all"]
    assert osbuild("inspect", "--json", tmp_path) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert len(parsed["owners"]) == 30
    assert parsed["largest"] == [f"p{number:02}" for number in range(10)]


# --- diff ------------------------------------------------------------------------------------------------------------


def test_diff_prints_what_changed(builds: tuple[Path, Path], capsys: Out) -> None:
    assert osbuild("diff", *builds) == 0
    assert (
        capsys.readouterr().out
        == f"""\
updated   bash  5.2 -> 5.3
removed   curl  8.1
replaced  dash  0.5
added     etcd  3.5

artifact  before    after     change
root.img  100.0 MB  101.5 MB  +1.5 MB

owner  before  after    change
etcd   -       40.0 MB  +40.0 MB
bash   5.0 MB  4.9 MB   -0.1 MB
curl   900 B   -        -900 B

{UNLISTED.format(builds[0])} and {builds[1]}
"""
    )


def test_diff_for_a_machine(builds: tuple[Path, Path], capsys: Out) -> None:
    assert osbuild("diff", "--json", *builds) == 0
    parsed = json.loads(capsys.readouterr().out)
    assert parsed["packages"] == [
        {"name": "bash", "change": "updated", "old": "5.2", "new": "5.3"},
        {"name": "curl", "change": "removed", "old": "8.1", "new": None},
        {"name": "dash", "change": "replaced", "old": "0.5", "new": "0.5"},
        {"name": "etcd", "change": "added", "old": None, "new": "3.5"},
    ]
    assert parsed["artifacts"] == [{"name": "root.img", "old": 100_000_000, "new": 101_500_000}]
    assert parsed["owners"][0] == {"name": "etcd", "old": 0, "new": 40_000_000}


def test_a_build_does_not_differ_from_itself(builds: tuple[Path, Path], capsys: Out) -> None:
    assert osbuild("diff", builds[0], builds[0]) == 0
    assert capsys.readouterr().out == f"nothing differs\n\n{UNLISTED.format(builds[0])} and {builds[0]}\n"


def test_other_bytes_of_the_same_size_are_a_difference(builds: tuple[Path, Path], capsys: Out) -> None:
    other = json.loads(json.dumps(OLD))
    other["artifacts"][0]["sha256"] = "other"
    (builds[1] / "manifest.json").write_text(json.dumps(other))
    assert osbuild("diff", *builds) == 0
    assert capsys.readouterr().out.splitlines()[1] == "cmdline   10 B    10 B   same size"


def test_real_builds(tmp_path: Path, closure: Tools, capsys: Out) -> None:
    world = World(tmp_path, closure)
    assert world.container("--quiet", output=tmp_path / "one") == 0
    world.replace("tool", [*TOOL, member("./usr/bin/another", b"#!/bin/sh\n" * 1000, mode=0o755)])
    assert world.container("--quiet", output=tmp_path / "two") == 0
    capsys.readouterr()
    assert osbuild("inspect", "--json", tmp_path / "two") == 0
    parsed = json.loads(capsys.readouterr().out)
    assert parsed["packages"] == {"base": "1.0", "tool": "1.0"}
    assert set(parsed["artifacts"]) == {"small.tar", "small.oci.tar"} | REPORTS - {"manifest.json"}
    assert osbuild("diff", "--json", tmp_path / "one", tmp_path / "two") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packages"] == [{"name": "tool", "change": "replaced", "old": "1.0", "new": "1.0"}]
    tool = next(each for each in found["owners"] if each["name"] == "tool")
    assert tool["new"] - tool["old"] == 10_000
    assert found["files"] == {
        "changes": [{"path": "/usr/bin/another", "change": "added", "package": "tool", "bytes": 10_000, "changed": {}}],
        "touched": 0,
    }


# --- what is no build ------------------------------------------------------------------------------------------------


def changed(change: Callable[[Any], object]) -> str:
    value = json.loads(json.dumps(OLD))
    change(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the manifest is broken: not JSON"),
        ("[" * 100_000, "the manifest is broken: not JSON"),
        ("\udcff", "the manifest is broken: not JSON"),
        ("[]", "a value is of the wrong kind"),
        ("{}", "format version None, this program knows 1"),
        (changed(lambda value: value.update(version=2)), "format version 2, this program knows 1"),
        (changed(lambda value: value.pop("owners")), "owners missing"),
        (changed(lambda value: value["packages"][0].pop("version")), "version missing"),
        (changed(lambda value: value.update(packages=3)), "a value is of the wrong kind"),
        (changed(lambda value: value.update(name="\x1b[2J")), "a value is of the wrong kind"),
        (changed(lambda value: value["owners"][0].update(bytes=-1)), "a value is of the wrong kind"),
        (changed(lambda value: value["owners"][0].update(bytes=True)), "a value is of the wrong kind"),
    ],
)
@pytest.mark.parametrize("verb", ["inspect", "diff"])
def test_a_broken_manifest_is_reported(verb: str, text: str, message: str, tmp_path: Path, capsys: Out) -> None:
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert osbuild(verb, *[tmp_path] * (2 if verb == "diff" else 1)) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert "hint: build again" in said.err
    assert said.out == ""


def test_a_folder_without_a_build_is_reported(tmp_path: Path, capsys: Out) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        assert osbuild("inspect", folder) == 1
        said = capsys.readouterr().err
        assert f"{folder}/manifest.json: no build is there" in said
        assert "hint: name the folder" in said


def test_wrong_usage_is_reported(capsys: Out) -> None:
    with pytest.raises(SystemExit, match="2"):
        osbuild("diff", "one")
    assert "required: B" in capsys.readouterr().err

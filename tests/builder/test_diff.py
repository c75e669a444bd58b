"""``osbuild diff`` and ``osbuild inspect``, down to the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builder.about import filelist, manifest
from builder.about.filelist import Listed
from builder.cli import run
from builder.cli.diff import file_changes
from builder.core.tree import Kind
from builder.debian.tools import Tools
from terminal import command
from tests.builder.smallworld import World
from tests.builder.test_inspect import NEW, OLD

Out = pytest.CaptureFixture[str]


def osbuild(*words: str | Path) -> int:
    return command("osbuild", run, [str(word) for word in words])


def a_file(path: str, package: str, size: int = 1, digit: str = "a") -> Listed:
    return Listed(path, Kind.FILE, "0755", 0, 0, 1, package, size, digit * 64)


BEFORE = [
    Listed("/usr", Kind.DIRECTORY, "0755", 0, 0, 1, "base-files"),
    Listed("/usr/bin", Kind.DIRECTORY, "0755", 0, 0, 1, "bash"),
    a_file("/usr/bin/bash", "bash", 5_000_000),
    a_file("/usr/bin/curl", "curl", 900),
    Listed("/usr/bin/sh", Kind.SYMLINK, "0777", 0, 0, 1, "bash", target="bash"),
    a_file("/usr/bin/su", "login", 100),
    a_file("/usr/bin/\x1b[2J", "login", 100),
    Listed("/usr/lib", Kind.DIRECTORY, "0755", 0, 0, 1, "zlib"),
]
AFTER = [
    replace(BEFORE[0], mtime=2),
    replace(BEFORE[1], mtime=2),
    a_file("/usr/bin/bash", "bash", 4_900_000, "b"),
    a_file("/usr/bin/etcd", "etcd", 40_000_000),
    replace(BEFORE[4], target="dash", package="dash"),
    replace(BEFORE[5], mode="4755", uid=5, gid=7, xattrs={"security.capability": "AQ=="}),
    a_file("/usr/bin/\x1b[2J", "login", 100, "c"),
    a_file("/usr/lib", "zlib", 7),
]


@pytest.fixture
def builds(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with a manifest and a list of files."""
    for name, value, files in (("old", OLD, BEFORE), ("new", NEW, AFTER)):
        folder = tmp_path / name
        folder.mkdir()
        path = folder / filelist.NAME
        path.write_text("".join(map(filelist.line, files)))
        listing = {"name": path.name, "size": 1, "sha256": manifest.sha256(path)}
        (folder / "manifest.json").write_text(json.dumps({**value, "artifacts": [listing]}))
    return tmp_path / "old", tmp_path / "new"


def test_files_are_summed_up_by_package(builds: tuple[Path, Path], capsys: Out) -> None:
    assert osbuild("diff", *builds) == 0
    assert (
        capsys.readouterr().out.partition("files of")[2]
        == """\
  added  removed  changed  size
login     -      -        2        same size
bash      -      -        1        -0.1 MB
curl      -      1        -        -900 B
dash      -      -        1        same size
etcd      1      -        -        +40.0 MB
zlib      -      -        1        +7 B
all 6     1      1        5        +39.9 MB

2 more differ in their time alone
"""
    )


def test_each_file_with_what_of_it_changed(builds: tuple[Path, Path], capsys: Out) -> None:
    assert osbuild("diff", "--files", *builds) == 0
    text = capsys.readouterr().out
    assert (
        text[text.index("file     path") :]
        == """\
file     path              owner  size      what
changed  /usr/bin/\\x1b[2J  login            contents
changed  /usr/bin/bash     bash   -0.1 MB   contents
removed  /usr/bin/curl     curl   -900 B
added    /usr/bin/etcd     etcd   +40.0 MB
changed  /usr/bin/sh       dash             package bash -> dash, target bash -> dash
changed  /usr/bin/su       login            mode 0755 -> 4755, uid 0 -> 5, gid 0 -> 7, xattrs
changed  /usr/lib          zlib   +7 B      kind dir -> file

2 more differ in their time alone
"""
    )


def test_a_machine_has_every_file(builds: tuple[Path, Path], capsys: Out) -> None:
    assert osbuild("diff", "--json", *builds) == 0
    parsed = json.loads(capsys.readouterr().out)["files"]
    assert parsed["touched"] == 2
    assert [each["path"] for each in parsed["changes"]] == sorted(each["path"] for each in parsed["changes"])
    su = next(each for each in parsed["changes"] if each["path"] == "/usr/bin/su")
    assert su["changed"] == {
        "mode": ["0755", "4755"],
        "uid": [0, 5],
        "gid": [0, 7],
        "xattrs": [{}, {"security.capability": "AQ=="}],
    }


def test_there_and_back_is_the_same_difference() -> None:
    old, new = ({each.path: each for each in some} for some in (BEFORE, AFTER))
    there, back = file_changes(old, new), file_changes(new, old)
    other = {"added": "removed", "removed": "added", "changed": "changed"}
    assert [(each.path, other[each.change], -each.bytes) for each in there.changes] == [
        (each.path, each.change, each.bytes) for each in back.changes
    ]
    assert file_changes(old, old).changes == ()


def test_a_list_of_another_build_is_refused(builds: tuple[Path, Path], capsys: Out) -> None:
    (builds[0] / filelist.NAME).write_text((builds[1] / filelist.NAME).read_text())
    assert osbuild("diff", *builds) == 1
    assert "is not that of the manifest beside it" in capsys.readouterr().err


def test_inspect_shows_a_folder(builds: tuple[Path, Path], capsys: Out) -> None:
    for path in ("/usr/bin", "usr/bin/"):
        assert osbuild("inspect", builds[1], path) == 0
        assert (
            capsys.readouterr().out
            == """\
mode  uid:gid  size     owner  path
0755  0:0      44.9 MB  bash   /usr/bin/
0755  0:0      4.9 MB   bash   /usr/bin/bash
0755  0:0      40.0 MB  etcd   /usr/bin/etcd
0777  0:0      0 B      dash   /usr/bin/sh -> dash
4755  5:7      100 B    login  /usr/bin/su
0755  0:0      100 B    login  /usr/bin/\\x1b[2J
"""
        )
    assert osbuild("inspect", builds[1], "/") == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["path", "/usr/"]


def test_inspect_shows_what_a_package_brought(builds: tuple[Path, Path], capsys: Out) -> None:
    assert osbuild("inspect", "--json", "--owner", "login", builds[1]) == 0
    assert [each["path"] for each in json.loads(capsys.readouterr().out)] == ["/usr/bin/su", "/usr/bin/\x1b[2J"]


def test_inspect_shows_the_largest_folders(builds: tuple[Path, Path], capsys: Out) -> None:
    assert osbuild("inspect", builds[1]) == 0
    assert capsys.readouterr().out.endswith(
        """
folder    size     share
/usr      44.9 MB  100.0 %
/usr/bin  44.9 MB  100.0 %
"""
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [(["/usr/nothing"], "there is no such path"), (["--owner", "unknown"], "no file there is of this owner")],
)
def test_inspect_reports_what_is_not_there(
    words: list[str], message: str, builds: tuple[Path, Path], capsys: Out
) -> None:
    assert osbuild("inspect", builds[1], *words) == 1
    assert message in capsys.readouterr().err


def test_inspect_asks_for_a_build_with_a_list(builds: tuple[Path, Path], capsys: Out) -> None:
    (builds[1] / filelist.NAME).unlink()
    assert osbuild("inspect", builds[1], "/usr") == 1
    assert "no list of files is there" in capsys.readouterr().err


def test_real_builds_of_two_overlays(tmp_path: Path, closure: Tools, capsys: Out) -> None:
    world = World(tmp_path, closure)
    (world.overlay / "etc/motd").write_text("a small world\n")
    assert world.image("--quiet", output=tmp_path / "one") == 0
    (world.overlay / "etc/motd").write_text("a smaller world\n")
    (world.overlay / "etc/new").write_text("new\n")
    assert world.image("--quiet", output=tmp_path / "two") == 0
    capsys.readouterr()
    assert osbuild("diff", "--files", tmp_path / "one", tmp_path / "two") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["changed", "/etc/motd", "flotilla", "+2", "B", "contents"] in lines
    assert ["added", "/etc/new", "flotilla", "+4", "B"] in lines

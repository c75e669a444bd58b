"""The list of files: what is written is read back, it says what the image holds, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.about import filelist
from builder.about.filelist import Listed, line, listed, parse
from builder.core.tree import Entry, Inline, Kind, Tree, directory, file, symlink
from builder.debian.tools import Tools
from terminal import Failure
from tests.builder.smallworld import EPOCH, World

HASH = hashlib.sha256(b"hello").hexdigest()

names = st.text(st.characters(exclude_characters="/\0", codec=None), min_size=1, max_size=8)
counts = st.integers(0, 1 << 40)
packages = st.from_regex(r"[a-z0-9][a-z0-9+.-]+", fullmatch=True)


@st.composite
def entries(draw: st.DrawFn) -> Listed:
    kind = draw(st.sampled_from(Kind))
    path = "/" + "/".join(draw(st.lists(names, min_size=1, max_size=4)))
    mode = f"{draw(st.integers(0, 0o7777)):04o}"
    numbers = draw(st.tuples(counts, counts, counts))
    size, sha256 = (draw(counts), HASH) if kind is Kind.FILE else (0, "")
    target = draw(names) if kind is Kind.SYMLINK else ""
    xattrs = draw(st.dictionaries(names, st.just("AQI="), max_size=2))
    return Listed(path, kind, mode, *numbers, draw(packages), size, sha256, target, xattrs)


@given(entries())
def test_what_is_written_is_read_back(entry: Listed) -> None:
    text = line(entry)
    assert text.isascii()
    assert text.count("\n") == 1
    assert parse(text) == entry


def test_a_line_is_what_the_page_says() -> None:
    tree = Tree([directory("etc", 0o755), file("etc/motd", "hello", 0o640, gid=4), symlink("etc/link", "motd")])
    tree.add(Entry("usr/bin/ping", Kind.FILE, 0o4755, 0, 0, EPOCH + 9, Inline(b"hello"), "", "ping", {"x.y": b"\1\2"}))
    assert "".join(map(line, listed(tree, EPOCH))) == (
        f'{{"path":"/etc","kind":"dir","mode":"0755","uid":0,"gid":0,"mtime":{EPOCH},"package":"flotilla"}}\n'
        f'{{"path":"/etc/link","kind":"symlink","mode":"0777","uid":0,"gid":0,"mtime":{EPOCH},"package":"flotilla","target":"motd"}}\n'
        f'{{"path":"/etc/motd","kind":"file","mode":"0640","uid":0,"gid":4,"mtime":{EPOCH},"package":"flotilla","size":5,"sha256":"{HASH}"}}\n'
        f'{{"path":"/usr","kind":"dir","mode":"0755","uid":0,"gid":0,"mtime":{EPOCH},"package":"ping"}}\n'
        f'{{"path":"/usr/bin","kind":"dir","mode":"0755","uid":0,"gid":0,"mtime":{EPOCH},"package":"ping"}}\n'
        f'{{"path":"/usr/bin/ping","kind":"file","mode":"4755","uid":0,"gid":0,"mtime":{EPOCH},"package":"ping","size":5,"sha256":"{HASH}",'
        '"xattrs":{"x.y":"AQI="}}\n'
    )


def test_the_list_of_a_build_has_what_the_image_holds(tmp_path: Path, closure: Tools) -> None:
    """Packages, overlay, finishing steps: hashes from the store are those of the contents in the squashfs."""
    world = World(tmp_path, closure)
    for _ in range(2):  # made, and then taken from the store
        assert world.image("--quiet", "--force") == 0
        found = filelist.load(world.output)
        unpacked = tmp_path / "unpacked"
        closure.run("unsquashfs", "-q", "-n", "-no-xattrs", "-f", "-d", str(unpacked), str(world.output / "root.img"))
        paths = {f"/{path.relative_to(unpacked)}": path for path in unpacked.rglob("*")}
        assert paths.keys() == found.keys()
        for name, path in paths.items():
            entry = found[name]
            assert int(path.lstat().st_mtime) == entry.mtime
            if entry.kind is Kind.SYMLINK:
                assert str(path.readlink()) == entry.target
                continue
            assert path.is_dir() == (entry.kind is Kind.DIRECTORY)
            assert f"{path.stat().st_mode & 0o777:o}" == f"{int(entry.mode, 8) & 0o777:o}"
            if entry.kind is Kind.FILE:
                data = path.read_bytes()
                assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.size, entry.sha256)
        assert found["/usr/bin/tool"].mode == "2755"
        assert (found["/usr/bin/tool"].gid, found["/usr/bin/tool"].package) == (42, "tool")
        assert found["/etc/issue"].package == "flotilla"


GOOD: dict[str, Any] = {
    "path": "/etc/motd",
    "kind": "file",
    "mode": "0644",
    "uid": 0,
    "gid": 0,
    "mtime": 1,
    "package": "base-files",
    "size": 5,
    "sha256": HASH,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "etc"}, "path is not what it should be"),
        ({"kind": "fifo"}, "kind is not what it should be"),
        ({"mode": "644"}, "mode is not what it should be"),
        ({"mode": 420}, "mode is not what it should be"),
        ({"uid": -1}, "uid is not what it should be"),
        ({"gid": True}, "gid is not what it should be"),
        ({"mtime": 1.5}, "mtime is not what it should be"),
        ({"package": "\x1b[2J"}, "package is not what it should be"),
        ({"sha256": "ABC"}, "sha256 is not what it should be"),
        ({"sha256": ""}, "sha256 is not what it should be"),
        ({"xattrs": {"a": 1}}, "xattrs is not what it should be"),
        ({"target": "there"}, "what a file has and has not"),
        ({"kind": "dir"}, "what a dir has and has not"),
        ({"kind": "symlink"}, "what a symlink has and has not"),
        ({"colour": "red"}, "unknown key 'colour'"),
    ],
)
def test_a_broken_line_is_reported_with_its_number(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    lines = [GOOD, {**GOOD, "path": "/x", **change}]
    (tmp_path / filelist.NAME).write_text("".join(json.dumps(each) + "\n" for each in lines))
    with pytest.raises(Failure) as caught:
        filelist.load(tmp_path)
    assert caught.value.message == f"the list of files is broken: {message}"
    assert caught.value.where == f"{tmp_path / filelist.NAME}:2"


@pytest.mark.parametrize("text", ["{", "[]", "3", "{}", "[" * 100_000, '{"path":"/é"}', json.dumps(GOOD) * 2])
def test_what_is_no_list_is_reported(text: str, tmp_path: Path) -> None:
    (tmp_path / filelist.NAME).write_text(text, "utf-8")
    with pytest.raises(Failure, match="the list of files is broken"):
        filelist.load(tmp_path)


def test_a_path_that_is_there_twice_is_no_list(tmp_path: Path) -> None:
    (tmp_path / filelist.NAME).write_text((json.dumps(GOOD) + "\n") * 2)
    with pytest.raises(Failure, match="was there before"):
        filelist.load(tmp_path)


def test_no_list_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot read the list of files"):
        filelist.load(tmp_path)

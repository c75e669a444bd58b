"""The lock's format: the same text for the same lock, and every way to break it is reported with the next step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.debian.lockfile import Change, IndexStamp, Lock, LockedPackage, LockFailure, changes

LIB = LockedPackage(
    "lib", "1:1.0-1+b1", "amd64", "debian", "one", "pool/main/lib_1.0.deb", "a" * 64, 10, "libsource", "1:1.0-1"
)
TOOL = replace(LIB, name="tool", path="pool/main/tool.deb", sha256="b" * 64)
STAMP = IndexStamp("debian", "one", "main", "dists/one/main/binary-amd64/Packages", "c" * 64, 1700000000)
LOCK = Lock("amd64", 1700000000, "d" * 64, (STAMP,), (LIB, TOOL))


def test_one_package_a_line_by_name() -> None:
    text = replace(LOCK, packages=(TOOL, LIB)).dump()
    assert text == LOCK.dump()
    lines = [line for line in text.splitlines() if '"name"' in line]
    assert [json.loads(line.strip().rstrip(","))["name"] for line in lines] == ["lib", "tool"]


def test_a_lock_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    path.write_text(LOCK.dump())
    assert Lock.load(path) == LOCK
    assert Lock.parse(replace(LOCK, packages=(), indexes=()).dump()).packages == ()


_TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@given(
    st.lists(
        st.builds(
            replace,
            st.just(LIB),
            name=st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,8}", fullmatch=True),
            suite=_TEXT,
            source=_TEXT,
        )
    )
)
def test_dump_and_parse_are_inverse(packages: list[LockedPackage]) -> None:
    unique = {package.name: package for package in packages}
    lock = replace(LOCK, packages=tuple(unique[name] for name in sorted(unique)))
    assert Lock.parse(lock.dump()) == lock


def _broken(**changed: object) -> str:
    data: dict[str, Any] = json.loads(LOCK.dump())
    for path, value in changed.items():
        target: Any = data
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("__")]
        for part in parents:
            target = target[part]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Expecting value"),
        ("<<<<<<< HEAD", "Expecting value"),
        ("[]", "not a JSON object"),
        (_broken(version=2), "format version 2"),
        (_broken(request="yes"), "request"),
        (_broken(epoch=-1), "epoch"),
        (_broken(packages={}), "packages: not a list"),
        (_broken(packages__0=7), r"packages\[0\]: not an object"),
        (_broken(packages__1__sha256="B" * 64), r"packages\[1\].sha256"),
        (_broken(packages__0__size="10"), r"packages\[0\].size: not a number"),
        (_broken(packages__0__size=True), r"packages\[0\].size: not a number"),
        (_broken(packages__0__suite=3), r"packages\[0\].suite: not a string"),
        (_broken(packages__0__path=None), r"packages\[0\]: path missing"),
        (_broken(packages__0__extra="x"), r"packages\[0\]: unknown extra"),
        (_broken(packages__0__path="pool/../../../etc/shadow"), "leaves the archive"),
        (_broken(packages__0__path="/etc/shadow"), "leaves the archive"),
        (_broken(packages__0__archive="../debian"), "archive"),
        (_broken(packages__0__name="../lib"), "name"),
        (_broken(packages__0__name="--option"), "name"),
        (_broken(packages__0__version="1.0\nx"), "version of lib"),
        (_broken(packages__0__name="tool"), "tool: locked twice"),
        (_broken(indexes__0__date=None), r"indexes\[0\]: date missing"),
    ],
)
def test_a_broken_lock_names_the_file_the_place_and_the_next_step(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    path.write_text(text)
    with pytest.raises(LockFailure, match=words) as caught:
        Lock.load(path)
    assert caught.value.where == str(path)
    assert "osbuild lock" in str(caught.value.hint)


def test_a_missing_lock_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(LockFailure, match="there is no lock") as caught:
        Lock.load(tmp_path / "node.lock")
    assert "osbuild lock" in str(caught.value.hint)


def test_a_lock_that_is_no_text_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(LockFailure, match="cannot be read"):
        Lock.load(path)


def test_the_id_follows_the_bytes_and_not_the_indexes() -> None:
    assert replace(LOCK, indexes=()).id == LOCK.id
    assert replace(LOCK, packages=(LIB,)).id != LOCK.id
    assert replace(LOCK, epoch=1).id != LOCK.id


def test_changes_are_named() -> None:
    newer, other = replace(LIB, version="2.0-1", sha256="e" * 64), replace(TOOL, sha256="f" * 64)
    extra = replace(LIB, name="extra")
    new = replace(LOCK, packages=(newer, other, extra))
    assert changes(LOCK, new) == (Change("extra", None, extra), Change("lib", LIB, newer), Change("tool", TOOL, other))
    assert [change.verb for change in changes(LOCK, new)] == ["added", "updated", "replaced"]
    assert [change.verb for change in changes(new, replace(LOCK, packages=()))] == ["removed"] * 3
    assert [change.verb for change in changes(None, LOCK)] == ["added", "added"]


def test_the_same_bytes_in_another_suite_are_no_change() -> None:
    assert changes(LOCK, replace(LOCK, packages=(replace(LIB, suite="one-updates"), TOOL))) == ()

"""A definition's errors are reported with file, line, column and the nearest right thing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core import data, document
from builder.definition import definition
from terminal import Failure

GOOD = """\
version: 1
name: small
suites:
  - {suite: trixie}
packages:
  - bash
  - {name: etcd-server, from: forky}
"""


def load(tmp_path: Path, text: str) -> definition.Definition:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    return definition.load(path)


def test_our_own_definitions_load() -> None:
    node = definition.load(data.image() / "node.yaml")
    assert ("etcd-server", "forky") in node.wants()
    assert node.kernel is not None
    assert definition.load(data.image() / "containers" / "redis.yaml").container is not None


def test_a_package_may_name_its_suite(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).wants() == [("bash", None), ("etcd-server", "forky")]


@pytest.mark.parametrize(
    ("text", "place", "says", "hint"),
    [
        (GOOD + "pakages: []\n", ":8:1", "unknown key 'pakages'", "packages"),
        (GOOD.replace("suite:", "siute:"), ":4:6", "siute", "suite"),
        (GOOD.replace("version: 1", "version: 2"), ":1:1", "version", "docs/definition.md"),
        (GOOD.replace("name: small\n", ""), ":1:1", "name", "docs/definition.md"),
        (GOOD + "accounts: [{name: x, uid: 0, home: /}]\n", ":8:22", "accounts.0.uid", "docs/definition.md"),
        (GOOD + "name: other\n", ":8:1", "'name' is there twice", "keep one"),
        (GOOD.replace("{suite: trixie}", "{suite: trixie, suite: sid}"), ":4:21", "'suite' is there twice", "keep one"),
        (GOOD + "  bad: [\n", ":8:3", "not YAML", ""),
        ("- a\n", ":1:1", "mapping", "node.yaml"),
        (GOOD + "disk: {esp: 64}\n", ":8:8", "disk.esp: a size is whole MiB or GiB", "docs/definition.md"),
        (GOOD + "disk: {esp: 64 MB}\n", ":8:8", "disk.esp: a size is whole MiB or GiB", "docs/definition.md"),
        (GOOD + "disk: {state: 0MiB}\n", ":8:8", "disk.state: a size is whole MiB or GiB", "docs/definition.md"),
        (GOOD + "disk: {state: -1GiB}\n", ":8:8", "disk.state: a size is whole MiB or GiB", "docs/definition.md"),
        (GOOD + "disk: {state: [1GiB]}\n", ":8:8", "disk.state: a size is whole MiB or GiB", "docs/definition.md"),
        (GOOD + "disk: {state: 1025GiB}\n", ":8:8", "disk.state: at most 1024GiB", "docs/definition.md"),
        (GOOD + "disk: {esp: 15MiB}\n", ":8:8", "disk.esp: an EFI system partition has at least 16MiB", ""),
        (GOOD + "disk: {root: 1GiB}\n", ":8:1", "disk: the hashes of a root of 1GiB need a verity of 9MiB", ""),
        (GOOD + "disk: {roots: 1GiB}\n", ":8:8", "unknown key 'disk.roots'", "did you mean 'root'"),
    ],
)
def test_a_mistake_is_pointed_at(tmp_path: Path, text: str, place: str, says: str, hint: str) -> None:
    with pytest.raises(Failure) as caught:
        load(tmp_path, text)
    assert place in str(caught.value)
    assert says in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_a_missing_definition_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot read") as caught:
        definition.load(tmp_path / "none.yaml")
    assert "give its path" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version: 1\nname: \xff\n", "small.yaml:2: this is not text in UTF-8"),
        (b"a" * (document.BYTES_MAX + 1), "this is no definition: more than"),
        (b"\0", "this is not YAML"),
        (b"[" * 5000, "this is not YAML"),
    ],
    ids=["latin-1", "endless", "binary", "deep"],
)
def test_what_is_no_definition_at_all(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_bytes(content)
    with pytest.raises(Failure, match=says):
        definition.load(path)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (GOOD.replace("{suite: trixie}", "&one {suite: trixie}\n  - {<<: *one, archive: x}"), ":5:16", "suites.1.archive"),
        (GOOD + "root: &r {type: erofs, fast: [{a: 1}], release: []}\nids: {<<: *r}\n", ":8:11", "ids.type"),
        (GOOD + "links: !!omap [a: b]\n", ":8:1", "links"),
        (GOOD + "ids: {1: 2}\n", ":8:1", "a key is text, which 1 is not"),
        (GOOD + "ids: {? {a: b} : 2}\n", ":8:9", "a key is text, not a list"),
        (GOOD + "links: 2026-99-99\n", "small.yaml", "a value is not of its type"),
        (GOOD + "links: !!bool maybe\n", "small.yaml", "a value is not of its type"),
        (GOOD + "links: &a [*a]\n", "small.yaml", "this is not YAML"),
    ],
)  # fmt: skip
def test_yaml_that_few_write_is_placed_too(tmp_path: Path, text: str, place: str, says: str) -> None:
    with pytest.raises(Failure) as caught:
        load(tmp_path, text)
    assert place in str(caught.value)
    assert says in str(caught.value)


def test_a_merge_key_of_yaml_works(tmp_path: Path) -> None:
    text = GOOD.replace("{suite: trixie}", "&one {suite: trixie, pin_only: true}\n  - {<<: *one, suite: sid}")
    assert [(each.suite, each.pin_only) for each in load(tmp_path, text).suites] == [("trixie", True), ("sid", True)]


def test_sizes_of_a_disk(tmp_path: Path) -> None:
    disk = load(tmp_path, GOOD + "disk: {esp: 64MiB, state: 2GiB}\n").disk
    assert (disk.esp, disk.root, disk.state) == (64 << 20, 512 << 20, 2 << 30)


@given(st.integers(1, 1 << 20))
def test_a_size_is_read_as_it_is_written(mebibytes: int) -> None:
    given_as = definition.size_text(mebibytes << 20)
    disk = definition.Disk.model_validate({"state": given_as})
    assert disk.state == mebibytes << 20
    assert disk.model_dump()["state"] == given_as

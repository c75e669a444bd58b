"""The manifest: what it contains, and when it says that a folder is whole."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from builder.about import filelist, manifest, timings
from builder.core.tree import Entry, Inline, Kind, Tree
from builder.debian.lockfile import Lock, LockedPackage
from builder.debian.tools import Tools
from tests.builder.smallworld import REPORTS, ROOT, World

PACKAGE = LockedPackage("tool", "1.0", "amd64", "debian", "test", "pool/t.deb", "a" * 64, 9, "tool-source", "1.0")
LOCK = Lock("amd64", 1_700_000_000, "b" * 64, (), (PACKAGE,))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A folder into which ``root.img`` and ``cmdline`` were published as build ``one``."""
    work, output = tmp_path / "work", tmp_path / "output"
    work.mkdir()
    output.mkdir()
    (work / "root.img").write_bytes(b"root")
    (work / "cmdline").write_text("quiet\n")
    tree = Tree(
        Entry(name, Kind.FILE, content=Inline(data), owner=owner)
        for name, data, owner in [
            ("a", b"12", "tool"),
            ("b", b"345", "tool"),
            ("c", b"6789", "other"),
            ("d", b"", "none"),
        ]
    )
    manifest.publish(work, output, manifest.compose("one", "node", "qemu", LOCK, tree, work.iterdir()))
    return output


def test_it_lists_packages_artifacts_and_owners(output: Path) -> None:
    parsed = json.loads((output / "manifest.json").read_text())
    assert parsed["packages"] == [
        {
            "name": "tool",
            "version": "1.0",
            "architecture": "amd64",
            "suite": "test",
            "source": "tool-source",
            "source_version": "1.0",
            "sha256": "a" * 64,
        }
    ]
    assert [(artifact["name"], artifact["size"]) for artifact in parsed["artifacts"]] == [
        ("cmdline", 6),
        ("root.img", 4),
    ]
    assert parsed["owners"] == [{"owner": "tool", "bytes": 5}, {"owner": "other", "bytes": 4}]
    assert (parsed["build"], parsed["epoch"]) == ("one", LOCK.epoch)


def test_a_whole_folder_is_current_for_its_own_build_only(output: Path) -> None:
    assert manifest.is_current(output, "one")
    assert not manifest.is_current(output, "two")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"build": "one"}', '{"build": "one", "artifacts": [{}]}', "null"]
)
def test_a_manifest_that_says_nothing_is_not_current(text: str, output: Path) -> None:
    (output / "manifest.json").write_text(text)
    assert not manifest.is_current(output, "one")


def test_a_missing_or_short_artifact_is_noticed(output: Path) -> None:
    (output / "root.img").write_bytes(b"roo")
    assert not manifest.is_current(output, "one")
    (output / "root.img").unlink()
    assert not manifest.is_current(output, "one")


def test_an_open_artifact_keeps_its_bytes(output: Path, tmp_path: Path) -> None:
    """A machine that runs from root.img goes on with what it was started from."""
    work = tmp_path / "again"
    work.mkdir()
    (work / "root.img").write_bytes(b"newer")
    with (output / "root.img").open("rb") as running:
        manifest.publish(work, output, {"build": "two", "artifacts": []})
        assert running.read() == b"root"
    assert (output / "root.img").read_bytes() == b"newer"


def test_when_publishing_breaks_off_no_manifest_vouches_for_the_mixture(output: Path, tmp_path: Path) -> None:
    work = tmp_path / "again"
    work.mkdir()
    (work / "cmdline").write_text("new\n")
    (work / "root.img").write_bytes(b"new")
    (output / "root.img").unlink()
    (output / "root.img").mkdir()  # cannot be replaced by a file
    with pytest.raises(IsADirectoryError):
        manifest.publish(work, output, {"build": "two", "artifacts": []})
    assert not (output / "manifest.json").exists()


def keys(value: object) -> set[str]:
    """The keys of all objects in a JSON value."""
    if isinstance(value, dict):
        return set(value) | {key for each in value.values() for key in keys(each)}
    return {key for each in value for key in keys(each)} if isinstance(value, list) else set()


def test_every_key_of_what_a_build_leaves_is_documented(tmp_path: Path, closure: Tools) -> None:
    world = World(tmp_path, closure)
    assert world.container("--quiet") == 0
    page = (ROOT / "docs/build-output.md").read_text("utf-8")
    listed = [json.loads(line) for line in (world.output / filelist.NAME).read_text().splitlines()]
    parsed = keys(json.loads((world.output / manifest.NAME).read_text())) | keys(listed)
    parsed |= {field.name for field in fields(filelist.Listed)} | REPORTS | {timings.NAME}
    assert sorted(key for key in parsed if f"`{key}`" not in page) == []

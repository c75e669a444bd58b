"""A definition's mistakes are told with file, line, column and the nearest right thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder import data, definition
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
        (GOOD + "  bad: [\n", ":8:3", "not YAML", ""),
        ("- a\n", ":1:1", "mapping", "node.yaml"),
    ],
)
def test_a_mistake_is_pointed_at(tmp_path: Path, text: str, place: str, says: str, hint: str) -> None:
    with pytest.raises(Failure) as caught:
        load(tmp_path, text)
    assert place in str(caught.value)
    assert says in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_a_missing_definition_is_told(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot read") as caught:
        definition.load(tmp_path / "none.yaml")
    assert "--definition" in (caught.value.hint or "")

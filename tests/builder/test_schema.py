"""What others read of the definition is what the model says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from builder.cli import run, schema
from terminal import command

Out = pytest.CaptureFixture[str]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("words", "name"), [([], "definition.schema.json"), (["--markdown"], "definition.md")])
def test_what_is_committed_is_what_is_made(words: list[str], name: str, capsys: Out) -> None:
    assert command("osbuild", run, ["schema", *words]) == 0
    made = capsys.readouterr().out
    assert made == (DOCS / name).read_text("utf-8"), f"run: osbuild schema {' '.join(words)} >docs/{name}"


def test_every_key_is_explained() -> None:
    keys = re.findall(r"^\* `\w+` \(.*", schema.page(), re.MULTILINE)
    assert len(keys) > 40
    for line in keys:
        assert re.match(r"\* `\w+` \([^:]*\): \S", line), f"builder/definition/definition.py: no docstring: {line}"


def test_an_editor_learns_keys_kinds_and_meanings() -> None:
    parsed: dict[str, Any] = json.loads(schema.json_schema())
    assert parsed["additionalProperties"] is False
    assert parsed["properties"]["packages"]["description"].startswith("The packages to install")
    assert set(parsed["$defs"]["Pinned"]["properties"]) == {"name", "from"}
    assert "``" not in schema.json_schema()

"""What others read of the definition is what the model says."""

from __future__ import annotations

import json
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
    page = schema.page()
    tables = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(tables) > 40
    for line in tables:
        assert line.count(" | ") == 3, f"a pipe in a cell breaks the table: {line}"
        assert not line.endswith("|  |"), f"builder/definition/definition.py: its docstring is empty: {line}"


def test_an_editor_learns_keys_kinds_and_meanings() -> None:
    told: dict[str, Any] = json.loads(schema.json_schema())
    assert told["additionalProperties"] is False
    assert told["properties"]["packages"]["description"].startswith("What is asked for")
    assert set(told["$defs"]["Pinned"]["properties"]) == {"name", "from"}
    assert "``" not in schema.json_schema()

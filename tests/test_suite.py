"""docs/suite.md and docs/functional.md name tests: they are there, under these names."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`((?:chaos/|tests/[\w/]+/)?test_\w+\.py)::(test_\w+)`")
ANCESTOR = re.compile(r"^\* (\w+), `test_functional\.py::(test_\w+)`", re.MULTILINE)


def page(name: str) -> str:
    """A page of the documentation."""
    return (ROOT / "docs" / name).read_text("utf-8")


def defined_in(file: str) -> list[str]:
    """The tests in a file, which is named as the pages do."""
    path = ROOT / file if file.startswith("tests/") else ROOT / "vm-tests" / file
    return re.findall(r"^ *def (test_\w+)\(", path.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", ["suite.md", "functional.md"])
def test_the_tests_that_the_page_names_exist(name: str) -> None:
    named = NAMED.findall(page(name))
    assert len(named) > 30
    assert [f"{file}::{test}" for file, test in named if test not in defined_in(file)] == []


def test_each_ancestor_has_a_test_of_its_name() -> None:
    rows = ANCESTOR.findall(page("functional.md"))
    for ancestor, test in rows:
        assert test.replace("_", "") == f"test{ancestor.lower()}"
    assert Counter(test for _, test in rows) == Counter(defined_in("test_functional.py"))
    assert len(rows) == 43

"""docs/suite.md names tests: they are there, under these names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`((?:chaos/)?test_\w+\.py)::(test_\w+)`")


def test_the_tests_that_the_page_names_exist() -> None:
    page = (ROOT / "docs" / "suite.md").read_text("utf-8")
    named = NAMED.findall(page)
    assert len(named) > 30
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"^def {name}\(", (ROOT / "vm-tests" / file).read_text("utf-8"), re.MULTILINE)
    ]
    assert missing == []

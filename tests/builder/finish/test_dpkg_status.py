"""The package list for scanners."""

from __future__ import annotations

import pytest

from builder.core.tree import Tree
from builder.finish.dpkg_status import PATH, dpkg_status
from terminal import Failure


def test_sorted_paragraphs_with_a_status() -> None:
    (entry,) = dpkg_status(
        Tree(), ["Package: b\nVersion: 2\n", "Package: a\nStatus: half\nDescription: x\n more\n"]
    ).put
    assert entry.path == PATH
    assert entry.content.read().decode() == (
        "Package: a\nStatus: install ok installed\nDescription: x\n more\n\n"
        "Package: b\nStatus: install ok installed\nVersion: 2\n"
    )


def test_no_paragraph() -> None:
    with pytest.raises(Failure, match="does not begin with its package: 'nonsense'"):
        dpkg_status(Tree(), ["nonsense\n"])

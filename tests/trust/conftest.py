"""What the tests of trust/ share: a trust folder, and programs that look at what it made."""

from __future__ import annotations

from pathlib import Path

import pytest

import trust


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A new trust folder."""
    trust.create(tmp_path / "lab")
    return tmp_path / "lab"

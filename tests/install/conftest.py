"""What the installer's tests share."""

import pytest

from builder.debian.tools import Tools


@pytest.fixture(scope="session")
def closure() -> Tools:
    """The real tools closure, which has programs that read what we write."""
    return Tools.ours()

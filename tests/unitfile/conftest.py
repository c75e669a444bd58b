"""What the tests of units share: the systemd of the image, to compare with."""

from __future__ import annotations

import pytest

from tests.unitfile.systemd import Systemd, unpacked


@pytest.fixture(scope="session")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Systemd:
    """The systemd of ``image/node.lock``."""
    return unpacked(tmp_path_factory.mktemp("units"))

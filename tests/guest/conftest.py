"""What the tests of this room share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder for sockets, whose paths must be short, which tmp_path is not."""
    folder = Path(tempfile.mkdtemp(prefix="fg-"))
    yield folder
    shutil.rmtree(folder)

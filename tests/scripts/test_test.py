"""scripts/test in a checkout of a few tests: what it hands on to setup, to the runner and to pytest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.runner.throwaway import ROOT, Folder

pytestmark = pytest.mark.slow

MACHINE = """
import pytest, time

@pytest.fixture
def image():
    time.sleep(0.2)

@pytest.fixture
def cluster(request):
    request.getfixturevalue("image")
    time.sleep(0.1)

def test_b(cluster):
    assert not first("b")
"""


class Checkout(Folder):
    """With the real scripts/test and the real runner, and a set-up that only says what it was called with."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        (path / "pytest.ini").write_text(
            "[pytest]\naddopts = --import-mode=importlib\nmarkers = full: takes long\ntestpaths = nowhere\n"
        )
        self.file("tests/room/test_a.py", "def test_a(): pass\n", flaky=False)
        self.file("vm-tests/test_b.py", MACHINE)
        full = "import pytest\n@pytest.mark.full\ndef test_c():\n    import os\n    assert 'PYTHONPATH' not in os.environ\n"
        self.file("vm-tests/test_c.py", full, flaky=False)
        (path / "scripts").mkdir()
        (path / "scripts/test").write_bytes((ROOT / "scripts/test").read_bytes())
        self.setup("exit 0")

    def setup(self, body: str) -> None:
        (self.path / "scripts/setup").write_text(f'#!/bin/bash\necho "setup: $*"\n{body}\n')
        (self.path / "scripts/setup").chmod(0o755)

    def test(self, *arguments: str) -> tuple[int, list[str]]:
        """Run it, from elsewhere; exit code, and the lines of both streams."""
        environment = {**self.environment, "FLOTILLA_VENV": sys.prefix, "PYTHONPATH": "/another/checkout"}
        words = ["bash", str(self.path / "scripts/test"), *arguments]
        done = subprocess.run(
            words, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return done.returncode, done.stdout.splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a checkout")


def test_all_of_it(checkout: Checkout) -> None:
    checkout.setup("sleep 0.3")
    code, lines = checkout.test()
    assert (code, lines[-1]) == (0, "2 passed, 0 failed")
    assert lines[0] == "setup: --tests"
    assert "flake: vm-tests/test_b.py::test_b" in lines
    at = next(at for at, line in enumerate(lines) if line.startswith("where the time went"))
    table = {line.rsplit(maxsplit=4)[0]: line.split()[-4:] for line in lines[at + 1 : lines.index("", at)]}
    assert {"pytest: start and collection", "tests/room", "second run", "total"} <= set(table)
    assert float(table["scripts/setup"][-1]) >= 0.3
    assert float(table["images built for vm-tests"][1]) >= 0.2
    assert float(table["vm-tests/test_b.py"][1]) >= 0.1
    assert table["images built for vm-tests"][0] == "-"


@pytest.mark.parametrize(
    ("arguments", "code", "last"),
    [
        (["--fast"], 0, "1 passed, 0 failed"),
        (["--full", "--strict", "-k", "test_c or test_b"], 1, "1 passed, 1 failed"),
        (["vm-tests/test_c.py", "--full"], 0, "1 passed, 0 failed"),
    ],
)
def test_what_is_chosen(checkout: Checkout, arguments: list[str], code: int, last: str) -> None:
    ended, lines = checkout.test(*arguments)
    assert (ended, lines[-1]) == (code, last)


def test_a_machine_that_cannot_be_set_up_runs_nothing(checkout: Checkout) -> None:
    checkout.setup("echo 'setup: error: no apt' >&2; exit 3")
    assert checkout.test() == (3, ["setup: --tests", "setup: error: no apt"])


def test_help_needs_no_setup(checkout: Checkout) -> None:
    checkout.setup("exit 1")
    code, lines = checkout.test("-k", "x", "--help")
    assert code == 0
    assert lines[0] == "usage: scripts/test [--fast | --full] [--strict] [PYTEST ARGUMENT...]"
    assert "setup: --tests" not in lines

"""A little folder of tests, run by the real runner in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

ROOT = Path(__file__).parents[2]

ENOUGH_S: Final = 120
"""For what takes a second or two, on a machine that is very busy."""

FLAKY = """
import os
from pathlib import Path

HERE = Path(__file__).parent

def first(name):
    "Whether this is the first run of what is called so; each process that asks is written down."
    with (HERE / f"{name}.runs").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    return (HERE / f"{name}.runs").read_text().count("\\n") == 1
"""
"""What a throw-away test fails by the first time, and not the second time."""


class Folder:
    """Tests of the moment in ``path``, and a folder for temporary files that is empty again after each run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path / "tmp"
        self.temporary.mkdir(parents=True)
        (path / "pytest.ini").write_text("[pytest]\naddopts = -ra --import-mode=importlib\n")
        (path / "conftest.py").write_bytes((ROOT / "conftest.py").read_bytes())

    def file(self, name: str, code: str, *, flaky: bool = True) -> Path:
        """A file of tests; ``first`` is there unless not ``flaky``."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((FLAKY if flaky else "") + textwrap.dedent(code), encoding="utf-8")
        return path

    @property
    def environment(self) -> dict[str, str]:
        """Without what a pytest around us has in its own, and without plugins, which take half a second to import."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        return clean | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TMPDIR": str(self.temporary), "COLUMNS": "120"}

    def start(self, *words: str, own: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start the runner, in a session of its own, as a terminal would."""
        return subprocess.Popen(
            [sys.executable, "-m", "tests.runner", *own, "--", *words],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, own: tuple[str, ...] = ()) -> tuple[int, str]:
        """Run it to its end: exit code, and all that was printed. Of its own files, none is left."""
        with self.start(*words, own=own) as process:
            text, _ = process.communicate(timeout=ENOUGH_S)
        assert list(self.temporary.glob("flotilla-test-*")) == []
        return process.returncode, text

    def interrupt(self, number: signal.Signals, ready: Path, *words: str) -> tuple[int, str]:
        """Run it, and send the signal to its process group, as Ctrl-C does, as soon as ``ready`` is there."""
        with self.start(*words) as process:
            until(ready.exists)
            os.killpg(process.pid, number)
            text, _ = process.communicate(timeout=ENOUGH_S)
        assert list(self.temporary.glob("flotilla-test-*")) == []
        return process.returncode, text


def until(happened: Callable[[], object]) -> None:
    """Wait until it has. An AssertionError if it does not in time."""
    deadline = time.monotonic() + ENOUGH_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_there(pid: int) -> bool:
    """Whether the process runs: a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

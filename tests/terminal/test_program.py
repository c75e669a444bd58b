"""A program that is interrupted cleans up what it has made before we go on."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from terminal.subprocesses import run_to_the_end
from tests.eventually import eventually


def test_what_it_said_and_how_it_ended() -> None:
    done = run_to_the_end(["sh", "-c", "echo $GREETING; echo trouble >&2; cat; exit 3"], GREETING="hello")
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello\n", "trouble\n")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        run_to_the_end(["/nowhere/program"])


def test_interrupted_it_has_all_the_time_to_put_things_away(tmp_path: Path) -> None:
    """Twice what ``subprocess.run`` would give it."""
    mount = tmp_path / "mount"
    # Its clean-up takes time, and it is a shell, which handles a signal between two commands.
    program = f"trap 'sleep 0.5; rm {mount}; exit' TERM; touch {mount}; while :; do sleep 0.1; done"

    def interrupt() -> None:
        eventually(mount.exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_to_the_end(["sh", "-c", program])
    assert not mount.exists()

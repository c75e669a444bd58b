"""How long a command takes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from terminal.subprocesses import run_to_the_end


class Taken(NamedTuple):
    """Seconds of a command: on the wall, and of all its processes on all processors, which a busy machine stretches
    less.
    """

    wall: float
    cpu: float


def timed(command: Sequence[object]) -> Taken:
    """What the command takes. Raises ``CalledProcessError`` if it fails; its words go to stderr then."""
    os.sync()  # what was written before is not this command's to wait for
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run_to_the_end([str(word) for word in command])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    taken = Taken(time.monotonic() - begin, cpu)
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-3000:] + done.stderr[-3000:])
        done.check_returncode()
    return taken


def said(*command: str) -> str:
    """What the command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

"""Programs of others that have something to put away, and get the time for it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from terminal.interrupt import held_back


def run_to_the_end(words: Sequence[str | os.PathLike[str]], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that has something to put away when it is interrupted, such as mounts; its output is captured.

    ``subprocess.run`` would kill it a quarter of a second after Ctrl-C. Here an interrupt makes it and its own programs
    end, with SIGTERM, and waits until it did. ``environment`` goes over our own. Raises ``OSError`` if the program
    cannot be started.
    """
    process = None
    try:
        with held_back():
            process = subprocess.Popen(
                words,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        out, err = process.communicate()
    except BaseException:
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)

"""Kills guests whose daemon has ended: ``python -I -S reaper.py FOLDER``, standard input being a pipe from their owner.

libvirt's embedded driver lets QEMU go on when its process dies. This one outlives that process, sees the pipe end
however it died, and kills the processes in FOLDER's pid files, if they are libvirt's and not others that got the number
later.
"""

import os
import signal
import sys
from pathlib import Path


def kill(pid_file: Path, folder: Path) -> None:
    """Kill the QEMU that ``pid_file`` names; its command line mentions files of libvirt's, beside ``folder``."""
    try:
        pid = int(pid_file.read_text())
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        if os.fsencode(folder.parent.parent) in arguments:
            os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        return  # it ended meanwhile


if __name__ == "__main__":
    run = Path(sys.argv[1])
    sys.stdin.buffer.read()
    for path in run.glob("*.pid"):
        kill(path, run)

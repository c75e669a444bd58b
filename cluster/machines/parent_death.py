"""Run a program that dies with its parent: ``python -I -S parent_death.py PARENT-PID PROGRAM [ARGUMENT...]``.

Linux's parent-death signal (``prctl(2)``, PR_SET_PDEATHSIG) is kept across exec, so QEMU started this way is killed by
the kernel when its supervisor ends, even by ``kill -9``. It is a script of its own and not a ``preexec_fn``, since the
supervisor has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the supervisor died meanwhile")
    try:
        os.execvp(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.exit(f"{sys.argv[2]}: {error.strerror}")

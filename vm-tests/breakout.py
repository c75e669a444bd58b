"""Tries what no container and no account may do to its node: a program for nodes and containers. Standard library only.

``breakout.py ATTEMPT...`` prints what became of each as JSON: ``allowed``, or the name of the error.

    trace:PID           trace a process (PTRACE_SEIZE, which does not stop it); ``trace:own`` is one that we started
    memory:PID          open a process's memory
    write:PATH          make a file, and remove it
    remount:PATH        mount it read-write
    disk:MAJOR:MINOR    open a disk by a device file of our own
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

PTRACE_SEIZE = 0x4206
MS_REMOUNT, MS_BIND = 0x20, 0x1000
_C = ctypes.CDLL(None, use_errno=True)


def trace(pid: int) -> None:
    arguments = (ctypes.c_long(PTRACE_SEIZE), ctypes.c_long(pid), ctypes.c_void_p(), ctypes.c_void_p())
    _succeed(_C.ptrace(*arguments))


def own() -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        trace(child)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def memory(pid: int) -> None:
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))


def write(path: str) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    Path(path).unlink()


def remount(path: str) -> None:
    _succeed(_C.mount(None, path.encode(), None, ctypes.c_ulong(MS_REMOUNT | MS_BIND), None))


def disk(number: str) -> None:
    path = f"/dev/breakout-{os.getpid()}"  # other places are read-only on a node, or "nodev"
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(*map(int, number.split(":"))))
    try:
        os.close(os.open(path, os.O_RDONLY))
    finally:
        Path(path).unlink()


def _succeed(result: int) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


ATTEMPTS: dict[str, Callable[[str], None]] = {
    "trace": lambda pid: own() if pid == "own" else trace(int(pid)),
    "memory": lambda pid: memory(int(pid)),
    "write": write,
    "remount": remount,
    "disk": disk,
}


def attempted(text: str) -> str:
    kind, _, target = text.partition(":")
    try:
        ATTEMPTS[kind](target)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "allowed"


if __name__ == "__main__":
    print(json.dumps({text: attempted(text) for text in sys.argv[1:]}))

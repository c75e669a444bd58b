"""Starts a process, by posix_spawn alone.

This way no memory of ours is copied for it, which would be slow on an emulated node."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from collections.abc import Mapping, Sequence

from guest.lines import Message

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
}
LOGIN = "/etc/environment"
"""What a login has besides, as pam_env(8) reads it; on a node with certificates, what etcdctl is to use."""
FILE_BYTES_MAX = 1 << 16
PYTHON_IGNORES = (13, 25)
"""SIGPIPE and SIGXFSZ, the same numbers on all architectures of ours; what we start does not ignore them."""
SCORE = "/proc/self/oom_score_adj"


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Process:
    """A started process and our ends of its pipes or terminal: ``outputs`` are descriptor -> "out" or "err"."""

    def __init__(self, pid: int, pidfd: int, typed: int | None, outputs: dict[int, str], *, terminal: bool) -> None:
        self.pid, self.pidfd, self.input, self.outputs, self.terminal = pid, pidfd, typed, outputs, terminal


def start(request: Message) -> Process:
    """Start ``request["argv"]`` in a new session: on a terminal if there is a ``tty``, else with pipes.

    ``input`` is whether it gets one.

    Raises OSError, and KeyError, TypeError, ValueError if the request makes no sense.
    """
    argv = request["argv"]
    if not argv or not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
        raise ValueError("argv is no list of words")
    if "tty" in request:
        return _on_terminal(argv, request["tty"]["size"], str(request["tty"]["term"]))
    return _on_pipes(argv, has_input=bool(request.get("input")))


def environment() -> dict[str, str]:
    """That of a command, which nothing in a file can make unusable."""
    found: dict[str, str] = {}
    try:
        with open(LOGIN, encoding="utf-8", errors="replace") as file:
            lines = file.read(FILE_BYTES_MAX).splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and name.isidentifier() and "\0" not in value:
            found[name] = value.strip("\"'")
    return found | ENVIRONMENT


def _on_pipes(argv: Sequence[str], *, has_input: bool) -> Process:
    out, their_out = os.pipe()
    err, their_err = os.pipe()
    ours, theirs = [out, err], [their_out, their_err]
    actions: list[Any] = [(os.POSIX_SPAWN_DUP2, their_out, 1), (os.POSIX_SPAWN_DUP2, their_err, 2)]
    typed = None
    if has_input:
        their_in, typed = os.pipe()
        ours.append(typed)
        theirs.append(their_in)
        actions.append((os.POSIX_SPAWN_DUP2, their_in, 0))
    else:
        actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    pid, pidfd = _spawn(argv, environment(), actions, ours, theirs)
    return Process(pid, pidfd, typed, {out: "out", err: "err"}, terminal=False)


def _on_terminal(argv: Sequence[str], size: Sequence[int], term: str) -> Process:
    master, slave = os.openpty()
    try:
        set_size(master, size)
        typed = os.dup(master)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    # The first terminal that the leader of a new session opens becomes the one that controls it.
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.ttyname(slave), os.O_RDWR, 0),
        (os.POSIX_SPAWN_DUP2, 0, 1),
        (os.POSIX_SPAWN_DUP2, 0, 2),
    ]
    pid, pidfd = _spawn(argv, {**environment(), "TERM": term}, actions, [master, typed], [slave])
    return Process(pid, pidfd, typed, {master: "out"}, terminal=True)


def _spawn(
    argv: Sequence[str], given: Mapping[str, str], actions: Sequence[Any], ours: list[int], theirs: list[int]
) -> tuple[int, int]:
    """Start it; closes ``theirs``, and ``ours`` too if it cannot be started."""
    try:
        before = _spare()
        try:
            pid = os.posix_spawnp(
                argv[0], list(argv), given, file_actions=actions, setsid=True, setsigdef=PYTHON_IGNORES
            )
        finally:
            _restore(before)
        return pid, os.pidfd_open(pid)
    except BaseException:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)


def _spare() -> bytes | None:
    """When memory is short the agent is spared, so that the node can still be inspected.

    What it runs is not: it is started with a score of 0."""
    try:
        with open(SCORE, "rb+", buffering=0) as file:
            before = file.read().strip()
            if before == b"0":
                return None
            file.write(b"0")
            return before
    except OSError:
        return None


def _restore(score: bytes | None) -> None:
    if score is not None:
        with open(SCORE, "wb", buffering=0) as file:
            file.write(score)


def set_size(fd: int, size: Sequence[int]) -> None:
    """Set the ``size`` of the terminal ``fd``: rows, columns.

    Raises TypeError, ValueError for an invalid one, OSError."""
    rows, columns = size
    if not (0 < int(rows) < 1 << 16 and 0 < int(columns) < 1 << 16):
        raise ValueError(f"no size of a terminal: {size}")
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

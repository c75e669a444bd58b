"""A node's control group (cgroups(7), version 2): what holds all of its processes, and stops their time."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from terminal import Failure

MOUNTS = Path("/proc/self/mounts")
PATIENCE_S = 10.0
"""For the kernel to stop all processes of a node, or to let go of those that were killed, on a busy computer."""


def root(mounts: str | None = None) -> Path | None:
    """Where this computer has control groups of version 2; None if none are mounted.

    ``mounts`` is the text of proc(5)'s file.
    """
    for line in (MOUNTS.read_text() if mounts is None else mounts).splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where.encode().decode("unicode_escape"))
    return None


def of(state: Path, number: int) -> Path:
    """The control group of node ``number`` of the cluster in the folder ``state``.

    Raises :class:`Failure` if there are none here.
    """
    top = root()
    if top is None:
        raise Failure(
            "no control groups of version 2 are mounted",
            where=str(MOUNTS),
            hint="mount -t cgroup2 none /sys/fs/cgroup/unified",
        )
    # Clusters of the same name in other folders (another HOME) are other clusters.
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:8]
    return top / f"flotilla-{state.name}-{digest}-node-{number}"


def make(group: Path, memory_mib: int) -> None:
    """Make an empty control group, with room for ``memory_mib`` where memory is counted. Raises :class:`Failure`."""
    try:
        group.mkdir(exist_ok=True)
    except OSError as error:
        raise Failure(f"no control group can be made: {error.strerror}", where=str(group)) from error
    with suppress(OSError):  # this computer counts no memory in version 2
        (group / "memory.max").write_text(str(memory_mib << 20))


async def freeze(group: Path, *, frozen: bool) -> None:
    """Stop the time of all processes, or let it go on; returns when that is so. Raises :class:`Failure`."""
    try:
        (group / "cgroup.freeze").write_text(str(int(frozen)))
        deadline = time.monotonic() + PATIENCE_S
        while f"frozen {int(frozen)}" not in (group / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                raise Failure(
                    f"its processes did not {'stop' if frozen else 'go on'} within {PATIENCE_S:.0f} s", where=str(group)
                )
            await asyncio.sleep(0.005)
    except OSError as error:
        raise Failure(
            f"its processes cannot be {'stopped' if frozen else 'let go on'}: {error.strerror}", where=str(group)
        ) from error


def remove(group: Path) -> bool:
    """Remove a control group that nothing runs in, with those below it; returns whether it is gone."""
    for folder, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()
    return not group.exists()

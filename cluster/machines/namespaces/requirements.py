"""What this computer must have to run nodes in namespaces, and what it lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from cluster.machines.namespaces import cgroup
from cluster.model.accelerator import Accelerator
from terminal import Failure

FILE_SYSTEMS = ("squashfs", "overlay", "tmpfs")
DEVICES = ("/dev/net/tun", "/dev/loop-control")
PROGRAMS = ("mount", "cp")
KERNEL = Accelerator("namespaces", 1.0, "nodes share this computer's kernel")
"""What nodes run with."""
HINT = "cluster up --driver qemu needs none of this"


def lacks(
    system: Path = Path("/"), *, uid: int | None = None, which: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """What is missing below ``system``, in sentences for people; empty if nodes can run here."""
    missing = []
    if (os.geteuid() if uid is None else uid) != 0:
        missing.append("it takes root")
    known = {line.split()[-1] for line in (system / "proc/filesystems").read_text().splitlines() if line.strip()}
    missing += [f"the kernel has no {name} (modprobe {name})" for name in FILE_SYSTEMS if name not in known]
    missing += [f"there is no {device}" for device in DEVICES if not (system / device.lstrip("/")).exists()]
    if cgroup.root((system / "proc/self/mounts").read_text()) is None:
        missing.append("no control groups of version 2 are mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)")
    missing += [f"there is no program {name!r}" for name in PROGRAMS if which(name) is None]
    return missing


def require() -> None:
    """Raise :class:`Failure` unless nodes can run here."""
    if missing := lacks():
        raise Failure(
            f"this computer runs no nodes in namespaces: {'; '.join(missing)}", where="--driver namespaces", hint=HINT
        )

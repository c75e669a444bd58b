"""What the computers that libvirt is to run nodes on can do: found out before anything is made there."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.machines import libvirt_connection
from cluster.machines.probe import (
    BOOT_SECTOR,
    DISK_BYTES,
    EXIT_CODE,
    PROBE_DEADLINE_S,
    PROBE_EMULATED_DEADLINE_S,
    emulated_factor,
    probe_argv,
)
from cluster.machines.qemu import Qemu, parse_version
from cluster.machines.remote import Remote
from cluster.model.accelerator import Accelerator
from cluster.model.connection_uri import Place
from terminal import Failure

NAME = "survey"
ROOM = '"$1" --version && cat /proc/meminfo && df -Pk "$2"'
PROBE = """\
disk=$1 limit=$2
shift 2
cat >"$disk"
code=0
said=$(timeout "$limit" "$@" 2>&1) || code=$?
rm -f "$disk"
printf '%s\\n%s\\n' "$code" "$said"
"""
"""$1: the disk to make of standard input, $2: seconds, then the command to run with it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a computer has: its QEMU, how fast that runs, and free memory.

    Of another computer, also the room below ``folder`` on disk.
    """

    qemu: Qemu
    accelerator: Accelerator
    free_memory_mib: int
    folder: Path | None = None
    free_disk_bytes: int | None = None


def require_connection(place: Place) -> str:
    """Connect to ``place`` and hang up again; returns libvirt's version there.

    Raises :class:`Failure` with what is missing.

    The embedded driver is only searched for: once it runs, this process would hold its folder until it ends.
    """
    libvirt_connection.require(place)
    if place.root is not None:
        return version_text(libvirt_connection.library().getVersion())
    connection = libvirt_connection.connect(place)
    version = int(connection.getLibVersion())
    connection.close()
    return version_text(version)


def version_text(version: int) -> str:
    """libvirt's number for a version as people write it: 9000000 is "9.0.0"."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


def share(size: int, places: int, index: int) -> int:
    """How many of ``size`` nodes the ``index``-th of ``places`` gets: they are dealt in turn."""
    return len(range(index, size, places))


def common(accelerators: Sequence[Accelerator]) -> Accelerator:
    """The accelerator that all nodes can have, with the patience that the slowest needs."""
    slowest = max(accelerators, key=lambda each: (each.name == "tcg", each.factor))
    return dataclasses.replace(slowest, factor=max(each.factor for each in accelerators))


def survey(place: Place, architecture: str, wanted: str) -> Found:
    """Examine the computer behind an ssh ``place``. ``wanted`` is an accelerator or "auto". Raises :class:`Failure`."""
    with tempfile.TemporaryDirectory(prefix="ft-") as folder:
        return asyncio.run(_survey(place, architecture, wanted, Path(folder)))


async def _survey(place: Place, architecture: str, wanted: str, folder: Path) -> Found:
    remote = Remote(place, NAME, folder, 0, discovery_port=0, architecture=architecture)
    await remote.open()
    try:
        said = (await remote.run(ROOM, str(remote.qemu), str(remote.guests))).decode()
        qemu = Qemu(remote.qemu, parse_version(said, str(remote.qemu)), architecture)
        free = next(int(line.split()[1]) // 1024 for line in said.splitlines() if line.startswith("MemAvailable:"))
        room = int(said.splitlines()[-1].split()[3]) * 1024  # the fourth column, in KiB; df(1) of POSIX
        return Found(qemu, await _accelerator(remote, qemu, wanted), free, remote.guests.parent, room)
    finally:
        await remote.remove()
        await remote.close()


async def _accelerator(remote: Remote, qemu: Qemu, wanted: str) -> Accelerator:
    """As :func:`cluster.machines.probe.choose`, there."""
    reason = "--accel tcg"
    if wanted != "tcg":
        try:
            qemu.require("kvm")
            await _probe(remote, qemu, "kvm", PROBE_DEADLINE_S)
        except Failure as failure:
            reason = f"KVM does not work on {remote.host}: {failure.message}"
            if wanted == "kvm":
                raise Failure(reason, hint="--accel tcg emulates the nodes: slower, and needs no KVM") from failure
        else:
            return Accelerator("kvm", 1.0, f"a guest ran with KVM on {remote.host}")
    qemu.require("tcg")
    return Accelerator("tcg", emulated_factor(await _probe(remote, qemu, "tcg", PROBE_EMULATED_DEADLINE_S)), reason)


async def _probe(remote: Remote, qemu: Qemu, accelerator: str, deadline_s: float) -> float:
    """Seconds that the one-sector guest takes there. Raises :class:`Failure` with what happened instead."""
    disk = remote.guests / "probe.img"
    command = probe_argv(qemu, accelerator, disk)
    content = BOOT_SECTOR.ljust(DISK_BYTES, b"\0")
    begin = time.monotonic()
    code, _, said = (
        (await remote.run(PROBE, str(disk), f"{deadline_s:.0f}", *command, stdin=content)).decode().partition("\n")
    )
    if code == "124":  # timeout(1)'s own
        raise Failure(f"a test guest was still silent after {deadline_s:.0f} s", where=remote.host)
    if int(code) != EXIT_CODE:
        raise Failure(
            f"a test guest failed: {(said.strip().splitlines() or [f'exit code {code}'])[-1]}", where=remote.host
        )
    return time.monotonic() - begin

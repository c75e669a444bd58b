"""A disk as the kernel knows it, and whether a node may be written to it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from install.gpt import SECTOR
from install.layout import MIB
from terminal import Failure, UsageFailure, record

WIPEFS: Final = "/usr/sbin/wipefs"
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Device:
    """A whole disk: ``size`` and ``sector`` in bytes.

    ``uses`` and ``contents`` describe its use and contents for people.
    """

    path: Path
    size: int
    sector: int
    read_only: bool = False
    uses: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()


def check(device: Device, needed: int, *, force: bool) -> None:
    """Raise Failure if the disk must not, or with ``force`` cannot, be overwritten with ``needed`` bytes."""
    where = str(device.path)
    if device.uses:
        raise Failure(
            f"is in use: {'; '.join(device.uses)}",
            where=where,
            hint="nothing was changed; name another disk ('lsblk' lists them), or unmount what is mounted",
        )
    if device.read_only:
        raise Failure("is read-only", where=where, hint="nothing was changed; some disks have a switch for it")
    if device.sector != SECTOR:
        raise Failure(
            f"has sectors of {device.sector} bytes; only disks with {SECTOR} are supported",
            where=where,
            hint="nothing was changed; many such disks can be set to 512 bytes (nvme format, hdparm --set-sector-size)",
        )
    if device.size < needed:
        raise Failure(
            f"is too small: {device.size / 1e9:.2f} GB, {needed / 1e9:.2f} GB are needed",
            where=where,
            hint="nothing was changed",
        )
    if device.contents and not force:
        raise Failure(
            f"holds data: {'; '.join(device.contents)}",
            where=where,
            hint=f"nothing was changed; 'flotilla-install --force {where}' overwrites it",
        )


def inspect(path: Path, system: Path = Path("/")) -> Device:
    """Look at the disk ``path``.

    Raises Failure if it is missing or unreadable, UsageFailure if it is not a whole disk.
    """
    path = path.resolve()
    try:
        status = path.stat()
    except OSError as error:
        raise Failure(error.strerror or "is not there", where=str(path), hint="'lsblk' lists the disks") from None
    if not stat.S_ISBLK(status.st_mode):
        raise UsageFailure("is no disk", where=str(path), hint="such as /dev/sda; 'lsblk' lists them")
    folder = (system / f"sys/dev/block/{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}").resolve()
    if (folder / "partition").exists():
        raise UsageFailure(
            "is a partition; a node takes a whole disk", where=str(path), hint=f"the disk is /dev/{folder.parent.name}"
        )
    parts = sorted(entry.parent for entry in folder.glob("*/partition"))
    nodes = [path, *(path.parent / part.name for part in parts)]
    numbers = {(place / "dev").read_text().strip(): f"/dev/{place.name}" for place in (folder, *parts)}
    holders = [f"{place.name} by {one.name}" for place in (folder, *parts) for one in (place / "holders").iterdir()]
    uses = (
        *mounted((system / "proc/self/mountinfo").read_text("utf-8"), numbers),
        *swapped((system / "proc/swaps").read_text("utf-8"), map(str, nodes)),
        *(f"/dev/{holder}" for holder in holders),
    )
    return Device(
        path,
        int((folder / "size").read_text()) * 512,  # in sysfs always sectors of 512 bytes
        int((folder / "queue/logical_block_size").read_text()),
        (folder / "ro").read_text().strip() == "1",
        uses,
        tuple(signatures(_wipefs(nodes)) or _beginning(path)),
    )


def mounted(mountinfo: str, numbers: dict[str, str]) -> list[str]:
    """Where the devices (number -> name) are mounted. Format: proc_pid_mountinfo(5)."""
    found = []
    for line in mountinfo.splitlines():
        fields = line.split()
        if fields[2] in numbers:
            place = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
            found.append(f"{numbers[fields[2]]} is mounted on {place}")
    return found


def swapped(swaps: str, names: Iterable[str]) -> list[str]:
    """Which of the devices are swap space. Format: /proc/swaps, one a line after a heading."""
    used = {line.split()[0] for line in swaps.splitlines()[1:] if line.strip()}
    return [f"{name} is swap space" for name in names if name in used]


def signatures(said: bytes) -> list[str]:
    """What ``wipefs --json`` found: ``gpt``, ``ext4 'state' on vda6``."""
    if not said.strip():
        return []
    found: dict[str, None] = {}
    for one in record.parse(said)["signatures"]:
        label = f" '{one['label']}'" if one.get("label") else ""
        found[f"{one['type']}{label} on {one['device']}"] = None
    return list(found)


def _wipefs(nodes: Iterable[Path]) -> bytes:
    command = [WIPEFS, "--json", *map(str, nodes)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip()
        raise Failure(f"cannot be read: {words}", where=command[-1])
    return done.stdout


def _beginning(path: Path) -> list[str]:
    """Data of an unknown kind shows in the first MiB."""
    try:
        with path.open("rb") as file:
            return ["its beginning is not empty"] if file.read(MIB).strip(b"\0") else []
    except OSError as error:
        raise Failure(f"cannot be read: {error.strerror}", where=str(path)) from error

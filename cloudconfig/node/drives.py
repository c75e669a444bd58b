"""Finds CD drives at once: their contents may be needed before udev has handled their controller.

Loading a driver ends when it has probed all devices of its controllers (the kernel waits for that, ``do_init_module``
in kernel/module/main.c), so after :func:`bring_up` a CD drive exists or there is none. No wait and no timeout is
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cloudconfig.node import iso

# PCI's classes of IDE and SATA controllers: where virtual machines have their CD drives.
_CONTROLLERS = ("0x0101", "0x0106")
_DRIVER = "sr_mod"


def load(alias: str) -> None:
    """Load the kernel module of this name or alias; the kernel's log reports one that cannot be loaded."""
    import subprocess  # costs a node at boot what most of them never need

    subprocess.run(["/sbin/modprobe", "-q", "-b", alias], stdin=subprocess.DEVNULL, check=False)


def bring_up(system: Path, load: Callable[[str], None]) -> None:
    """Load the drivers of all IDE and SATA controllers, then that of CD drives."""
    aliases = sorted(filter(None, map(_alias, (system / "sys/bus/pci/devices").glob("*"))))
    for alias in aliases:
        load(alias)
    if aliases:
        load(_DRIVER)


def _alias(device: Path) -> str:
    try:
        if (device / "class").read_text("ascii").startswith(_CONTROLLERS):
            return (device / "modalias").read_text("ascii").strip()
    except OSError:
        pass  # it was unplugged while we looked
    return ""


def labelled(system: Path, label: str) -> Path | None:
    """The CD drive with the volume called ``label`` (in lower case), read from the disk itself.

    None if there is none."""
    for drive in sorted((system / "sys/block").glob("sr*")):
        device = system / "dev" / drive.name
        try:
            with device.open("rb") as volume:
                if iso.label(volume).lower() == label:
                    return device
        except (OSError, iso.IsoError):
            continue  # no disk is in it, or one of another kind
    return None

"""Target ``iso``: ``flotilla.iso``, a live node that can install itself.

It boots as a CD under BIOS and UEFI and as a USB disk under UEFI, runs a live node from the medium, and has what
``flotilla-install`` (on that node) writes to a disk.

    flotilla/root-<hash>.img   the root with its hashes: the live node runs from it, and it is what is installed
    flotilla/esp.img           the EFI system partition of an installed disk, without the zeros at its end
    flotilla/disk.json         where these go on a disk (read by install/layout.py)
    boot/                      kernel and initrd for BIOS, and efi.img, the file system that UEFI boots the live node from
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from builder.core.extent import Extent
from builder.core.verity import Verity
from builder.formats import boot, disk, iso
from builder.formats.iso import File
from builder.targets.target import Installed, Parts, Target

OUTPUT: Final = "flotilla.iso"
LABEL: Final = "FLOTILLA"

LIVE: Final = (
    "flotilla.state=memory flotilla.datasource=installed,nocloud "
    "systemd.set_credential=agetty.autologin:core systemd.set_credential=login.noauth:yes"
)
"""Kernel parameters of a live node: nothing survives a reboot, and its console is logged in.

There is nothing to protect, and perhaps no network to log in from. agetty(8) and login(1) read these credentials.
"""

_ISOLINUX: Final = {"isolinux.bin": "usr/lib/ISOLINUX", "ldlinux.c32": "usr/lib/syslinux/modules/bios"}
_EFI: Final = "boot/efi.img"
_BIOS: Final = "boot/isolinux/isolinux.bin"
_BLOCK: Final = 4096
# Below, FAT16 would have too few clusters to be FAT16.
_FAT_MIN: Final = 9 << 20


def write(parts: Parts, folder: Path) -> None:
    """Put ``flotilla.iso`` into ``folder``."""
    installed = parts.installed
    root = f"root-{parts.verity.root_hash[:16]}.img"
    command_line = parts.parameters(parts.any_console, f"flotilla.root=medium:/flotilla/{root}", LIVE)
    esp = installed.extents[0].source
    sizes = {esp: without_zeros(esp), parts.root: parts.root.stat().st_size}
    names = {esp: "esp.img", parts.root: root}
    description = parts.work / "disk.json"
    description.write_text(
        json.dumps(describe(parts.name, parts.version, parts.verity, installed, names, sizes), indent=1) + "\n"
    )
    efi = _live_system_partition(parts, command_line)
    files = [
        File.whole("flotilla/disk.json", description),
        *(File(f"flotilla/{names[source]}", source, size) for source, size in sizes.items()),
        File.whole(_EFI, efi),
    ]
    if has_bios := parts.boot.efi_name == "x64":
        files += _bios_files(parts, command_line)
    contents = iso.Contents(LABEL, files, _EFI, _BIOS if has_bios else None)
    identity = (parts.verity.root_hash.encode(), hashlib.sha256(command_line.encode()).digest())
    iso.write(contents, identity, folder / OUTPUT, parts.epoch, parts.tools)


def describe(
    name: str, version: str, verity: Verity, installed: Installed, names: Mapping[Path, str], sizes: Mapping[Path, int]
) -> dict[str, object]:
    """The contents of ``disk.json``: partitions and extents in bytes; an extent's ``source`` is a file beside it.

    ``names`` are the names of the extents' sources there. What no extent covers is zeros on a new disk, so ``sizes``
    may cut zeros off the end of a source.
    """
    return {
        "v": 1,
        "name": name,
        "version": version,
        "root_hash": verity.root_hash,
        "identifier": str(installed.layout.identifier),
        "size": installed.layout.size,
        "partitions": [
            {
                "name": part.name,
                "type": str(part.type),
                "identifier": str(part.identifier),
                "start": part.start,
                "size": part.size,
            }
            for part in installed.layout.partitions
        ],
        "extents": [
            _extent(extent, names[extent.source], sizes[extent.source] - extent.source_offset)
            for extent in installed.extents
        ],
    }


def _extent(extent: Extent, name: str, available: int) -> dict[str, object]:
    size = min(extent.size, available)
    digest = hashlib.sha256()
    with extent.source.open("rb") as source:
        source.seek(extent.source_offset)
        left = size
        while left and (data := source.read(min(left, disk.MIB))):
            digest.update(data)
            left -= len(data)
    return {
        "source": name,
        "source_offset": extent.source_offset,
        "offset": extent.offset,
        "size": size,
        "sha256": digest.hexdigest(),
    }


def without_zeros(path: Path) -> int:
    """The size of a file up to its last non-zero block. Holes are not used, since they differ from host to host."""
    end, zeros = 0, bytes(_BLOCK)
    with path.open("rb") as file:
        for at in range(0, path.stat().st_size, _BLOCK):
            if file.read(_BLOCK).strip(zeros[:1]):
                end = at + _BLOCK
    return min(end, path.stat().st_size)


def _live_system_partition(parts: Parts, command_line: str) -> Path:
    """The FAT file system with the live node's kernel as what firmware starts from a removable medium.

    No boot loader: there is only one thing to start, and loaders try to write a random seed to the read-only medium.
    """
    uki = parts.unified_kernel(command_line)
    size = -(-(len(uki) + disk.MIB) * 32 // 31 // disk.MIB) * disk.MIB + disk.MIB
    output = parts.work / "live-esp.img"
    boot.system_partition({parts.boot.removable: uki}, max(size, _FAT_MIN), output, parts.epoch, parts.tools)
    return output


def _bios_files(parts: Parts, command_line: str) -> list[File]:
    """isolinux, its configuration, and what it loads. The console is the serial line as well as the screen."""
    configuration = parts.work / "isolinux.cfg"
    configuration.write_text(
        "SERIAL 0 115200\nDEFAULT flotilla\nLABEL flotilla\n  LINUX /boot/vmlinuz\n"
        f"  INITRD /boot/initrd.img,/boot/drivers.img\n  APPEND {command_line}\n"
    )
    return [
        *(File.whole(f"boot/isolinux/{name}", parts.tools.root / place / name) for name, place in _ISOLINUX.items()),
        File.whole("boot/isolinux/isolinux.cfg", configuration),
        File.whole("boot/vmlinuz", parts.kernel),
        File.whole("boot/initrd.img", parts.initrd),
        File.whole("boot/drivers.img", parts.drivers),
    ]


TARGETS = (Target("iso", "a CD or USB stick that boots a live node and installs it to a disk", write),)

"""Target ``qemu``: files for QEMU's direct kernel boot, and a disk.

Direct boot uses ``-kernel``, ``-initrd``, ``-append``, and the root as a disk. ``disk.qcow2`` is the disk of an
installed node, which boots under UEFI firmware.
"""

from __future__ import annotations

from pathlib import Path

from builder.targets.target import Parts, Target


def write(parts: Parts, folder: Path) -> None:
    """Put disk, kernel, initrd, root and command line into ``folder``.

    The files are ``disk.qcow2``, ``vmlinuz``, ``initrd.img``, ``root.img`` (hashes at its end) and ``cmdline`` (one
    line).
    """
    parts.installed.write_qcow2(folder / "disk.qcow2")
    parts.kernel.rename(folder / "vmlinuz")
    parts.initrd.rename(folder / "initrd.img")
    parts.root.rename(folder / "root.img")
    command_line = parts.parameters("flotilla.root=serial:root", "flotilla.state=serial:state")
    (folder / "cmdline").write_text(command_line + "\n")


TARGETS = (Target("qemu", "kernel, initrd and root for direct boot under QEMU, and disk.qcow2 for UEFI", write),)

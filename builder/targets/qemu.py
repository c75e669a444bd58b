"""Target ``qemu``: loose files for QEMU's direct kernel boot (``-kernel``, ``-initrd``, ``-append``, and the root as a disk), and the disk of
an installed node as ``disk.qcow2``, which boots under UEFI firmware."""

from __future__ import annotations

from pathlib import Path

from builder.targets.target import Parts, Target


def write(parts: Parts, folder: Path) -> None:
    """Put ``disk.qcow2``, ``vmlinuz``, ``initrd.img``, ``root.img`` (hashes at its end) and ``cmdline`` (one line) into ``folder``."""
    parts.installed.write_qcow2(folder / "disk.qcow2")
    parts.kernel.rename(folder / "vmlinuz")
    parts.initrd.rename(folder / "initrd.img")
    parts.root.rename(folder / "root.img")
    command_line = parts.parameters("flotilla.root=serial:root", "flotilla.state=serial:state")
    (folder / "cmdline").write_text(command_line + "\n")


TARGETS = (Target("qemu", "kernel, initrd and root for direct boot under QEMU, and disk.qcow2 for UEFI", write),)

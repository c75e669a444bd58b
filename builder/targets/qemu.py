"""Target ``qemu``: loose files for QEMU's direct kernel boot (``-kernel``, ``-initrd``, ``-append``, and the root as a disk)."""

from __future__ import annotations

from pathlib import Path

from builder.targets.parts import Parts


def write(parts: Parts, folder: Path) -> None:
    """Put ``vmlinuz``, ``initrd.img``, ``root.img`` and ``cmdline`` (one line) into ``folder``, taking the parts' files."""
    parts.kernel.rename(folder / "vmlinuz")
    parts.initrd.rename(folder / "initrd.img")
    parts.root.rename(folder / "root.img")
    (folder / "cmdline").write_text(parts.command_line + "\n")

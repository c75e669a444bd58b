"""Target ``pxe``: the files of a network boot server.

The root is in the initrd: a running kernel fetches nothing more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from builder.core.tree import file
from builder.formats import cpio
from builder.targets.target import Parts, Target

ROOT: Final = "root.img"
DATASOURCES: Final = "file:/run/flotilla/user-data,nocloud"
"""The initrd's copy of iPXE's ``/user-data``; else a seed volume."""

_SCRIPT: Final = """\
#!ipxe
# Starts a Flotilla node from memory. Everything lies beside this script; user-data-<MAC address>, as in user-data-52-54-00-12-34-56, is for one
# machine, user-data for all others. No line may be wrapped.
kernel vmlinuz initrd=initrd.magic {command_line}
initrd initrd.img
initrd --name user-data user-data-${{netX/mac:hexhyp}} /user-data || initrd --name user-data user-data /user-data || echo no user-data: the node starts without
boot
"""
"""The script, in iPXE's commands (ipxe.org/cmd).

``initrd.magic`` is one archive of all initrds, including files with a path: the same for both kinds of firmware.
"""


def write(parts: Parts, folder: Path) -> None:
    """Put ``vmlinuz``, ``initrd.img`` (with drivers and root) and ``boot.ipxe`` into ``folder``."""
    with (folder / "initrd.img").open("wb") as archive:
        archive.write(parts.initrd.read_bytes())
        archive.write(parts.drivers.read_bytes())
        archive.writelines(cpio.archive([file(ROOT, parts.root.read_bytes(), 0o444)]))
    parts.kernel.rename(folder / "vmlinuz")
    command_line = parts.parameters(
        parts.any_console, f"flotilla.root=file:/{ROOT}", "flotilla.state=memory", f"flotilla.datasource={DATASOURCES}"
    )
    (folder / "boot.ipxe").write_text(_SCRIPT.format(command_line=command_line))


TARGETS = (Target("pxe", "kernel, initrd with the root in it, and an iPXE script", write),)

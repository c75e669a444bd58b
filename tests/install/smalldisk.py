"""A medium of a few MiB, described by the builder's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builder.core.verity import Verity
from builder.debian.tools import Tools
from builder.definition.definition import Disk
from builder.formats import disk
from builder.targets import iso
from builder.targets.target import Installed
from install import layout
from install.layout import Layout

MIB = 1 << 20


def described(folder: Path) -> dict[str, Any]:
    """Make ``esp.img`` (16 MiB, 8 KiB of them used) and ``root.img`` in ``folder``; what the builder says of a disk
    with them.
    """
    verity = Verity("ab" * 32, 3)
    esp, root = folder / "esp.img", folder / "root.img"
    esp.write_bytes((b"esp" * 2000).ljust(16 * MIB, b"\0"))
    root.write_bytes(b"root" * 3072 + b"hash" * 2048)
    sizes = Disk.model_validate({"esp": "16MiB", "root": "8MiB", "verity": "1MiB", "state": "4MiB"})
    where = disk.layout(sizes, "amd64", verity, b"digest")
    installed = Installed(where, disk.extents(where, esp, root, verity), Tools(Path("/nonexistent")))
    names = {esp: esp.name, root: root.name}
    held = {esp: iso.without_zeros(esp), root: root.stat().st_size}
    return iso.describe("node", "0.1", verity, installed, names, held)


def medium(folder: Path) -> Layout:
    """Make a medium in ``folder``, and read its layout."""
    (folder / layout.NAME).write_text(json.dumps(described(folder)))
    return layout.load(folder)

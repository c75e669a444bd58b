"""The boot files of a node: kernel, initrds, and the EFI program of all of them.

They come from packages, and are kept in the store: a change of the overlay, of units or of the node's code changes none
of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.core import data, inputs
from builder.core.store import identify
from builder.core.tree import Tree
from builder.debian.deb import Package
from builder.formats import boot
from builder.formats.boot import BootFiles
from builder.pipeline import assemble, initrd
from builder.pipeline.workshop import Workshop
from terminal import record

VERSION: Final = 1

ARCHIVES: Final = ("initrd", "drivers")


@dataclass(frozen=True)
class Early:
    """A folder of the store with the boot files.

    It has ``kernel``, ``initrd``, ``drivers`` (an initrd to follow the first), ``uki``
    (:func:`builder.formats.boot.unified_kernel`) and ``owners.json``.
    """

    folder: Path

    @property
    def owners(self) -> dict[str, int]:
        """Bytes before compression, of the kernel and of each file of the initrds."""
        found: dict[str, int] = record.parse((self.folder / "owners.json").read_text())
        return found


def early(
    shop: Workshop, packages: Sequence[Package], base: Tree, files: BootFiles, os_release: bytes, *, release: bool
) -> Early:
    """The boot files of ``packages`` and ``base``, their tree by :func:`builder.pipeline.assemble.base`.

    With ``release``, initrds are compressed.

    Raises :class:`terminal.Failure` if a package lacks a needed file, and for a tool that fails.
    """
    store, tools, step = shop.store, shop.tools, shop.step
    wanted = shop.what.kernel
    assert wanted is not None  # as target_of made sure
    folder = data.image() / "initrd"
    base_id = assemble.base_id(shop.what, shop.lock, tools.root.name)
    made_from = [inputs.code(), base_id, inputs.digest(folder), hashlib.sha256(os_release).hexdigest(), release]
    key = identify("early", VERSION, made_from)
    if not store.has("steps", key):
        with store.making("steps", key) as work:
            with step("kernel and initrd"):
                (work / "kernel").write_bytes(assemble.kernel_image(packages))
                archives = {
                    "initrd": initrd.initrd(base, wanted.initrd, folder / "init"),
                    "drivers": initrd.drivers(base, wanted.initrd, wanted.initrd_drivers),
                }
                for name, entries in archives.items():
                    initrd.pack(entries, work / name, tools, release=release)
            owners = {
                f"{name}:/{each.path}": each.size for name, files in archives.items() for each in files if each.size
            }
            owners["kernel"] = (work / "kernel").stat().st_size
            (work / "owners.json").write_text(json.dumps(owners))
            with step("unified kernel"):
                initrds = [work / name for name in ARCHIVES]
                boot.unified_kernel(files, work / "kernel", initrds, os_release, work / "uki", shop.lock.epoch, tools)
    return Early(store.path("steps", key))

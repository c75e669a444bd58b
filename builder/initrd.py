"""Our own initrd: busybox, the modules that lead to the root, and one script (``image/initrd/init``).

A few megabytes instead of a distribution's tens; it finds the root by its disk's serial number, mounts it, makes and mounts the state disk,
lays the ``/etc`` overlay, and hands over to systemd. Nothing in it waits for anything but the two disks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from builder.finish.modules import module_closure
from builder.tree import Entry, Tree, directory, file
from terminal import Failure

BUSYBOX: Final = "usr/bin/busybox"


def initrd(tree: Tree, modules: Sequence[str], script: Path) -> list[Entry]:
    """The entries of the initrd, sorted, from the finished ``tree`` of the node.

    ``modules`` are names; what they depend on is added and all are listed in load order in ``/modules``. Raises :class:`Failure` if the tree
    has no busybox, or no such module.
    """
    busybox = tree.get(BUSYBOX)
    if busybox is None:
        raise Failure(
            "the initrd needs a static busybox",
            where="/" + BUSYBOX,
            hint="add busybox-static to the definition's packages",
        )
    inside = Tree(directory(path) for path in ("dev", "proc", "run", "sys", "sysroot", "bin", "modules"))
    inside.put(file("bin/busybox", busybox.content.read(), 0o755))
    inside.put(file("init", script.read_bytes(), 0o755))
    names = []
    for path in module_closure(tree, modules):
        name = path.rpartition("/")[2]
        inside.put(file(f"modules/{name}", tree.read(path), 0o644))
        names.append(name)
    inside.put(file("modules/order", "".join(f"{name}\n" for name in names)))
    return list(inside)

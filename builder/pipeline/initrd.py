"""Our own initrd: busybox, dmsetup, the modules that lead to the root, and one script (``image/initrd/init``).

It has a few megabytes, not tens like a distribution's. It finds the root by the command line, has dm-verity check every
block of it, makes and mounts the state, mounts the ``/etc`` overlay, and starts systemd. It waits only for the disks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from builder.core.toolbox import Toolbox
from builder.core.tree import Entry, Tree, directory, file
from builder.finish.elf import needed
from builder.finish.modules import module_closure
from builder.formats import cpio, filesystem
from terminal import Failure

BUSYBOX: Final = "usr/bin/busybox"
DMSETUP: Final = "usr/sbin/dmsetup"
_PACKAGES: Final = {BUSYBOX: "busybox-static", DMSETUP: "dmsetup"}
_LIBRARIES: Final = ("usr/lib/*-linux-gnu*", "usr/lib")
"""Where Debian's loader looks, first to last."""


def initrd(tree: Tree, modules: Sequence[str], script: Path) -> list[Entry]:
    """The entries of the initrd, sorted, from the finished ``tree`` of the node.

    ``modules`` are names; their dependencies are added and all are listed in load order in ``/modules/order``. Raises
    :class:`Failure` if the tree lacks busybox, dmsetup, a library of these, or a module.
    """
    inside = Tree(directory(path) for path in ("dev", "proc", "run", "sys", "sysroot", "bin", "modules"))
    inside.put(file("bin/busybox", _program(tree, BUSYBOX), 0o755))
    inside.put(file("bin/dmsetup", _program(tree, DMSETUP), 0o755))
    for name, library in _libraries(tree, DMSETUP):
        inside.put(file(name, library, 0o755))
    inside.put(file("init", script.read_bytes(), 0o755))
    _list_modules(tree, module_closure(tree, modules), "order", inside)
    return list(inside)


def drivers(tree: Tree, modules: Sequence[str], further: Sequence[str]) -> list[Entry]:
    """A second archive for disks that ``modules`` do not find: the modules ``further``, listed in ``/modules/drivers``.

    It is separate, since direct boot under QEMU does not need it: the kernel unpacks consecutive archives one over the
    other.
    """
    first = set(module_closure(tree, modules))
    inside = Tree([directory("modules")])
    _list_modules(tree, [path for path in module_closure(tree, further) if path not in first], "drivers", inside)
    return list(inside)


def _list_modules(tree: Tree, paths: Sequence[str], listing: str, inside: Tree) -> None:
    names = [path.rpartition("/")[2] for path in paths]
    for name, path in zip(names, paths, strict=True):
        inside.put(file(f"modules/{name}", tree.read(path), 0o644))
    inside.put(file(f"modules/{listing}", "".join(f"{name}\n" for name in names)))


def _program(tree: Tree, path: str) -> bytes:
    entry = tree.get(path)
    if entry is None:
        raise Failure(
            f"the initrd needs {path.rpartition('/')[2]}",
            where="/" + path,
            hint=f"add {_PACKAGES[path]} to the definition's packages",
        )
    return entry.content.read()


def _libraries(tree: Tree, program: str) -> Iterator[tuple[str, bytes]]:
    """(path in the initrd, contents) of the loader and all libraries of ``program``, direct and indirect."""
    waiting, seen = [(program, _program(tree, program))], set[str]()
    while waiting:
        wanted_by, data = waiting.pop()
        for name in needed(data, "/" + wanted_by):
            if name in seen:
                continue
            seen.add(name)
            found = _resolve(tree, name)
            if found is None:
                raise Failure(f"the initrd needs the library {name}, which no package brings", where="/" + wanted_by)
            library = found.content.read()
            waiting.append((found.path, library))
            # The loader must be at the program's path for it; it searches the others in /lib by default.
            yield name.lstrip("/") if "/" in name else f"lib/{name}", library


def _resolve(tree: Tree, name: str) -> Entry | None:
    """The file of the library ``name`` (a SONAME, or a path), through all links."""
    paths = [name] if "/" in name else [entry.path for folder in _LIBRARIES for entry in tree.glob(f"{folder}/{name}")]
    return next((tree.get(tree.resolve(path)) for path in paths), None)


def pack(entries: Sequence[Entry], output: Path, tools: Toolbox, *, release: bool) -> None:
    """Write ``entries`` as the new cpio archive ``output`` for the kernel; with ``release``, compressed.

    It uses zstd, since every kernel of Debian unpacks it, in a fraction of xz's time, with one thread, so that the
    number of processors does not affect the bytes. Raises :class:`Failure` with the tool's output if it fails.
    """
    archive = cpio.archive(entries)
    if not release:
        output.write_bytes(b"".join(archive))
        return
    arguments = ["--quiet", "--single-thread", "-19", "-o", str(output), "-"]
    filesystem.feed([*tools.command("zstd"), *arguments], tools.environment("zstd"), archive, output)

"""Kernel modules: those that a node needs, their dependencies, and depmod's index of them.

Replaces the work of: linux-image-* (depmod), kmod's trigger, and initramfs-tools' choice of modules (see
:func:`module_closure`).
"""

from __future__ import annotations

import difflib
import fnmatch
import lzma
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from builder.core.inflate import inflated
from builder.core.toolbox import Toolbox, run
from builder.core.tree import Entry, Kind, Patch, Tree, file
from builder.finish.elf import section
from terminal import Failure

MODULES: Final = "usr/lib/modules"
MODULE_BYTES_MAX: Final = 256 << 20
"""Limit of one module, unpacked; the largest of Debian's, with all its tables, has some 20 MiB."""

_DEPENDS = "depends"


@dataclass(frozen=True, slots=True)
class ModuleInfo:
    """A module's .modinfo section. Names have underscores, as in the kernel."""

    name: str
    depends: tuple[str, ...]
    soft: tuple[str, ...]
    aliases: tuple[str, ...]


def canonical(name: str) -> str:
    """A module's name as the kernel spells it: without suffix, with underscores."""
    return re.sub(r"\.ko(\.xz)?$", "", name).replace("-", "_")


def read_module(entry: Entry) -> bytes:
    """The ELF object of a module file, unpacked if it is ``.ko.xz``. Raises :class:`Failure` if it is truncated."""
    data = entry.content.read()
    if not entry.path.endswith(".xz"):
        return data
    try:
        unpacked = bytearray()
        for piece in inflated("xz", [data]):
            unpacked += piece
            if len(unpacked) > MODULE_BYTES_MAX:
                raise Failure(f"a kernel module unpacks to more than {MODULE_BYTES_MAX} bytes", where="/" + entry.path)
        return bytes(unpacked)
    except (lzma.LZMAError, EOFError) as error:
        raise Failure(f"a compressed kernel module is broken ({error})", where="/" + entry.path) from None


def parse_modinfo(data: bytes, where: str) -> ModuleInfo:
    """Read the .modinfo section of the ELF object ``data``: NUL-ended ``key=value`` strings."""
    fields = [
        item.decode("utf-8", "replace").partition("=")[::2] for item in section(data, ".modinfo", where).split(b"\0")
    ]
    values: dict[str, list[str]] = {}
    for key, value in fields:
        values.setdefault(key, []).append(value)
    soft = [word for text in values.get("softdep", []) for word in text.split() if word not in ("pre:", "post:")]
    depends = [word for text in values.get(_DEPENDS, []) for word in text.split(",") if word]
    names = values.get("name", [])
    if not names:
        raise Failure("a kernel module without a name", where=where)
    return ModuleInfo(
        canonical(names[0]),
        tuple(canonical(word) for word in depends),
        tuple(canonical(word) for word in soft),
        tuple(canonical(word) for word in values.get("alias", [])),
    )


class Kernel:
    """The modules of the only kernel in a tree, read on demand."""

    def __init__(self, tree: Tree) -> None:
        versions = sorted({entry.path.split("/")[3] for entry in tree.glob(f"{MODULES}/*/modules.builtin")})
        if len(versions) != 1:
            raise Failure(
                f"expected the modules of one kernel, found {len(versions)}"
                + (f" ({', '.join(versions)})" if versions else ""),
                where="/" + MODULES,
                hint="let the definition name exactly one linux-image package",
            )
        self.version = versions[0]
        self.base = f"{MODULES}/{self.version}"
        self.builtin = {
            canonical(line.rpartition("/")[2]) for line in tree.read(f"{self.base}/modules.builtin").decode().split()
        }
        self.files = {
            canonical(entry.path.rpartition("/")[2]): entry
            for entry in tree.below(f"{self.base}/kernel")
            if entry.kind is Kind.FILE and entry.path.endswith((".ko", ".ko.xz"))
        }
        self._objects: dict[str, bytes] = {}
        self._infos: dict[str, ModuleInfo] = {}

    def read(self, name: str) -> bytes:
        """The unpacked object of the module ``name``."""
        if name not in self._objects:
            self._objects[name] = read_module(self.files[name])
        return self._objects[name]

    def prepare(self, names: Sequence[str]) -> None:
        """Unpack these on all processors; :meth:`read` has them afterwards."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # unpacking releases the interpreter's lock
            self._objects.update(zip(names, pool.map(read_module, [self.files[name] for name in names]), strict=True))

    def info(self, name: str) -> ModuleInfo:
        """The .modinfo section of the module ``name``."""
        if name not in self._infos:
            self._infos[name] = parse_modinfo(self.read(name), "/" + self.files[name].path)
        return self._infos[name]

    @cached_property
    def _aliases(self) -> dict[str, list[str]]:
        """Modules of each alias for a soft dependency: algorithms ("crypto-crc32c"), generic and per processor.

        Only modules of these folders are unpacked; all modules of a kernel would take seconds.
        """
        algorithms = [name for name, entry in sorted(self.files.items()) if "/crypto/" in entry.path]
        found: dict[str, list[str]] = {}
        for name in algorithms:
            for alias in self.info(name).aliases:
                found.setdefault(alias, []).append(name)
        return found

    def matching(self, pattern: str) -> list[str]:
        """Names of the modules that match ``pattern``, built-in ones left out.

        Raises :class:`Failure` if a name without wildcards is neither a module nor built in.
        """
        if "/" in pattern:
            paths = {entry.path.removeprefix(f"{self.base}/kernel/"): name for name, entry in self.files.items()}
            return sorted(paths[path] for path in fnmatch.filter(paths, pattern))
        wanted = canonical(pattern)
        if wanted in self.files or wanted in self.builtin:
            return [wanted] if wanted in self.files else []
        if not set("*?[") & set(wanted):
            close = difflib.get_close_matches(wanted, [*self.files, *self.builtin], n=1)
            raise Failure(
                f"the kernel {self.version} has no module '{pattern}'",
                where="modules",
                hint=f"did you mean {close[0]}?" if close else "take it off the list of modules",
            )
        return sorted(fnmatch.filter(self.files, wanted))

    def closure(self, names: Iterable[str]) -> list[str]:
        """``names`` and their dependencies, in load order; soft dependencies count where the kernel has them."""
        order: list[str] = []
        open_: set[str] = set()

        def visit(name: str, chain: tuple[str, ...]) -> None:
            if name in self.builtin or name in open_:
                return
            if name not in self.files:
                raise Failure(f"the module {chain[-1]} needs {name}, which is not there", where="/" + self.base)
            open_.add(name)
            info = self.info(name)
            for other in info.depends:
                visit(other, (*chain, name))
            for other in self._present(info.soft):
                visit(other, (*chain, name))
            order.append(name)

        for name in names:
            visit(name, ("the list",))
        return order

    def _present(self, soft: tuple[str, ...]) -> Iterator[str]:
        """Modules for the names of soft dependencies, which may be aliases or missing in this kernel."""
        for name in soft:
            if name in self.files:
                yield name
            elif name not in self.builtin and name in self._aliases:
                yield from self._aliases[name]


def module_closure(tree: Tree, names: Iterable[str]) -> list[str]:
    """Paths of the modules ``names`` (wildcards allowed) and their dependencies, in an order in which insmod succeeds.

    Built-in modules are left out. Raises :class:`Failure` for a name that this kernel does not have.
    """
    kernel = Kernel(tree)
    wanted = [name for pattern in names for name in kernel.matching(pattern)]
    return [kernel.files[name].path for name in kernel.closure(wanted)]


def modules(
    tree: Tree,
    toolbox: Toolbox,
    scratch: Path,
    allowed: Iterable[str],
    *,
    decompress: bool = True,
) -> Patch:
    """Keep the modules of ``allowed`` with dependencies, drop the others, and index them with the closure's depmod.

    ``scratch`` is an empty directory to work in; it is left empty. With ``decompress`` the modules are stored
    uncompressed: the root's file system compresses them, and under emulation reading that is faster than unpacking xz.
    Raises :class:`Failure` for a plain name that the kernel does not have, for a broken module, and if depmod fails or
    warns.
    """
    kernel = Kernel(tree)
    wanted = sorted({name for pattern in allowed for name in kernel.matching(pattern)})
    kernel.prepare(wanted)
    kept = kernel.closure(wanted)
    put: list[Entry] = []
    for name in sorted(kept):
        entry = kernel.files[name]
        put.append(_plain(entry, kernel.read(name)) if decompress else entry)
    unwanted = [entry.path for name, entry in sorted(kernel.files.items()) if decompress or name not in set(kept)]
    order = _keep_order(tree, kernel, {entry.path for entry in put})
    put.append(file(f"{kernel.base}/modules.order", order))
    index = _depmod(tree, kernel, put, toolbox, scratch)
    empty = _emptied(tree, kernel, {entry.path for entry in put})
    return Patch((*put, *index), (*unwanted, *empty))


def _plain(entry: Entry, data: bytes) -> Entry:
    made = file(entry.path.removesuffix(".xz"), data, entry.mode)
    return Entry(made.path, Kind.FILE, entry.mode, mtime=entry.mtime, content=made.content, owner=entry.owner)


def _keep_order(tree: Tree, kernel: Kernel, kept: set[str]) -> str:
    """modules.order (which decides between modules with the same alias) without the dropped modules."""
    plain = {path.removeprefix(kernel.base + "/").removesuffix(".xz") for path in kept}
    path = f"{kernel.base}/modules.order"
    lines = tree.read(path).decode().split() if path in tree else []
    return "".join(line + "\n" for line in lines if line.removesuffix(".xz") in plain)


def _emptied(tree: Tree, kernel: Kernel, kept: set[str]) -> Iterator[str]:
    """Topmost directories below kernel/ in which nothing is left."""
    folder = f"{kernel.base}/kernel"
    alive = {"/".join(path.split("/")[:count]) for path in kept for count in range(1, path.count("/") + 1)}
    for entry in tree.below(folder):
        parent = entry.path.rpartition("/")[0]
        if entry.kind is Kind.DIRECTORY and entry.path not in alive and (parent in alive or parent == folder):
            yield entry.path


def _depmod(tree: Tree, kernel: Kernel, put: list[Entry], toolbox: Toolbox, scratch: Path) -> list[Entry]:
    """Write the modules to ``scratch``, run depmod on them, return its output files."""
    scratch.mkdir(parents=True, exist_ok=True)
    top = scratch / kernel.base
    try:
        top.mkdir(parents=True)
        (scratch / "lib").symlink_to("usr/lib")
        inputs = [
            entry
            for name in ("modules.builtin", "modules.builtin.modinfo")
            if (entry := tree.get(f"{kernel.base}/{name}"))
        ]
        for entry in (*put, *inputs):
            path = scratch / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.content.read())
        before = {path.name for path in top.iterdir()}
        run(toolbox, "depmod", ["--basedir", str(scratch), "--errsyms", kernel.version], directory=scratch)
        made = sorted(path for path in top.iterdir() if path.name not in before)
        return [file(f"{kernel.base}/{path.name}", path.read_bytes()) for path in made]
    finally:
        for path in scratch.iterdir():
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path)

"""From packages to a finished tree: the order of the finishing steps, and nothing else.

Two halves. :func:`base` depends on packages and definition only; it is slow (byte-compiling, depmod) and kept in the
store. :func:`finish` adds what changes from one build to the next, our overlay, units and code, and is quick enough to
run every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from builder.core import bundle, data, inputs
from builder.core.architecture import ARCHITECTURES
from builder.core.store import Store, identify
from builder.core.tree import Entry, Kind, Patch, Tree, directory, symlink
from builder.debian.deb import Package
from builder.debian.lockfile import Lock
from builder.definition.definition import Definition
from builder.finish.accounts import FIXED_IDS, Account, accounts
from builder.finish.alternatives import alternatives
from builder.finish.bytecode import bytecode
from builder.finish.certificates import certificates
from builder.finish.databases import databases
from builder.finish.defaults import defaults
from builder.finish.dpkg_status import dpkg_status
from builder.finish.identity import identity
from builder.finish.ldconfig import ldconfig
from builder.finish.modules import modules
from builder.finish.pam import pam
from builder.finish.presets import presets
from builder.finish.slim import slim
from builder.finish.statoverride import statoverride
from builder.finish.writable import writable
from builder.pipeline.workshop import Workshop
from terminal import Failure

VERSION: Final = 2
KERNEL: Final = "boot/vmlinuz-"


def base(shop: Workshop, packages: Sequence[Package]) -> Tree:
    """The tree of ``packages`` with all steps done that depend on nothing else.

    Raises :class:`builder.core.tree.PathConflict` when two packages claim one path, and what the steps raise.
    """
    store, step = shop.store, shop.step
    key = base_id(shop.what, shop.lock, shop.tools.root.name)
    if not store.has("steps", key):
        with step("merging packages"):
            tree = Tree(symlink(folder, f"usr/{folder}") for folder in ARCHITECTURES[shop.what.architecture].folders)
            for package in packages:
                for entry in package.entries:
                    tree.add(entry)
        with step("slow steps"), store.making("steps", key) as work, store.scratch() as scratch:
            _slow_steps(shop, tree, scratch)
            with step("storing them"):
                bundle.save_tree(tree, work, store)
    with step("stored steps"):
        return stored(key, store)


def stored(key: str, store: Store) -> Tree:
    """What :func:`base` made under the id ``key``, which ``store`` has among its steps."""
    return bundle.load_tree(store.path("steps", key), store)


def base_id(what: Definition, lock: Lock, closure: str) -> str:
    """The id of the slow half with the tools of the id ``closure``; a step in the store is not made again."""
    kept = what.model_dump(mode="json", include={"remove", "kernel", "identity"})
    return identify("base", VERSION, [inputs.code(), lock.id, closure, kept, bool(what.node_code)])


def _slow_steps(shop: Workshop, tree: Tree, scratch: Path) -> None:
    """Run the steps that depend on packages and definition only on ``tree``."""
    what, tools, step = shop.what, shop.tools, shop.step
    with step("slim"):
        tree.apply(slim(tree))
    with step("remove"):
        kernels = (f"{KERNEL}*",) if what.kernel is not None else ()
        tree.apply(Patch(remove=tuple(entry.path for entry in tree.glob(*what.remove, *kernels))))
    # None of these reads what another writes, and each mostly waits for programs, or unpacks.
    steps: dict[str, Callable[[Path], Patch]] = {"ldconfig": lambda _: ldconfig(tree, ARCHITECTURES[what.architecture])}
    if (kernel := what.kernel) is not None:
        named = [name for names in kernel.modules.values() for name in names]
        allowed = (*named, *kernel.initrd, *kernel.initrd_drivers)
        steps["modules"] = lambda work: modules(tree, tools, work, allowed)
    if what.node_code:
        steps["bytecode"] = lambda _: bytecode(tree, tools)

    def patch(name: str) -> Patch:
        with step(name):
            return steps[name](scratch / name)

    with ThreadPoolExecutor(len(steps)) as pool:
        for each in list(pool.map(patch, steps)):
            tree.apply(each)


def finish(shop: Workshop, tree: Tree, packages: Sequence[Package]) -> Tree:
    """``tree`` with our files and after every quick step; the argument itself is changed and returned."""
    what, step = shop.what, shop.step

    def finishing(name: str, patch: Callable[[], Patch]) -> None:
        with step(name):
            tree.apply(patch())

    ours = Tree()
    with step("overlay and our code"):
        for folder in what.overlays():
            _put_all(ours, inputs.folder_entries(folder, ""))
        if what.node_code:
            _put_all(ours, inputs.folder_entries(data.units() / "system", "usr/lib/systemd/system/"))
            _put_all(ours, inputs.node_code(what.node_code))
    if what.node_code:
        with step("our bytecode"):
            _put_all(ours, _compiled(shop, ours))
    _put_all(tree, iter(ours))
    people = [
        Account(person.name, person.uid, person.uid, person.groups, person.home, person.shell, person.gecos)
        for person in what.accounts
    ]
    finishing("accounts", lambda: accounts(tree, people, what.groups, {**FIXED_IDS, **what.ids}))
    if what.kernel is not None:
        finishing("defaults", lambda: defaults(tree))
        if (who := what.identity) is not None:
            finishing("identity", lambda: identity(tree, who.version, who.name))
        finishing("certificates", lambda: certificates(tree))
        finishing("pam", lambda: pam(tree))
        units = what.presets
        finishing("presets", lambda: presets(tree, units.enable, units.mask, what.aliases, units.default_target))
        finishing("databases", lambda: databases(tree, shop.lock.epoch))
    finishing("alternatives", lambda: alternatives(tree))
    finishing("statoverride", lambda: statoverride(tree))
    finishing("dpkg_status", lambda: dpkg_status(tree, [package.control for package in packages]))
    numbers = _numbers(tree)
    for path, words in what.directories.items():
        mode, _, owner = words.partition(" ")
        number = numbers[owner] if owner else 0
        tree.put(directory(path, int(mode, 8), uid=number, gid=number))
    for path, target in what.links.items():
        tree.put(symlink(path, target))
    if what.kernel is not None:
        finishing("writable", lambda: writable(tree))
    return tree


def kernel_image(packages: Sequence[Package]) -> bytes:
    """The kernel of the packages; the tree has none, since it is delivered beside the root, not in it.

    Raises :class:`Failure` unless there is exactly one.
    """
    found = [entry for package in packages for entry in package.below(KERNEL)]
    if len(found) != 1:
        raise Failure(
            f"an image needs one kernel, these packages have {len(found)}",
            where=f"/{KERNEL}*",
            hint="name one linux-image package in the definition",
        )
    return found[0].content.read()


def _put_all(tree: Tree, entries: Iterable[Entry]) -> None:
    for entry in entries:
        tree.put(entry)


def bytecode_id(what: Definition, closure: str) -> str:
    """The id of the step that compiles our own code with the tools of the id ``closure``."""
    ours = [inputs.digest(data.packages(name)) for name in what.node_code]
    return identify("node-bytecode", VERSION, [inputs.code(), closure, ours])


def _compiled(shop: Workshop, ours: Tree) -> Sequence[Entry]:
    """The bytecode of our own code, kept in the store by the code's id."""
    store = shop.store
    key = bytecode_id(shop.what, shop.tools.root.name)
    if not store.has("steps", key):
        code = Tree(entry for entry in ours if entry.kind is Kind.FILE and entry.path.startswith("usr/lib/flotilla/"))
        with store.making("steps", key) as work:
            bundle.save_patch(bytecode(code, shop.tools), work)
    return bundle.load_patch(store.path("steps", key)).put


def _numbers(tree: Tree) -> dict[str, int]:
    """Account names to numbers, of the finished tree."""
    lines = tree.read("etc/passwd").decode().splitlines()
    return {fields[0]: int(fields[2]) for fields in (line.split(":") for line in lines)}

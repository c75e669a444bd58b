"""Kernel modules: what a choice brings along, the order of loading, what depmod is given and what we take from it."""

from __future__ import annotations

import lzma
import struct
import sys
from pathlib import Path

import pytest

from builder.core.tree import Tree, file
from builder.finish.modules import module_closure, modules, parse_modinfo
from terminal import Failure

VERSION = "6.12.1-cloud"
BASE = f"usr/lib/modules/{VERSION}"


def module(name: str, depends: str = "", softdep: str = "", alias: str = "") -> bytes:
    """A kernel module's object: an ELF file with nothing but .modinfo."""
    info = f"depends={depends}\0name={name}\0"
    info += f"softdep=pre: {softdep}\0" if softdep else ""
    info += f"alias={alias}\0" if alias else ""
    data = info.encode()
    names = b"\0.modinfo\0.shstrtab\0"
    body = data + names
    rows = [(0, 0, 0, 0), (1, 1, 64, len(data)), (10, 3, 64 + len(data), len(names))]
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, size, 0, 0, 1, 0) for name, kind, at, size in rows
    )
    header = (b"\x7fELF\x02\x01\x01", 1, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, 3, 2)
    return struct.pack("<16sHHIQQQIHHHHHH", *header) + body + table


MODULES = {
    "fs/overlay": module("overlay"),
    "fs/btrfs/btrfs": module("btrfs", "xor,raid6_pq", softdep="crypto-blake crc32c builtin-thing nowhere"),
    "lib/xor": module("xor"),
    "lib/raid6_pq": module("raid6_pq"),
    "crypto/blake2b": module("blake2b", alias="crypto-blake"),
    "drivers/md/dm-mod": module("dm_mod"),
    "drivers/md/dm-verity": module("dm_verity", "dm-mod"),
    "drivers/comedi/comedi": module("comedi"),
}


def tree_of(**extra: bytes) -> Tree:
    """The modules above, packed as Debian packs them, with ``extra`` files below the version's directory."""
    tree = Tree(file(f"{BASE}/kernel/{path}.ko.xz", lzma.compress(data)) for path, data in MODULES.items())
    tree.add(
        file(f"{BASE}/modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c.ko\nkernel/x/builtin-thing.ko\n")
    )
    tree.add(file(f"{BASE}/modules.order", "".join(f"kernel/{path}.ko\n" for path in MODULES)))
    for name, data in extra.items():
        tree.put(file(f"{BASE}/{name}", data))
    return tree


class FakeDepmod:
    """A toolbox whose depmod lists what it finds, or does as ``script`` says."""

    SCRIPT = """
import pathlib, sys
base = pathlib.Path(sys.argv[2]) / "lib" / "modules" / sys.argv[4]
found = sorted(str(path.relative_to(base)) for path in base.rglob("*.ko*"))
(base / "modules.dep").write_text("".join(name + ":\\n" for name in found))
"""

    def __init__(self, script: str = SCRIPT) -> None:
        self.script = script

    def command(self, name: str) -> list[str]:
        assert name == "depmod"
        return [sys.executable, "-I", "-c", self.script]

    def environment(self, name: str) -> dict[str, str]:
        return {}


def test_a_choice_brings_what_it_needs_and_the_rest_goes(tmp_path: Path) -> None:
    tree = tree_of()
    tree.apply(modules(tree, FakeDepmod(), tmp_path, ["dm-verity", "overlay", "ext4"]))
    left = [entry.path.removeprefix(BASE + "/") for entry in tree.below(BASE)]
    assert left == [
        "kernel",
        "kernel/drivers",
        "kernel/drivers/md",
        "kernel/drivers/md/dm-mod.ko",
        "kernel/drivers/md/dm-verity.ko",
        "kernel/fs",
        "kernel/fs/overlay.ko",
        "modules.builtin",
        "modules.dep",
        "modules.order",
    ]
    assert tree.read(f"{BASE}/kernel/fs/overlay.ko") == MODULES["fs/overlay"]
    assert tree.read(f"{BASE}/modules.dep").decode().split() == [
        "kernel/drivers/md/dm-mod.ko:",
        "kernel/drivers/md/dm-verity.ko:",
        "kernel/fs/overlay.ko:",
    ]
    assert tree.read(f"{BASE}/modules.order").decode().split() == [
        "kernel/fs/overlay.ko",
        "kernel/drivers/md/dm-mod.ko",
        "kernel/drivers/md/dm-verity.ko",
    ]
    assert list(tmp_path.iterdir()) == []


def test_modules_may_stay_packed(tmp_path: Path) -> None:
    tree = tree_of()
    tree.apply(modules(tree, FakeDepmod(), tmp_path, ["overlay"], decompress=False))
    assert tree.read(f"{BASE}/modules.dep") == b"kernel/fs/overlay.ko.xz:\n"
    assert lzma.decompress(tree.read(f"{BASE}/kernel/fs/overlay.ko.xz")) == MODULES["fs/overlay"]


def test_load_order_has_needs_first_soft_ones_and_aliases_too_and_no_builtin() -> None:
    paths = [path.removeprefix(f"{BASE}/kernel/") for path in module_closure(tree_of(), ["btrfs", "ext4", "dm_verity"])]
    assert paths == [
        "lib/xor.ko.xz",
        "lib/raid6_pq.ko.xz",
        "crypto/blake2b.ko.xz",
        "fs/btrfs/btrfs.ko.xz",
        "drivers/md/dm-mod.ko.xz",
        "drivers/md/dm-verity.ko.xz",
    ]


def test_an_algorithm_comes_with_all_that_implement_it_since_a_processor_may_lack_what_the_quicker_one_uses() -> None:
    tree = tree_of(**{"kernel/arch/x86/crypto/blake2b-avx.ko": module("blake2b_avx", alias="crypto-blake")})
    names = [path.rpartition("/")[2] for path in module_closure(tree, ["btrfs"])]
    assert names == ["xor.ko.xz", "raid6_pq.ko.xz", "blake2b.ko.xz", "blake2b-avx.ko", "btrfs.ko.xz"]


def test_patterns_match_names_and_paths() -> None:
    names = [path.rpartition("/")[2] for path in module_closure(tree_of(), ["dm-*", "crypto/*", "nothing*"])]
    assert names == ["dm-mod.ko.xz", "dm-verity.ko.xz", "blake2b.ko.xz"]


def test_a_circle_of_soft_dependencies_ends() -> None:
    tree = tree_of()
    tree.put(file(f"{BASE}/kernel/lib/xor.ko", module("xor", softdep="btrfs")))
    tree.remove(f"{BASE}/kernel/lib/xor.ko.xz")
    assert len(module_closure(tree, ["btrfs"])) == 4


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no module 'overlays'") as caught:
        module_closure(tree_of(), ["overlays"])
    assert caught.value.hint == "did you mean overlay?"
    tree = tree_of()
    tree.remove(f"{BASE}/kernel/lib/xor.ko.xz")
    with pytest.raises(Failure, match="btrfs needs xor, which is not there"):
        module_closure(tree, ["btrfs"])
    path = f"{BASE}/kernel/fs/overlay.ko.xz"
    tree.put(file(path, tree.read(path)[:-20]))
    with pytest.raises(Failure, match="compressed kernel module is broken") as caught:
        module_closure(tree, ["overlay"])
    assert caught.value.where == "/" + path
    with pytest.raises(Failure, match="found 0"):
        module_closure(Tree(), ["overlay"])
    tree.add(file("usr/lib/modules/7.0/modules.builtin", ""))
    with pytest.raises(Failure, match=r"found 2 \(6\.12\.1-cloud, 7\.0\)"):
        module_closure(tree, ["overlay"])
    with pytest.raises(Failure, match="a kernel module without a name"):
        parse_modinfo(module("").replace(b"name=", b"nome="), "/x")


def test_depmod_that_fails_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="depmod ended with code 3: no such kernel"):
        modules(
            tree_of(),
            FakeDepmod("import sys; print('no such kernel', file=sys.stderr); sys.exit(3)"),
            tmp_path,
            ["overlay"],
        )
    assert list(tmp_path.iterdir()) == []

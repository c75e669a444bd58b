"""What goes into the initrd: busybox, dmsetup with its libraries, the modules in load order, one script; and into the
drivers' archive.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.core import data
from builder.core.tree import Kind, Tree, file, symlink
from builder.debian.tools import Tools
from builder.finish.accounts import FIXED_IDS
from builder.formats import cpio
from builder.pipeline.initrd import drivers, initrd, pack
from terminal import Failure
from tests.builder.finish.test_elf import dynamic
from tests.builder.finish.test_modules import tree_of

LOADER = "/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def programs(tree: Tree) -> Tree:
    """``tree`` with the programs of the initrd: a dmsetup that needs a library, which needs another, linked as Debian
    links them.
    """
    tree.add(symlink("lib", "usr/lib"))
    tree.add(symlink("lib64", "usr/lib64"))
    tree.add(file("usr/bin/busybox", "static", 0o755))
    tree.add(file("usr/sbin/dmsetup", dynamic(LOADER, ["libdm.so.1", "libc.so.6"]), 0o755))
    tree.add(file(f"{LIBRARIES}/libdm.so.1.02", dynamic("", ["libudev.so.1", "libc.so.6"]), 0o644))
    tree.add(symlink(f"{LIBRARIES}/libdm.so.1", "libdm.so.1.02"))
    tree.add(file(f"{LIBRARIES}/libudev.so.1", dynamic("", ["libc.so.6"]), 0o644))
    tree.add(file(f"{LIBRARIES}/libc.so.6", dynamic("", ["ld-linux-x86-64.so.2"]), 0o755))
    tree.add(file(f"{LIBRARIES}/ld-linux-x86-64.so.2", dynamic("", []), 0o755))
    tree.add(symlink("usr/lib64/ld-linux-x86-64.so.2", f"../lib/x86_64-linux-gnu/{LOADER.rpartition('/')[2]}"))
    return tree


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "init"
    path.write_text("#!/bin/busybox sh\n")
    return path


def test_modules_are_listed_after_what_they_need(script: Path) -> None:
    tree = programs(tree_of())
    found = {entry.path: entry for entry in initrd(tree, ["dm-verity", "btrfs", "ext4"], script)}
    order = found["modules/order"].content.read().decode().split()
    assert order.index("dm-mod.ko.xz") < order.index("dm-verity.ko.xz")
    assert order.index("xor.ko.xz") < order.index("btrfs.ko.xz")
    assert "ext4.ko" not in order  # it is built in
    assert {f"modules/{name}" for name in order} <= set(found)
    assert (found["init"].mode, found["bin/busybox"].mode) == (0o755, 0o755)
    assert {path for path, entry in found.items() if entry.kind is Kind.DIRECTORY} >= {
        "dev",
        "proc",
        "sys",
        "run",
        "sysroot",
    }
    assert list(found) == sorted(found), "the kernel makes a directory before what is in it"


def test_a_program_comes_with_all_that_its_libraries_need(script: Path) -> None:
    found = {entry.path: entry for entry in initrd(programs(tree_of()), [], script)}
    libraries = {path for path, entry in found.items() if ".so" in path}
    names = ("ld-linux-x86-64.so.2", "libc.so.6", "libdm.so.1", "libudev.so.1")
    # The loader is where dmsetup asks for it, and under the name by which libc asks for it.
    assert libraries == {LOADER[1:], *(f"lib/{name}" for name in names)}
    assert all(found[path].kind is Kind.FILE for path in libraries), "links would lead out of the initrd"
    assert found["lib/libdm.so.1"].content.read() == dynamic("", ["libudev.so.1", "libc.so.6"])


def test_a_library_that_no_package_has_is_named_with_who_needs_it(script: Path) -> None:
    tree = programs(tree_of())
    tree.remove(f"{LIBRARIES}/libudev.so.1")
    with pytest.raises(Failure) as failure:
        initrd(tree, [], script)
    assert str(failure.value).startswith(f"/{LIBRARIES}/libdm.so.1.02: the initrd needs the library libudev.so.1")


@pytest.mark.parametrize(("path", "package"), [("usr/bin/busybox", "busybox-static"), ("usr/sbin/dmsetup", "dmsetup")])
def test_without_a_program_its_package_is_named(path: str, package: str, script: Path) -> None:
    tree = programs(tree_of())
    tree.remove(path)
    with pytest.raises(Failure, match=f"/{path}") as failure:
        initrd(tree, [], script)
    assert f"add {package} to" in str(failure.value.hint)


def test_drivers_are_what_the_initrd_has_not(script: Path) -> None:
    """The archives are unpacked over each other: nothing is there twice, and each has its own list."""
    tree = programs(tree_of())
    first = {entry.path for entry in initrd(tree, ["dm-verity"], script)}
    found = {entry.path: entry for entry in drivers(tree, ["dm-verity"], ["dm-verity", "btrfs"])}
    assert found["modules/drivers"].content.read().decode().split()[-1] == "btrfs.ko.xz"
    assert {"modules/btrfs.ko.xz", "modules/xor.ko.xz"} <= set(found)
    assert first & set(found) == {"modules"}


def test_no_drivers_at_all_is_an_empty_list() -> None:
    found = {entry.path: entry for entry in drivers(tree_of(), ["dm-verity"], [])}
    assert found["modules/drivers"].content.read() == b""


def test_an_unknown_module_is_named(script: Path) -> None:
    tree = programs(tree_of())
    with pytest.raises(Failure, match="overlai"):
        initrd(tree, ["overlai"], script)


def test_a_release_compresses_it_to_the_same_bytes_each_time(tmp_path: Path, closure: Tools) -> None:
    entries = [file("init", "#!/bin/busybox sh\n", 0o755), file("modules/large", bytes(range(256)) * 9000)]
    plain, one, two = (tmp_path / name for name in ("plain", "one", "two"))
    pack(entries, plain, closure, release=False)
    pack(entries, one, closure, release=True)
    pack(entries, two, closure, release=True)
    assert plain.read_bytes() == b"".join(cpio.archive(entries))
    assert one.read_bytes() == two.read_bytes()
    assert one.stat().st_size < plain.stat().st_size / 10
    command = [*closure.command("zstd"), "-q", "-d", "-c", str(one)]
    unpacked = subprocess.run(command, env=closure.environment("zstd"), capture_output=True, check=True)
    assert unpacked.stdout == plain.read_bytes()


def test_what_the_state_disk_keeps_is_etcd_s() -> None:
    """Our init names the account by its number: the initrd has no list of accounts."""
    init = (data.image() / "initrd" / "init").read_text()
    assert f",resuid={FIXED_IDS['etcd']} " in init

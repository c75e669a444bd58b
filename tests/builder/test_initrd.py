"""What goes into the initrd: busybox, the modules in load order, one script."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder import cpio
from builder.initrd import initrd, pack
from builder.tools import Tools
from builder.tree import Kind, Tree, file
from terminal import Failure
from tests.builder.finish.test_modules import tree_of


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "init"
    path.write_text("#!/bin/busybox sh\n")
    return path


def test_modules_are_listed_after_what_they_need(script: Path) -> None:
    tree = tree_of()
    tree.put(file("usr/bin/busybox", "ELF", 0o755))
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


def test_without_busybox_the_package_is_named(script: Path) -> None:
    with pytest.raises(Failure) as failure:
        initrd(Tree(), [], script)
    assert "busybox-static" in str(failure.value.hint)


def test_an_unknown_module_is_named(script: Path) -> None:
    tree = tree_of()
    tree.put(file("usr/bin/busybox", "ELF", 0o755))
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

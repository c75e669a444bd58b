"""The loader's cache: glibc's order of names, ldconfig's choice of files, and the real ldconfig reading what we wrote."""

from __future__ import annotations

import re
import struct
import subprocess
from functools import cmp_to_key
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core.architecture import ARCHITECTURES, Architecture
from builder.core.tree import Tree, file, symlink
from builder.finish.elf import ElfFailure, library
from builder.finish.ldconfig import CacheEntry, compare_names, ldconfig, render

AMD64, ARM64 = ARCHITECTURES["amd64"], ARCHITECTURES["arm64"]
FOLDER = "usr/lib/x86_64-linux-gnu"


def shared_library(soname: str, machine: int = AMD64.elf_machine, flags_1: int = 0) -> bytes:
    """The smallest ELF object that is a shared library: header, two segments, a dynamic section and its strings."""
    strings = b"\0" + soname.encode() + b"\0"
    tags = [(14, 1)] if soname else []
    dynamic_at = 64 + 2 * 56
    strings_at = dynamic_at + 16 * (len(tags) + 3)
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in [*tags, (5, strings_at), (0x6FFFFFFB, flags_1), (0, 0)])
    size = strings_at + len(strings)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, size, size, 4096)
    about = struct.pack("<IIQQQQQQ", 2, 4, dynamic_at, dynamic_at, 0, len(dynamic), len(dynamic), 8)
    return header + load + about + dynamic + strings


def merged() -> Tree:
    """An empty tree whose /lib is /usr/lib, as Debian has it, and that is configured as Debian's libc does it."""
    tree = Tree([symlink("lib", "usr/lib")])
    tree.add(file("etc/ld.so.conf", "include /etc/ld.so.conf.d/*.conf\n"))
    tree.add(
        file("etc/ld.so.conf.d/x86_64.conf", "# Multiarch support\n/lib/x86_64-linux-gnu\n/usr/lib/x86_64-linux-gnu\n")
    )
    return tree


def read_back(cache: bytes, tmp_path: Path, kind: str = "x86-64") -> list[tuple[str, str]]:
    """Name and path of each entry of a ``kind``, as the host's own ldconfig prints them."""
    path = tmp_path / "cache"
    path.write_bytes(cache)
    said = subprocess.run(["/sbin/ldconfig", "-p", "-C", path], capture_output=True, text=True, check=True).stdout
    return re.findall(rf"^\t(\S+) \(libc6,{kind}\) => (\S+)$", said, re.MULTILINE)


def made(tree: Tree, architecture: Architecture = AMD64) -> tuple[dict[str, str], bytes]:
    """The links that the step puts, and the cache."""
    patch = ldconfig(tree, architecture)
    assert patch.put[-1].path == "etc/ld.so.cache"
    return {entry.path: entry.target for entry in patch.put[:-1]}, patch.put[-1].content.read()


def test_links_that_are_missing_are_made_and_the_real_ldconfig_reads_the_cache(tmp_path: Path) -> None:
    tree = merged()
    tree.add(file(f"{FOLDER}/liba.so.1.2.9", shared_library("liba.so.1")))
    tree.add(file(f"{FOLDER}/liba.so.1.2.10", shared_library("liba.so.1")))
    tree.add(file(f"{FOLDER}/libb.so.2", shared_library("libb.so.2")))
    tree.add(symlink(f"{FOLDER}/libb.so", "libb.so.2"))
    tree.add(file(f"{FOLDER}/libplugin.so", shared_library("")))
    links, cache = made(tree)
    assert links == {f"{FOLDER}/liba.so.1": "liba.so.1.2.10"}
    assert read_back(cache, tmp_path) == [
        ("libplugin.so", "/lib/x86_64-linux-gnu/libplugin.so"),
        ("libb.so.2", "/lib/x86_64-linux-gnu/libb.so.2"),
        ("libb.so", "/lib/x86_64-linux-gnu/libb.so"),
        ("liba.so.1", "/lib/x86_64-linux-gnu/liba.so.1"),
    ]


def test_a_link_that_is_right_stays_and_one_to_an_older_file_is_replaced() -> None:
    tree = merged()
    for number in (1, 2):
        tree.add(file(f"{FOLDER}/libc.so.6.{number}", shared_library("libc.so.6")))
    tree.add(symlink(f"{FOLDER}/libc.so.6", "libc.so.6.2"))
    assert made(tree)[0] == {}
    tree.put(symlink(f"{FOLDER}/libc.so.6", "libc.so.6.1"))
    assert made(tree)[0] == {f"{FOLDER}/libc.so.6": "libc.so.6.2"}


def test_what_is_no_library_for_this_machine_is_left_out() -> None:
    tree = merged()
    tree.add(file(f"{FOLDER}/libtext.so", "/* GNU ld script */\nGROUP ( /lib/libc.so.6 )\n"))
    tree.add(file(f"{FOLDER}/libarm.so.1", shared_library("libarm.so.1", ARM64.elf_machine)))
    tree.add(file(f"{FOLDER}/libpie.so.1", shared_library("libpie.so.1", flags_1=0x08000000)))
    tree.add(file(f"{FOLDER}/notlib.so.1", shared_library("notlib.so.1")))
    tree.add(file(f"{FOLDER}/deeper/libx.so.1", shared_library("libx.so.1")))
    tree.add(symlink(f"{FOLDER}/libdangling.so.1", "nothing"))
    assert made(tree) == ({}, render([], 0x0303))


def test_real_libraries_get_the_links_that_the_real_ldconfig_makes(tmp_path: Path) -> None:
    """Twin: libraries of this machine under the names of their files, linked by us and by its ldconfig (``-n``: this
    folder only).
    """
    names = ("libc.so.6", "libm.so.6", "libz.so.1", "libcrypt.so.1", "libcrypto.so.3", "ld-linux-x86-64.so.2")
    sources = {path.resolve() for name in names for path in Path("/lib").glob(f"*/{name}")}
    tree = merged()
    folder = tmp_path / "lib"
    folder.mkdir()
    for number, source in enumerate(sorted(sources)):
        name = f"lib{number}.so.{number}.0"
        (folder / name).write_bytes(source.read_bytes())
        tree.add(file(f"{FOLDER}/{name}", source.read_bytes()))
    subprocess.run(["/sbin/ldconfig", "-n", folder], check=True, capture_output=True)
    theirs = {path.name: str(path.readlink()) for path in folder.iterdir() if path.is_symlink()}
    links, cache = made(tree)
    assert {path.rpartition("/")[2]: target for path, target in links.items()} == theirs
    assert {name for name, _ in read_back(cache, tmp_path)} == set(theirs) >= {"libc.so.6", "libm.so.6"}


def test_order_is_by_number_and_a_digit_is_above_a_letter() -> None:
    names = ["lib2.so", "lib10.so", "liba.so", "lib.so", "lib10.so.1"]
    assert sorted(names, key=cmp_to_key(compare_names)) == ["lib.so", "liba.so", "lib2.so", "lib10.so", "lib10.so.1"]


@given(st.lists(st.from_regex(r"lib[a-c.0-2-]{0,6}\.so", fullmatch=True), max_size=3, min_size=3))
def test_order_is_an_order(names: list[str]) -> None:
    one, two, three = sorted(names, key=cmp_to_key(compare_names))
    assert compare_names(one, two) <= 0
    assert compare_names(two, three) <= 0
    assert compare_names(one, three) <= 0
    assert compare_names(one, two) == -compare_names(two, one)


def test_first_directory_wins_for_one_name(tmp_path: Path) -> None:
    entries = [CacheEntry("liba.so.1", "/first/liba.so.1"), CacheEntry("liba.so.1", "/second/liba.so.1")]
    assert read_back(render(entries, 0x0303), tmp_path)[0] == ("liba.so.1", "/first/liba.so.1")


@given(st.integers(min_value=6, max_value=len(shared_library("libx.so.1")) - 1))
def test_a_library_cut_short_is_refused_or_no_library_but_never_half_read(length: int) -> None:
    try:
        about = library(shared_library("libx.so.1")[:length], "/x")
    except ElfFailure:
        return
    assert about is None or about.soname != "libx.so.1"


def test_a_truncated_library_in_the_tree_is_named() -> None:
    tree = merged()
    tree.add(file(f"{FOLDER}/libx.so.1", shared_library("libx.so.1")[:100]))
    with pytest.raises(ElfFailure) as caught:
        ldconfig(tree, AMD64)
    assert caught.value.where == f"/{FOLDER}/libx.so.1"


def test_a_foreign_tree_gets_the_cache_of_its_own_loader(tmp_path: Path) -> None:
    """Not a cache of this machine: its libraries are found, ours are not, and this machine's ldconfig knows the marks."""
    folder = "usr/lib/aarch64-linux-gnu"
    tree = Tree([symlink("lib", "usr/lib")])
    tree.add(file(f"{folder}/liba.so.1.5", shared_library("liba.so.1", ARM64.elf_machine)))
    tree.add(file(f"{folder}/libb.so.1", shared_library("libb.so.1")))
    links, cache = made(tree, ARM64)
    assert links == {f"{folder}/liba.so.1": "liba.so.1.5"}
    assert read_back(cache, tmp_path, "AArch64") == [("liba.so.1", "/lib/aarch64-linux-gnu/liba.so.1")]

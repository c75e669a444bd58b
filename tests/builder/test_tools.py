"""The tools closure: unpacked, it runs by its own loader and libraries, and nothing in it leads out."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from builder.core import data
from builder.core.toolbox import ToolFailure
from builder.core.tree import Entry, Inline, Kind, Tree, directory, file, symlink
from builder.debian.lockfile import Lock
from builder.debian.tools import (
    Tools,
    inner_target,
    is_dynamic,
    launcher_text,
    merge,
    write_launchers,
    write_tree,
)

_PARTS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=6).map("/".join)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), st.booleans(), _PARTS)
def test_a_link_never_leads_above_the_root(path: str, absolute: bool, target: str) -> None:
    text = inner_target(path, "/" * absolute + target)
    assert not text.startswith("/")
    depth = len(PurePosixPath(path).parent.parts)
    for part in text.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        assert depth >= 0


@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        ("usr/bin/tool", "/usr/lib/tool/run", "../../usr/lib/tool/run"),
        ("usr/bin/tool", "../lib/x", "../../usr/lib/x"),
        ("link", "/", "."),
        ("usr/link", "/", "../"),
        ("usr/bin/out", "../../../../etc/passwd", "../../etc/passwd"),
    ],
)
def test_links_keep_their_meaning(path: str, target: str, expected: str) -> None:
    assert inner_target(path, target) == expected


def test_a_tree_is_written_as_plain_files(tmp_path: Path) -> None:
    tree = Tree(
        [
            directory("usr/bin", 0o700),
            file("usr/bin/tool", "tool", 0o4755, uid=7),
            file("usr/share/note", "note", 0o600),
            symlink("usr/bin/host", "/etc/passwd"),
            symlink("usr/bin/same", "/usr/bin/tool"),
        ]
    )
    write_tree(tree, tmp_path)
    assert stat.S_IMODE((tmp_path / "usr/bin/tool").stat().st_mode) == 0o755
    assert (tmp_path / "usr/share/note").read_text() == "note"
    assert (tmp_path / "usr/bin/same").read_text() == "tool"
    # A link to a file of the host leads nowhere instead.
    assert not (tmp_path / "usr/bin/host").exists()


def test_documentation_stays_out() -> None:
    tree = merge([file("usr/share/doc/x/copyright", ""), file("usr/share/man/x", ""), file("usr/bin/x", "")])
    assert "usr/bin/x" in tree
    assert "usr/share/doc" not in tree
    assert "usr/share/man/x" not in tree


def elf(*segments: int) -> bytes:
    """An ELF header with program headers of these types, and no program."""
    head = struct.pack("<4sBB10xHHIQQQIHHH", b"\x7fELF", 2, 1, 2, 62, 1, 0, 64, 0, 0, 64, 56, len(segments))
    return head.ljust(64, b"\0") + b"".join(struct.pack("<I52x", segment) for segment in segments)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (elf(1, 3, 2), True),
        (elf(6, 3), True),
        (elf(1, 1), False),
        (elf(), False),
        (elf(3)[:40], False),
        (elf(3)[:66], False),
    ],
)
def test_a_dynamic_program_asks_for_a_loader(content: bytes, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "program"
    path.write_bytes(content)
    assert is_dynamic(path) == expected


@given(st.binary(max_size=200))
@example(bytes(26) + b"\xff" * 8 + bytes(20))  # its table is said to begin beyond what a file can hold
@example(bytes(26) + b"\xff" * 7 + b"\x7f" + bytes(20))
def test_no_bytes_break_the_elf_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random-program"
    path.write_bytes(b"\x7fELF\x02\x01" + content)
    is_dynamic(path)


def test_launchers_are_made_for_programs_only(tmp_path: Path) -> None:
    program = Entry("usr/bin/static", Kind.FILE, 0o755, content=Inline(elf(1)))
    tree = Tree(
        [
            program,
            file("usr/bin/script", "#!/bin/sh\n", 0o755),
            file("usr/sbin/data", "x"),
            symlink("usr/bin/lost", "/x"),
        ]
    )
    tree.add(Entry("usr/lib/apt/methods/http", Kind.FILE, 0o755, content=Inline(elf(3))))
    tree.add(Entry("usr/lib/apt/methods/sqv", Kind.FILE, 0o755, content=Inline(elf(3))))
    write_tree(tree, tmp_path)
    write_launchers(tmp_path, "amd64")
    assert [path.name for path in (tmp_path / "launch").iterdir()] == ["static"]
    assert [path.name for path in (tmp_path / "methods").iterdir()] == ["http"]
    assert 'exec "$root/usr/bin/static" "$@"' in (tmp_path / "launch/static").read_text()
    assert "--inhibit-cache --library-path" in (tmp_path / "methods/http").read_text()


def test_a_program_hears_the_name_it_was_called_by() -> None:
    assert "--argv0 depmod " in launcher_text("usr/sbin/depmod", "amd64", True)


# From here on: the real closure of image/tools.lock.


def test_every_program_finds_its_libraries_in_the_closure(closure: Tools) -> None:
    loader = closure.root / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    libraries = closure.root / "usr/lib/x86_64-linux-gnu"
    programs = [*(closure.root / "launch").iterdir(), *(closure.root / "methods").iterdir()]
    assert len(programs) > 40
    real = {
        path.resolve()
        for name in (path.name for path in programs)
        for folder in ("usr/bin", "usr/sbin", "usr/lib/apt/methods")
        if (path := closure.root / folder / name).exists() and is_dynamic(path)
    }
    for program in sorted(real):
        command: list[str | Path] = [loader, "--inhibit-cache", "--library-path", libraries, "--list", program]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
        if "statically linked" in listed.stdout:
            continue
        used = [line.partition("=>")[2].split()[0] for line in listed.stdout.splitlines() if "=>" in line]
        assert used, (program, listed.stderr)
        assert all(path.startswith(str(closure.root)) for path in used), (program, used)


def test_python_is_the_nodes_and_has_its_own_library(closure: Tools) -> None:
    lock = Lock.load(data.image() / "node.lock").package("python3.13")
    assert lock is not None
    code = "import sys, lzma, zlib, ssl, ctypes, py_compile; print(sys.version.split()[0], sys.prefix)"
    for options in ([], ["-I"]):
        version, prefix = closure.run("python3.13", *options, "-c", code).decode().split()
        assert lock.version.startswith(version)
        assert Path(prefix).resolve() == (closure.root / "usr").resolve()
    # The store's artifacts do not change by being used.
    assert not list(closure.root.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("mksquashfs", ["-version"], "mksquashfs version"),
        ("mkfs.erofs", ["-V"], "erofs-utils"),
        ("depmod", ["--version"], "kmod version"),
        ("etcd", ["--version"], "etcd Version: 3.5."),
        ("apt-get", ["--version"], "apt "),
        ("ldconfig", ["--version"], "ldconfig"),
        ("zstd", ["--version"], "Zstandard"),
    ],
)
def test_the_tools_run(name: str, arguments: list[str], words: str, closure: Tools) -> None:
    assert words in closure.run(name, *arguments).decode()


def test_the_hosts_libraries_cannot_be_slipped_in(closure: Tools, tmp_path: Path) -> None:
    (tmp_path / "libc.so.6").write_bytes(b"not a library")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "LD_PRELOAD": str(tmp_path / "libc.so.6")}
    # The host's own sh, which reads the launcher, would meet the bad library first: so a shell exports it that is
    # running already.
    script = closure.path("zstd").read_text().replace("${0%/*}", str(closure.root / "launch")) + "\n"
    exports = f"LD_LIBRARY_PATH='{environment['LD_LIBRARY_PATH']}'\nexport LD_LIBRARY_PATH\n"
    done = subprocess.run(
        ["/bin/sh", "-s", "--", "--version"], input=exports + script, capture_output=True, text=True, check=False
    )
    assert "Zstandard" in done.stdout, done.stderr


def test_a_closure_can_be_moved(closure: Tools, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    for name in ("launch/zstd", "usr/bin/zstd"):
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(closure.root / name, moved / name)
    shutil.copytree(closure.root / "usr/lib/x86_64-linux-gnu", moved / "usr/lib/x86_64-linux-gnu", symlinks=True)
    assert b"Zstandard" in Tools(moved).run("zstd", "--version")


def test_input_and_output_of_a_tool(closure: Tools) -> None:
    packed = closure.run("zstd", "-c", "-q", feed=b"words" * 1000)
    assert closure.run("zstd", "-d", "-c", "-q", feed=packed) == b"words" * 1000


def test_a_tool_that_fails_is_reported_with_its_last_words(closure: Tools) -> None:
    with pytest.raises(ToolFailure, match="'zstd -d -q -c' ended with code 1") as caught:
        closure.run("zstd", "-d", "-q", "-c", feed=b"no archive")
    assert "unsupported format" in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-tool", "../usr/bin/zstd", "/bin/sh"])
def test_a_tool_that_is_not_there_is_reported(name: str, closure: Tools) -> None:
    with pytest.raises(ToolFailure, match="has no program") as caught:
        closure.path(name)
    assert "tools.yaml" in str(caught.value.hint)


def test_a_closure_without_keyring_has_no_apt(tmp_path: Path) -> None:
    with pytest.raises(ToolFailure, match="no keyring"):
        Tools(tmp_path).apt()

"""What firmware starts: the unified kernel image, section by section, and the EFI system partition, as mtools and fsck
read it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder.debian.tools import Tools
from builder.formats.boot import (
    COMMAND_LINE_BYTES,
    LOADER_CONF,
    BootFiles,
    set_command_line,
    system_partition,
    unified_kernel,
)
from terminal import Failure
from tests.builder.smallworld import EPOCH, systemd_boot

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture
def files() -> BootFiles:
    """The real ones."""
    found = {info.name.rpartition("/")[2]: data for info, data in systemd_boot("amd64") if info.isfile()}
    return BootFiles("x64", found["systemd-bootx64.efi"], found["linuxx64.efi.stub"])


def sections(program: bytes) -> dict[str, bytes]:
    """The sections of a PE program by name (Microsoft's "PE Format"), each as long as it says."""
    (at,) = struct.unpack_from("<I", program, 0x3C)
    assert program[:2] + program[at : at + 4] == b"MZPE\0\0"
    count, optional = struct.unpack_from("<H", program, at + 6)[0], struct.unpack_from("<H", program, at + 20)[0]
    found = {}
    for index in range(count):
        name, size, _, _, offset = struct.unpack_from("<8sIIII", program, at + 24 + optional + 40 * index)
        found[name.rstrip(b"\0").decode()] = program[offset : offset + size]
    return found


def make(files: BootFiles, work: Path, tools: Tools, command_line: str = "quiet", *initrds: bytes) -> bytes:
    """A UKI of a kernel that is none, with that command line."""
    work.mkdir()
    (work / "kernel").write_bytes(b"kernel " * 1000)
    paths = []
    for number, data in enumerate(initrds):
        paths.append(work / f"initrd {number}")
        paths[-1].write_bytes(data)
    unified_kernel(files, work / "kernel", paths, b"ID=test\n", work / "uki", EPOCH, tools)
    assert {path.name for path in work.iterdir()} == {"kernel", "uki", *(path.name for path in paths)}
    made = bytearray((work / "uki").read_bytes())
    set_command_line(made, command_line)
    return bytes(made)


def test_a_unified_kernel_has_all_in_it(files: BootFiles, tmp_path: Path, closure: Tools) -> None:
    line = "console=ttyS0 flotilla.verity=7:" + "ab" * 32
    found = sections(make(files, tmp_path / "one", closure, line, b"070701first..", b"070701second"))
    assert found[".linux"] == b"kernel " * 1000
    assert found[".cmdline"].rstrip(b"\0") == line.encode()
    assert found[".osrel"] == b"ID=test\n"
    # The kernel takes archives that begin at a multiple of 4.
    assert found[".initrd"].index(b"070701second") % 4 == 0
    assert found[".initrd"].startswith(b"070701first..\0")


def test_the_same_parts_make_the_same_program(files: BootFiles, tmp_path: Path, closure: Tools) -> None:
    made = {name: make(files, tmp_path / name, closure, "quiet", b"initrd") for name in ("one", "an other")}
    assert made["one"] == made["an other"]
    assert make(files, tmp_path / "third", closure, "loud", b"initrd") != made["one"]


@pytest.mark.parametrize("length", [1536, 1537, 2000, COMMAND_LINE_BYTES - 1])
def test_a_command_line_is_put_in_as_ukify_would_have(
    length: int, files: BootFiles, tmp_path: Path, closure: Tools
) -> None:
    """For all lengths that ukify gives the same room, to the byte; shorter ones get more than it would give them."""
    line = "x" * length
    made = make(files, tmp_path / "work", closure, line, b"070701first")
    named = {"stub": files.stub, "line": line.encode(), "release": b"ID=test\n"}
    for name, data in named.items():
        (tmp_path / name).write_bytes(data)
    closure.run(
        *("python3", str(closure.root / "usr/lib/systemd/ukify"), "build", "--linux", str(tmp_path / "work/kernel")),
        *("--initrd", str(tmp_path / "work/initrd 0"), "--cmdline", f"@{tmp_path / 'line'}", "--uname", "0"),
        *("--os-release", f"@{tmp_path / 'release'}", "--stub", str(tmp_path / "stub"), "--efi-arch", "x64"),
        *("--output", str(tmp_path / "whole")),
    )
    whole = (tmp_path / "whole").read_bytes()
    if length > COMMAND_LINE_BYTES - 512:
        assert made == whole
    assert sections(made) == sections(whole)


def test_a_command_line_that_no_kernel_takes(files: BootFiles, tmp_path: Path, closure: Tools) -> None:
    with pytest.raises(Failure, match="2048 bytes; 2047 are the most"):
        make(files, tmp_path / "one", closure, "x" * COMMAND_LINE_BYTES)


def test_a_program_without_room_is_refused(files: BootFiles) -> None:
    with pytest.raises(Failure, match="no room for a command line"):
        set_command_line(bytearray(files.stub), "quiet")


def test_without_systemd_boot_the_package_is_named() -> None:
    with pytest.raises(Failure, match=r"systemd-bootaa64\.efi: a disk needs systemd-boot") as caught:
        BootFiles.of([], "arm64")
    assert "systemd-boot-efi" in (caught.value.hint or "")


def test_where_firmware_looks(files: BootFiles) -> None:
    assert files.removable == "EFI/BOOT/BOOTX64.EFI"
    assert "editor no" in LOADER_CONF.splitlines()


CONTENTS: Mapping[str, bytes] = {
    "EFI/BOOT/BOOTX64.EFI": b"MZ loader" * 999,
    "EFI/Linux/a-long-name-of-a-kernel-0.1-0123abcd.efi": bytes(range(256)) * 9000,
    "loader/loader.conf": b"timeout 0\n",
}


@pytest.mark.parametrize(("size", "kind"), [(16, "FAT16"), (32, "FAT16"), (33, "FAT32"), (64, "FAT32"), (300, "FAT32")])
def test_a_system_partition_is_sound(size: int, kind: str, tmp_path: Path, closure: Tools) -> None:
    """The type of a FAT follows from its number of clusters: below 4085 FAT12, below 65525 FAT16 (Microsoft's
    specification of FAT).
    """
    esp = tmp_path / "esp.img"
    system_partition(CONTENTS, size * MIB, esp, EPOCH, closure)
    assert esp.stat().st_size == size * MIB
    assert esp.stat().st_blocks * 512 < 9 * MIB, "it should be sparse"
    closure.run("fsck.vfat", "-n", str(esp))
    head = esp.read_bytes()[:512]
    per_cluster, reserved, fats, root, small, _, fat_16 = struct.unpack_from("<BHBHHBH", head, 13)
    sectors = small or struct.unpack_from("<I", head, 32)[0]
    fat = fat_16 or struct.unpack_from("<I", head, 36)[0]
    clusters = (sectors - reserved - fats * fat - root * 32 // 512) // per_cluster
    assert ("FAT32" if clusters >= 65525 else "FAT16" if clusters >= 4085 else "FAT12") == kind
    for path, data in CONTENTS.items():
        assert closure.run("mtype", "-i", str(esp), f"::{path}") == data
    listed = closure.run("mdir", "-i", str(esp), "-s", "-b", "::").decode().split()
    assert {line.removeprefix("::/") for line in listed if not line.endswith("/")} == set(CONTENTS)


def test_the_same_contents_make_the_same_partition(tmp_path: Path, closure: Tools) -> None:
    paths = [tmp_path / name for name in ("one", "other", "changed")]
    for path in paths:
        contents = dict(reversed(list(CONTENTS.items()))) if path.name == "other" else dict(CONTENTS)
        if path.name == "changed":
            contents["loader/loader.conf"] = b"timeout 1\n"
        system_partition(contents, 16 * MIB, path, EPOCH, closure)
    one, other, changed = (path.read_bytes() for path in paths)
    assert one == other
    serial = slice(39, 43)  # BS_VolID of FAT16
    assert one[serial] != changed[serial]


def test_what_does_not_fit_is_reported_beforehand(tmp_path: Path, closure: Tools) -> None:
    with pytest.raises(Failure, match=r"too small: 16\.0 MB do not fit into 16\.8 MB") as caught:
        system_partition({"large": bytes(16_000_000)}, 16 * MIB, tmp_path / "esp", EPOCH, closure)
    assert "disk: {esp: ...}" in (caught.value.hint or "")
    assert not (tmp_path / "esp").exists()


@pytest.mark.parametrize("size", [16, 32, 33, 300])
def test_what_is_let_in_fits(size: int, tmp_path: Path, closure: Tools) -> None:
    """The largest that is not refused, in more files than one."""
    whole = size * MIB
    largest = whole - (whole >> 5) - MIB
    contents = {"a/b/c.efi": bytes(largest // 2), "a/d.efi": bytes(largest - largest // 2)}
    system_partition(contents, whole, tmp_path / "esp", EPOCH, closure)
    closure.run("fsck.vfat", "-n", str(tmp_path / "esp"))

"""ISO images, read back with pycdlib, sfdisk, and by the offsets of the specifications."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pycdlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycdlib.dr import DirectoryRecord

from builder.debian.tools import Tools
from builder.formats import iso
from builder.formats.iso import SECTOR, Contents, File
from install import layout
from terminal import Failure
from tests.builder.smallworld import World

EPOCH = 1_700_000_000
MIB = 1 << 20


@pytest.fixture
def made(tmp_path: Path, closure: Tools) -> Path:
    """An ISO with a loader for BIOS, a FAT file system above 32 MiB, and two more files."""
    return make(tmp_path, closure)


def make(folder: Path, closure: Tools, *, bios: bool = True, name: str = "made.iso") -> Path:
    """Write it into ``folder``."""
    sources = {"loader": bytes(range(256)) * 150, "root": b"root" * 5000, "efi": b"FAT!" + bytes(40 * MIB - 4)}
    for source, data in sources.items():
        (folder / source).write_bytes(data)
    files = [
        File.whole("boot/isolinux/isolinux.bin", folder / "loader"),
        File.whole("boot/efi.img", folder / "efi"),
        File("flotilla/root-0123456789abcdef.img", folder / "root", 8000),
        File.whole("vmlinuz", folder / "root"),
    ]
    contents = Contents("FLOTILLA", files, "boot/efi.img", "boot/isolinux/isolinux.bin" if bios else None)
    output = folder / name
    iso.write(contents, (b"one", b"two"), output, EPOCH, closure)
    return output


@contextmanager
def opened(path: Path) -> Iterator[pycdlib.PyCdlib]:
    """The ISO as pycdlib reads it."""
    image = pycdlib.PyCdlib()
    image.open(str(path))
    try:
        yield image
    finally:
        image.close()


def content(image: pycdlib.PyCdlib, path: str) -> bytes:
    """A file by its Rock Ridge name."""
    out = io.BytesIO()
    image.get_file_from_iso_fp(out, rr_path=path)
    return out.getvalue()


def mode(image: pycdlib.PyCdlib, path: str) -> int:
    """Of a file by its Rock Ridge name."""
    record = image.get_record(rr_path=path)
    assert isinstance(record, DirectoryRecord)
    assert record.rock_ridge is not None
    return record.rock_ridge.get_file_mode()


def test_files_are_found_by_both_names(made: Path, tmp_path: Path) -> None:
    root = (tmp_path / "root").read_bytes()
    with opened(made) as image:
        assert content(image, "/flotilla/root-0123456789abcdef.img") == root[:8000]
        assert content(image, "/vmlinuz") == root
        plain = io.BytesIO()
        image.get_file_from_iso_fp(plain, iso_path="/FLOTILLA/ROOT_0123456789ABCDEF.IMG;1")
        assert plain.getvalue() == root[:8000]
        assert image.pvd.volume_identifier.rstrip() == b"FLOTILLA"
        assert {path: mode(image, path) for path in ("/vmlinuz", "/flotilla")} == {
            "/vmlinuz": 0o100444,
            "/flotilla": 0o040555,
        }


def entries(made: Path) -> list[tuple[int, int, int, int]]:
    """(platform, media, load size, sector) of each entry of the boot catalog, by the offsets of the El Torito
    specification, section 2.
    """
    with made.open("rb") as file:
        file.seek(17 * SECTOR)
        record = file.read(SECTOR)
        assert record[:30] == b"\0CD001\x01EL TORITO SPECIFICATION"
        file.seek(struct.unpack_from("<I", record, 0x47)[0] * SECTOR)
        catalog = file.read(SECTOR)
    assert sum(struct.unpack_from("<16H", catalog)) & 0xFFFF == 0
    assert catalog[30:32] == b"\x55\xaa"
    found = [(catalog[1], 32)]
    if catalog[64] == 0x91:  # the last section header; its one entry follows
        assert struct.unpack_from("<H", catalog, 66)[0] == 1
        found.append((catalog[65], 96))
    result = []
    for platform, at in found:
        bootable, media, _, _, _, count, sector = struct.unpack_from("<BBHBBHI", catalog, at)
        assert bootable == 0x88
        result.append((platform, media, count, sector))
    return result


def test_bios_comes_first_and_loads_four_sectors_with_a_table_of_where_it_is(made: Path, tmp_path: Path) -> None:
    (bios, efi) = entries(made)
    assert bios[:3] == (0, 0, 4)
    assert efi[:2] == (0xEF, 0)
    loader = (tmp_path / "loader").read_bytes()
    with made.open("rb") as file:
        file.seek(bios[3] * SECTOR)
        written = file.read(len(loader))
    # The boot info table: volume descriptor, own place and size, sum of the words from byte 64 on.
    words = struct.unpack(f"<{(len(loader) - 64) // 4}I", loader[64:])
    assert struct.unpack_from("<4I", written, 8) == (16, bios[3], len(loader), sum(words) & 0xFFFF_FFFF)
    assert written[64:] == loader[64:]


def test_a_file_system_above_32_mib_has_a_load_size_that_fits(made: Path, tmp_path: Path) -> None:
    """UEFI 13.3.2.1: 0 or 1 means up to the end of the medium. The number of sectors itself has 16 bits only."""
    (_, efi) = entries(made)
    assert (tmp_path / "efi").stat().st_size // 512 > 0xFFFF
    assert efi[2] in (0, 1)
    with made.open("rb") as file:
        file.seek(efi[3] * SECTOR)
        assert file.read(4) == b"FAT!"


def test_without_a_loader_for_bios_there_is_only_uefi(tmp_path: Path, closure: Tools) -> None:
    ((platform, *_),) = entries(make(tmp_path, closure, bios=False))
    assert platform == 0xEF


def test_the_partition_table_has_the_file_system_of_uefi(made: Path, closure: Tools, tmp_path: Path) -> None:
    table = json.loads(closure.run("sfdisk", "--json", str(made)))["partitiontable"]
    (part,) = table["partitions"]
    assert table["label"] == "gpt"
    assert part["type"] == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    assert part["start"] * 512 == entries(made)[1][3] * SECTOR
    assert part["size"] * 512 == (tmp_path / "efi").stat().st_size
    assert b"No errors detected" in closure.run("sfdisk", "--verify", str(made))
    assert made.stat().st_size % MIB == 0
    with made.open("rb") as file:
        file.seek(-512, os.SEEK_END)
        assert file.read(8) == b"EFI PART"  # the backup, where firmware looks for it on a disk of this size
        file.seek(0)
        head = file.read(512)
    assert head[446 + 4] == 0xEE  # protective
    with opened(made) as image:
        assert image.pvd.space_size * SECTOR <= made.stat().st_size - MIB


@pytest.fixture
def another_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another time zone, and years later."""
    now = time.time() + 1e8
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setattr(time, "time", lambda: now)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_same_contents_give_the_same_bytes(
    made: Path, closure: Tools, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("another_clock")
    again = make(tmp_path, closure, name="again.iso")
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(made.read_bytes()).digest()


def test_identifiers_come_from_the_given_identity(made: Path, closure: Tools, tmp_path: Path) -> None:
    files = [File.whole("efi", tmp_path / "root")]
    found = set()
    for identity in ((b"one", b"two"), (b"one", b"three")):
        output = tmp_path / "other.iso"
        iso.write(Contents("FLOTILLA", files, "efi"), identity, output, EPOCH, closure)
        table = json.loads(closure.run("sfdisk", "--json", str(output)))["partitiontable"]
        found |= {table["id"], table["partitions"][0]["uuid"]}
    assert len(found) == 4


def test_two_paths_that_a_bios_cannot_distinguish_are_refused(tmp_path: Path, closure: Tools) -> None:
    (tmp_path / "x").write_bytes(b"x")
    files = [File.whole(name, tmp_path / "x") for name in ("boot/a-b", "boot/A_B")]
    with pytest.raises(Failure, match=r"looks like boot/a-b") as caught:
        iso.write(Contents("L", files, "boot/a-b"), (), tmp_path / "out", EPOCH, closure)
    assert caught.value.where == "boot/A_B"


@pytest.mark.parametrize("path", ["", "a//b", "x" * 31, "x" * 31 + "/b"])
def test_a_name_that_no_cd_can_have_is_refused(path: str) -> None:
    with pytest.raises(Failure, match="characters"):
        iso.plain(path)


@given(st.lists(st.text("abcXYZ019._-", min_size=1, max_size=30), min_size=1, max_size=4))
def test_plain_names_are_what_ecma_119_allows(parts: list[str]) -> None:
    *folders, name = iso.plain("/".join(parts))[1:].split("/")
    assert len(folders) == len(parts) - 1
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
    assert all(set(folder) <= allowed for folder in folders)
    stem, _, suffix = name.removesuffix(";1").partition(".")
    assert set(stem) | set(suffix) <= allowed


def test_the_target_has_a_live_node_and_what_is_installed(tmp_path: Path, closure: Tools) -> None:
    """From osbuild to what the installer reads; the machine tests boot the real one."""
    world = World(tmp_path, closure)
    assert world.image("--target", "iso") == 0
    output = world.output / "flotilla.iso"
    with opened(output) as image:
        where = layout.parse(content(image, "/flotilla/disk.json"), "disk.json")
        for extent in where.extents:
            data = content(image, f"/flotilla/{extent.source}")[extent.source_offset :][: extent.size]
            assert hashlib.sha256(data).hexdigest() == extent.sha256
        assert f"root-{where.root_hash[:16]}.img" in {extent.source for extent in where.extents}
        configuration = content(image, "/boot/isolinux/isolinux.cfg").decode()
        (tmp_path / "efi.img").write_bytes(content(image, "/boot/efi.img"))
        assert content(image, "/boot/isolinux/isolinux.bin")[64:] == loader(closure)[64:]
    line = f"flotilla.root=medium:/flotilla/root-{where.root_hash[:16]}.img flotilla.state=memory"
    assert line in configuration
    assert f":{where.root_hash}" in configuration
    # The very same for UEFI, in the one program that firmware starts; nothing else is there that could want to write.
    assert closure.run("mdir", "-b", "-/", "-i", str(tmp_path / "efi.img")).split() == [
        b"::/EFI/",
        b"::/EFI/BOOT/",
        b"::/EFI/BOOT/BOOTX64.EFI",
    ]
    program = closure.run("mcopy", "-i", str(tmp_path / "efi.img"), "::/EFI/BOOT/BOOTX64.EFI", "-")
    appended = configuration.partition("APPEND ")[2].strip()
    assert appended.encode() in program


def loader(closure: Tools) -> bytes:
    """isolinux, as its package has it; bytes 8 to 64 are for the boot info table."""
    return (closure.root / "usr/lib/ISOLINUX/isolinux.bin").read_bytes()


def test_an_arm64_medium_has_no_bios_part(tmp_path: Path, closure: Tools) -> None:
    world = World(tmp_path, closure)
    assert world.image("--target", "iso", "--arch", "arm64") == 0
    output = world.output / "flotilla.iso"
    ((platform, *_),) = entries(output)
    assert platform == 0xEF
    with opened(output) as image:
        assert sorted(child.file_identifier() for child in image.list_children(rr_path="/boot")) == [
            b".",
            b"..",
            b"EFI.IMG;1",
        ]

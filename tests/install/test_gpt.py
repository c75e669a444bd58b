"""The partition table, as sfdisk of the tools closure reads it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.debian.tools import Tools
from install.gpt import protective, table
from tests.install.smalldisk import MIB, medium


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(more=st.integers(0, 1 << 20))
def test_sfdisk_reads_what_was_meant(tmp_path: Path, closure: Tools, more: int) -> None:
    layout = medium(tmp_path)
    layout = layout.grown(layout.size + more * 512)
    image = tmp_path / "disk"
    primary, backup = table(layout)
    with image.open("wb") as file:
        file.truncate(layout.size)
        file.write(primary)
        file.seek(layout.size - len(backup))
        file.write(backup)
    assert b"No errors detected" in closure.run("sfdisk", "--verify", str(image))
    read = json.loads(closure.run("sfdisk", "--json", str(image)))["partitiontable"]
    assert read["id"] == str(layout.identifier).upper()
    assert read["firstlba"] == 2048
    found = [
        (part["name"], part["start"] * 512, part["size"] * 512, part["type"].lower(), part["uuid"].lower())
        for part in read["partitions"]
    ]
    assert found == [
        (part.name, part.start, part.size, str(part.type), str(part.identifier)) for part in layout.partitions
    ]


def test_either_copy_will_do(tmp_path: Path, closure: Tools) -> None:
    """The primary one is written last; without the backup, or with it alone, a program that repairs finds all."""
    layout = medium(tmp_path)
    image = tmp_path / "disk"
    primary, backup = table(layout)
    for start, data in ((0, primary), (layout.size - len(backup), backup)):
        image.write_bytes(b"")
        with image.open("r+b") as file:
            file.truncate(layout.size)
            file.seek(start)
            file.write(data)
            if start:  # a backup alone counts only where a protective boot sector says GPT
                file.seek(0)
                file.write(protective(layout.size // 512))
        read = json.loads(closure.run("sfdisk", "--json", str(image)))["partitiontable"]
        assert len(read["partitions"]) == 6


@given(st.integers(2, 1 << 40))
def test_the_protective_entry_covers_all_that_it_can(sectors: int) -> None:
    boot = protective(sectors)
    kind, start, size = boot[450], *struct.unpack_from("<II", boot, 454)
    assert (len(boot), boot[:446].strip(b"\0"), boot[510:]) == (512, b"", b"\x55\xaa")
    assert (kind, start) == (0xEE, 1)
    assert size == min(sectors - 1, 0xFFFFFFFF)
    assert boot[462:510] == bytes(48)


def test_the_backup_mirrors_the_primary(tmp_path: Path) -> None:
    layout = medium(tmp_path).grown(80 * MIB)
    primary, backup = table(layout)
    assert primary[1024:] == backup[:-512]
    here, other = struct.unpack_from("<QQ", primary, 512 + 24)
    assert (here, other) == (1, layout.size // 512 - 1)
    assert struct.unpack_from("<QQ", backup, len(backup) - 512 + 24) == (other, here)

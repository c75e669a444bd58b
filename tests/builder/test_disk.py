"""The disk of an installed node: what stands where, under which identifiers, and that the tools of the trade read it
so.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core.extent import Extent
from builder.core.toolbox import ToolFailure
from builder.core.verity import Verity, hash_bytes
from builder.debian.tools import Tools
from builder.definition.definition import Disk, size_text
from builder.formats import disk
from builder.formats.disk import MIB, SECTOR, Layout
from terminal import Failure

HASH = hashlib.sha256(b"a root").hexdigest()
DIGEST = hashlib.sha256(b"an ESP").digest()
SMALL = Disk.model_validate({"esp": "16MiB", "root": "4MiB", "verity": "1MiB", "state": "1MiB"})


@st.composite
def disks(draw: st.DrawFn) -> Disk:
    """Sizes that a definition may ask for."""
    root = draw(st.integers(1, 1 << 16)) * MIB
    verity = -(-hash_bytes(root) // MIB) + draw(st.integers(0, 100))
    esp, state = draw(st.integers(16, 4096)), draw(st.integers(1, 1 << 20))
    sizes = {"esp": esp, "root": root // MIB, "verity": verity, "state": state}
    return Disk.model_validate({name: size_text(size * MIB) for name, size in sizes.items()})


HASHES = st.binary(max_size=3).map(lambda data: hashlib.sha256(data).digest())


def layout(sizes: Disk = SMALL, root_hash: str = HASH, digest: bytes = DIGEST, architecture: str = "amd64") -> Layout:
    """Where things go, for a root of 10 blocks."""
    return disk.layout(sizes, architecture, Verity(root_hash, 10), digest)


# --- the plan --------------------------------------------------------------------------------------------------------


@given(sizes=disks(), root=HASHES, digest=HASHES, architecture=st.sampled_from(["amd64", "arm64"]))
def test_partitions_are_whole_mebibytes_that_do_not_overlap(
    sizes: Disk, root: bytes, digest: bytes, architecture: str
) -> None:
    found = layout(sizes, root.hex(), digest, architecture)
    assert found.partitions[0].start == MIB, "the table and its header have the first"
    for part, following in itertools.pairwise(found.partitions):
        assert part.start + part.size <= following.start
    assert all(part.start % MIB == part.size % MIB == 0 < part.size for part in found.partitions)
    last = found.partitions[-1]
    assert last.start + last.size + 33 * SECTOR <= found.size, "the table's backup has the end"
    assert last.name == "state", "only the last one can grow"
    assert {(part.size, following.size) for part, following in zip(found.partitions[1:3], found.partitions[3:5], strict=True)} == {
        (sizes.root, sizes.root),
        (sizes.verity, sizes.verity),
    }  # fmt: skip


@given(sizes=disks(), root=HASHES, digest=HASHES)
def test_identifiers_are_derived_and_all_different(sizes: Disk, root: bytes, digest: bytes) -> None:
    one, same = layout(sizes, root.hex(), digest), layout(sizes, root.hex(), digest)
    assert one == same
    identifiers = [one.identifier, *(part.identifier for part in one.partitions)]
    assert len(set(identifiers)) == len(identifiers)
    # Those of root and hashes are the root hash itself, as the Discoverable Partitions Specification asks; the others:
    # RFC 9562, section 5.8.
    disk_id, esp, data, hashes, *others = identifiers
    assert data.bytes + hashes.bytes == root
    assert {(each.variant, each.version) for each in (disk_id, esp, *others)} == {(uuid.RFC_4122, 8)}


@given(st.lists(HASHES, min_size=2, max_size=2, unique=True), HASHES)
def test_another_root_or_another_system_partition_has_other_identifiers(roots: list[bytes], digest: bytes) -> None:
    one, other = (layout(root_hash=root.hex(), digest=digest) for root in roots)
    for first, second in zip(one.partitions, other.partitions, strict=True):
        assert first.identifier != second.identifier
    assert one.identifier != other.identifier
    assert {part.name for part in one.partitions} != {part.name for part in other.partitions}
    elsewhere = layout(root_hash=roots[0].hex(), digest=hashlib.sha256(digest).digest())
    changed = [a.identifier != b.identifier for a, b in zip(one.partitions, elsewhere.partitions, strict=True)]
    assert changed == [True, False, False, True, True, True], "the root's are the root hash, whatever boots it"


def test_types_are_those_that_systemd_knows() -> None:
    """https://uapi-group.org/specifications/specs/discoverable_partitions_specification/"""
    assert [str(part.type)[:8] for part in layout().partitions] == [
        "c12a7328", "4f68bce3", "2c7357ed", "4f68bce3", "2c7357ed", "0fc63daf",
    ]  # fmt: skip
    assert [str(part.type)[:8] for part in layout(architecture="arm64").partitions][1:3] == ["b921b045", "df3300ce"]


GOLDEN = Path(__file__).parent / "golden/disk.sfdisk"


def test_the_script_for_sfdisk() -> None:
    """A change of this file is a change of every disk's identifiers: it is meant, or it is wrong."""
    assert layout().script() == GOLDEN.read_text()


# --- on a disk -------------------------------------------------------------------------------------------------------


def pieces(folder: Path, root_blocks: int = 10) -> tuple[Path, Path, Verity]:
    """An ESP and a root with its hashes, both with holes."""
    esp, root = folder / "esp", folder / "root"
    with esp.open("wb") as file:
        file.write(b"begin of the ESP")
        file.seek(5 * MIB)
        file.write(b"middle")
        file.truncate(SMALL.esp)
    with root.open("wb") as file:
        file.write(os.urandom(4096))
        file.seek((root_blocks - 1) * 4096)
        file.write(b"last block of data".ljust(4096))
        file.write(b"superblock and hashes".ljust(3 * 4096 - 100, b"h"))
    return esp, root, Verity(HASH, root_blocks)


@pytest.fixture
def made(tmp_path: Path, closure: Tools) -> tuple[Layout, Path]:
    """A small disk that was written, and where."""
    esp, root, verity = pieces(tmp_path)
    where = disk.layout(SMALL, "amd64", verity, DIGEST)
    disk.write(where, disk.extents(where, esp, root, verity), tmp_path / "disk.raw", closure)
    return where, tmp_path


def test_sfdisk_reads_back_what_was_meant(made: tuple[Layout, Path], closure: Tools) -> None:
    where, folder = made
    output = folder / "disk.raw"
    closure.run("sfdisk", "--verify", str(output))
    parsed: dict[str, Any] = json.loads(closure.run("sfdisk", "--json", str(output)))["partitiontable"]
    assert (parsed["label"], uuid.UUID(parsed["id"]), parsed["sectorsize"]) == ("gpt", where.identifier, SECTOR)
    assert [
        (part["name"], uuid.UUID(part["type"]), uuid.UUID(part["uuid"]), part["start"] * SECTOR, part["size"] * SECTOR)
        for part in parsed["partitions"]
    ] == [(part.name, part.type, part.identifier, part.start, part.size) for part in where.partitions]
    data = output.read_bytes()
    assert data[SECTOR : SECTOR + 8] == data[-SECTOR : -SECTOR + 8] == b"EFI PART"


def test_contents_are_where_they_should_be_and_all_else_is_empty(made: tuple[Layout, Path]) -> None:
    where, folder = made
    data, esp, root = ((folder / name).read_bytes() for name in ("disk.raw", "esp", "root"))
    assert len(data) == where.size
    for part, expected in zip(where.partitions, (esp, root[:40960], root[40960:], b"", b"", b""), strict=True):
        assert data[part.start : part.start + part.size] == expected.ljust(part.size, b"\0"), part.name


def test_holes_stay_holes(made: tuple[Layout, Path]) -> None:
    assert (made[1] / "disk.raw").stat().st_blocks * 512 < 256 * 1024


@given(
    runs=st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=8),
    begin=st.integers(0, 5),
    end=st.integers(0, 5),
    offset=st.integers(0, 3),
)
def test_a_sparse_copy_is_a_copy(
    runs: list[tuple[bool, int]], begin: int, end: int, offset: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is hole and data, whichever part is taken, into a file that is all hole."""
    folder = tmp_path_factory.mktemp("sparse")
    source, target = folder / "source", folder / "target"
    with source.open("wb") as file:
        for number, (is_data, blocks) in enumerate(runs):
            if is_data:
                file.write(bytes([number + 1]) * blocks * 4096)
            else:
                file.seek(blocks * 4096, os.SEEK_CUR)
        file.truncate(max(file.tell(), 6 * 4096))
    whole = source.read_bytes()
    size = max(0, len(whole) - (begin + end) * 1000)
    with source.open("rb") as source_file, target.open("w+b") as target_file:
        target_file.truncate(offset * 4096 + size)
        disk._copy(source_file.fileno(), target_file.fileno(), Extent(source, begin * 1000, size, offset * 4096))
    assert target.read_bytes() == bytes(offset * 4096) + whole[begin * 1000 : begin * 1000 + size]


# --- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "hashes", "esp", "says", "key"),
    [
        (1025, 4096, 4096, "4.2 MB do not fit into the partition 'root-", "'root'"),
        (10, MIB + 1, 4096, "1.0 MB do not fit into the partition 'verity-", "'verity'"),
        (10, 4096, 17 * MIB, "17.8 MB do not fit into the partition 'esp'", "'esp'"),
    ],
)
def test_what_is_too_large_is_named(blocks: int, hashes: int, esp: int, says: str, key: str, tmp_path: Path) -> None:
    for name, size in (("esp", esp), ("root", blocks * 4096 + hashes)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    with pytest.raises(Failure, match=says) as caught:
        disk.extents(layout(), tmp_path / "esp", tmp_path / "root", Verity(HASH, blocks))
    assert caught.value.where == "disk"
    assert f"a larger {key} under 'disk'" in (caught.value.hint or "")


def test_what_just_fits_fits(tmp_path: Path) -> None:
    for name, size in (("esp", SMALL.esp), ("root", 5 * MIB)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    assert len(disk.extents(layout(), tmp_path / "esp", tmp_path / "root", Verity(HASH, 1024))) == 3


def test_a_file_that_became_shorter_is_reported(tmp_path: Path, closure: Tools) -> None:
    esp, root, verity = pieces(tmp_path)
    where = disk.layout(SMALL, "amd64", verity, DIGEST)
    extents = disk.extents(where, esp, root, verity)
    os.truncate(root, 9 * 4096 + 100)
    with pytest.raises(Failure, match="ended after") as caught:
        disk.write(where, extents, tmp_path / "disk.raw", closure)
    assert caught.value.where == str(root)


def test_a_table_that_sfdisk_refuses_is_reported(tmp_path: Path, closure: Tools) -> None:
    where = layout()
    with pytest.raises(ToolFailure, match="sfdisk"):
        disk.write(Layout(MIB, where.identifier, where.partitions), (), tmp_path / "disk.raw", closure)

"""QEMU finds the same disk in our qcow2 as in a raw file, finds nothing to complain of, and zeros take no room."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from builder.core.extent import Extent
from builder.debian.tools import Tools
from builder.formats import qcow2
from builder.formats.qcow2 import CLUSTER
from terminal import Failure

pytestmark = pytest.mark.slow

MIB = 1 << 20


def lay(source: Path, pieces: list[tuple[int, int, bool]]) -> tuple[list[Extent], int]:
    """Extents one after the other, of (clusters free before it, bytes, are they zeros); and the end of the last one, in
    whole MiB.
    """
    extents, place = [], 0
    with source.open("wb") as file:
        for gap, size, is_blank in pieces:
            place += gap * CLUSTER
            extents.append(Extent(source, file.tell(), size, place))
            file.write(bytes(size) if is_blank else os.urandom(size))
            place += -(-size // CLUSTER) * CLUSTER
    return extents, max(-(-place // MIB), 1) * MIB


def raw(extents: list[Extent], size: int, output: Path) -> None:
    """The same disk, byte by byte."""
    with output.open("wb") as file:
        file.truncate(size)
        for extent in extents:
            file.seek(extent.offset)
            file.write(extent.source.read_bytes()[extent.source_offset :][: extent.size])


def assert_same(disk: Path, plain: Path, tools: Tools) -> None:
    assert b"identical" in tools.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(plain), str(disk))
    checked = json.loads(tools.run("qemu-img", "check", "--output=json", "-f", "qcow2", str(disk)))
    assert checked["check-errors"] == 0
    assert not {"leaks", "corruptions"} & set(checked)
    assert checked["image-end-offset"] == disk.stat().st_size


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 5 * CLUSTER), st.booleans()), max_size=6))
@example([])
@example([(0, 1, False), (8191, 2 * CLUSTER, False), (0, 3 * CLUSTER + 512, True), (0, 512, False)])
def test_it_is_the_disk(closure: Tools, pieces: list[tuple[int, int, bool]]) -> None:
    """With every second table of places empty, with one full to its end, with none."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        extents, size = lay(work / "source", pieces)
        qcow2.write(size, extents, work / "disk.qcow2")
        raw(extents, size, work / "disk.raw")
        assert_same(work / "disk.qcow2", work / "disk.raw", closure)


def test_more_than_one_cluster_of_refcounts(tmp_path: Path, closure: Tools) -> None:
    """One counts 2 GiB."""
    extents, size = lay(tmp_path / "source", [(0, 1, False)])
    many = [Extent(extents[0].source, 0, 1, number * CLUSTER) for number in range(33_000)]
    qcow2.write(33_000 * CLUSTER, many, tmp_path / "disk.qcow2")
    raw(many, 33_000 * CLUSTER, tmp_path / "disk.raw")
    assert_same(tmp_path / "disk.qcow2", tmp_path / "disk.raw", closure)
    assert size == MIB


def test_zeros_take_no_room_and_holes_are_zeros(tmp_path: Path) -> None:
    """A file system may keep zeros as a hole, or begin one anywhere: the disk is the same."""
    written, sparse = tmp_path / "written", tmp_path / "sparse"
    data = os.urandom(4096)
    written.write_bytes(bytes(20 * MIB + 8192) + data + bytes(20 * MIB))
    with sparse.open("wb") as file:
        file.seek(20 * MIB + 8192)
        file.write(data)
        file.truncate(written.stat().st_size)
    made = []
    for source in (written, sparse):
        output = tmp_path / "disk.qcow2"
        qcow2.write(64 * MIB, [Extent(source, 4096, written.stat().st_size - 4096, MIB)], output)
        made.append(output.read_bytes())
    assert made[0] == made[1]
    # Header, data, both kinds of tables, refcounts and their table.
    assert len(made[0]) == 6 * CLUSTER


def test_a_layer_of_zeros_covers_nothing(tmp_path: Path, closure: Tools) -> None:
    """As a file with a partition table, that is as long as the disk, and what is in the partitions."""
    table, part = tmp_path / "table", tmp_path / "part"
    with table.open("wb") as file:
        file.write(b"table")
        file.truncate(8 * MIB)
    part.write_bytes(b"part" * 1000)
    extents = [Extent(table, 0, 8 * MIB, 0), Extent(part, 0, 4000, MIB)]
    qcow2.write(8 * MIB, extents, tmp_path / "disk.qcow2")
    raw(extents, 8 * MIB, tmp_path / "disk.raw")
    assert_same(tmp_path / "disk.qcow2", tmp_path / "disk.raw", closure)


def test_a_source_that_was_cut_and_a_place_between_clusters(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"short")
    with pytest.raises(Failure, match="ended after 5 bytes, 9 were promised"):
        qcow2.write(MIB, [Extent(source, 4, 5, 0)], tmp_path / "disk.qcow2")
    with pytest.raises(ValueError, match="does not begin with a cluster"):
        qcow2.write(MIB, [Extent(source, 0, 5, 512)], tmp_path / "disk.qcow2")

"""disk.json: what the builder writes is what the installer reads, and nothing else is believed."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core.verity import Verity
from builder.debian.tools import Tools
from builder.definition.definition import Disk
from builder.formats import disk
from builder.targets import iso
from builder.targets.target import Installed
from install import layout
from terminal import Failure
from tests.install.smalldisk import MIB, described


def test_what_the_builder_writes_is_understood(tmp_path: Path) -> None:
    value = described(tmp_path)
    read = layout.parse(json.dumps(value).encode(), "disk.json")
    assert [part.name for part in read.partitions] == [
        "esp",
        "root-" + "ab" * 8,
        "verity-" + "ab" * 8,
        "_empty",
        "_empty",
        "state",
    ]
    assert read.root_hash == "ab" * 32
    assert read.partitions[1].identifier == uuid.UUID("ab" * 16)
    assert read.state.end + MIB == read.size
    esp, root, hashes = read.extents
    # The zeros at the end of the ESP are not on the medium.
    assert (esp.source, esp.offset, esp.size) == ("esp.img", MIB, 8192)
    assert (root.source, root.source_offset, root.size) == (hashes.source, 0, 3 * 4096)
    assert (hashes.source_offset, hashes.size) == (3 * 4096, 2 * 4096)
    for extent in read.extents:
        data = (tmp_path / extent.source).read_bytes()[extent.source_offset :][: extent.size]
        assert hashlib.sha256(data).hexdigest() == extent.sha256


def test_the_state_grows_to_the_backup_of_the_table(tmp_path: Path) -> None:
    read = layout.parse(json.dumps(described(tmp_path)).encode(), "disk.json")
    size = read.size + 100 * MIB + 512 * 7
    grown = read.grown(size)
    assert grown.size == size
    assert grown.state.end == size // MIB * MIB - MIB
    assert grown.partitions[:-1] == read.partitions[:-1]
    assert read.grown(read.size) == read


def broken(change: Any) -> bytes:
    """A whole description with one change."""
    value = {
        "v": 1,
        "name": "node",
        "version": "1",
        "root_hash": "ab" * 32,
        "identifier": str(uuid.UUID(int=1)),
        "size": 4 * MIB,
        "partitions": [
            {
                "name": name,
                "type": str(uuid.UUID(int=2)),
                "identifier": str(uuid.UUID(int=3)),
                "start": at * MIB,
                "size": MIB,
            }
            for name, at in (("esp", 1), ("state", 2))
        ],
        "extents": [{"source": "esp.img", "source_offset": 0, "offset": MIB, "size": 4096, "sha256": "0" * 64}],
    }
    change(value)
    return json.dumps(value).encode()


def test_the_example_is_whole() -> None:
    assert layout.parse(broken(lambda value: None), "x").state.name == "state"


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.pop("size"),
        lambda value: value.update(size=4 * MIB - 1),
        lambda value: value.update(size="many"),
        lambda value: value.update(size=float("inf")),
        lambda value: value.update(size=1 << 64),
        lambda value: value.update(name=["node"]),
        lambda value: value.update(version="\x1b[2J"),
        lambda value: value["partitions"][0].update(name=None),
        lambda value: value["extents"][0].update(size=float("nan")),
        lambda value: value.update(size=True),
        lambda value: value.update(root_hash="short"),
        lambda value: value.update(identifier="none"),
        lambda value: value.update(partitions=[]),
        lambda value: value.update(partitions=7),
        lambda value: value["partitions"][0].update(start=0),
        lambda value: value["partitions"][0].update(start=MIB + 512),
        lambda value: value["partitions"][0].update(size=2 * MIB),
        lambda value: value["partitions"][0].update(size=0),
        lambda value: value["partitions"][0].update(name="x" * 37),
        lambda value: value["partitions"][1].update(name="other"),
        lambda value: value["extents"][0].update(source="../../etc/shadow"),
        lambda value: value["extents"][0].update(source="/etc/shadow"),
        lambda value: value["extents"][0].update(offset=0),
        lambda value: value["extents"][0].update(offset=-4096),
        lambda value: value["extents"][0].update(size=MIB + 4096),
        lambda value: value["extents"][0].update(size=100),
        lambda value: value["extents"][0].update(sha256="G" * 64),
    ],
)
def test_a_broken_description_is_refused(change: Any) -> None:
    with pytest.raises(Failure, match="broken") as caught:
        layout.parse(broken(change), "/run/medium/flotilla/disk.json")
    assert caught.value.where == "/run/medium/flotilla/disk.json"
    assert caught.value.hint is not None


def test_another_version_says_so() -> None:
    with pytest.raises(Failure, match="version 2"):
        layout.parse(broken(lambda value: value.update(v=2)), "x")


@given(st.binary(max_size=60))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(Failure):
        layout.parse(data, "x")


def test_a_folder_without_a_description_is_no_medium(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no installation medium"):
        layout.load(tmp_path)


def test_zeros_within_are_kept(tmp_path: Path) -> None:
    verity = Verity("cd" * 32, 1)
    sizes = Disk.model_validate({"esp": "16MiB", "root": "1MiB", "verity": "1MiB", "state": "1MiB"})
    esp, root = tmp_path / "esp.img", tmp_path / "root"
    esp.write_bytes(b"a" * 4096 + bytes(8192) + b"b" + bytes(MIB))
    root.write_bytes(bytes(8192))
    where = disk.layout(sizes, "amd64", verity, b"")
    found = Installed(where, disk.extents(where, esp, root, verity), Tools(Path("/nonexistent")))
    assert iso.without_zeros(esp) == 16384
    assert iso.without_zeros(root) == 0
    assert found.extents[0].size > 16384


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(Failure, match="broken"):
        layout.parse(b"[" * 100_000, "x")

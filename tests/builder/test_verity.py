"""dm-verity: the hashes that the kernel checks a root against, as veritysetup (which the kernel's own people use) sees
them.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core.toolbox import ToolFailure
from builder.core.verity import BLOCK, Verity, hash_bytes, protect
from builder.debian.tools import Tools
from terminal import Failure


def image(path: Path, size: int) -> Path:
    """A file of ``size`` bytes that are not all the same."""
    path.write_bytes((bytes(range(256)) * (size // 256 + 1))[:size])
    return path


def check(root: Path, verity: Verity, tools: Tools) -> None:
    """As the node will; raises ToolFailure."""
    tools.run("veritysetup", "verify", str(root), str(root), verity.root_hash, f"--hash-offset={verity.data_bytes}")


@pytest.mark.parametrize("blocks", [1, 2, 128, 129, 300, 128 * 128 + 1])
def test_a_root_is_protected(blocks: int, tmp_path: Path, closure: Tools) -> None:
    """One level of hashes, two, three; and the length is what is said beforehand."""
    root = image(tmp_path / "root", blocks * BLOCK)
    data = hashlib.sha256(root.read_bytes()).digest()
    verity = protect(root)
    assert (verity.data_blocks, len(verity.root_hash)) == (blocks, 64)
    assert root.stat().st_size == verity.data_bytes + hash_bytes(verity.data_bytes)
    assert hashlib.sha256(root.read_bytes()[: verity.data_bytes]).digest() == data
    check(root, verity, closure)


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK + 1, 3 * BLOCK + 512])
def test_a_last_block_that_is_not_whole_is_filled_with_zeros(size: int, tmp_path: Path, closure: Tools) -> None:
    root = image(tmp_path / "root", size)
    verity = protect(root)
    assert verity.data_bytes == -(-size // BLOCK) * BLOCK
    assert root.read_bytes()[size : verity.data_bytes] == bytes(verity.data_bytes - size)
    check(root, verity, closure)


@pytest.mark.parametrize("where", [0, 100 * BLOCK + 17, 300 * BLOCK - 1, 301 * BLOCK, 302 * BLOCK + 40, -1])
def test_one_bit_anywhere_is_noticed(where: int, tmp_path: Path, closure: Tools) -> None:
    """In the first block, in the middle, in the last; in the top hashes, in those of the blocks, in what fills the last
    block of hashes.
    """
    root = image(tmp_path / "root", 300 * BLOCK)
    verity = protect(root)
    data = bytearray(root.read_bytes())
    data[where] ^= 1
    root.write_bytes(data)
    with pytest.raises(ToolFailure):
        check(root, verity, closure)


def test_the_same_root_has_the_same_hashes_and_another_has_others(tmp_path: Path, closure: Tools) -> None:
    one, same, other = (image(tmp_path / name, 5 * BLOCK) for name in ("one", "same", "other"))
    other.write_bytes(other.read_bytes()[:-1] + b"x")
    first = protect(one)
    assert protect(same) == first
    assert one.read_bytes() == same.read_bytes()
    assert protect(other).root_hash != first.root_hash


def test_the_words_of_a_root_hash() -> None:
    verity = Verity("0123456789abcdef" * 4, 77)
    assert verity.parameter == "flotilla.verity=77:" + "0123456789abcdef" * 4
    assert str(verity.data_partition) == "01234567-89ab-cdef-0123-456789abcdef"
    assert verity.data_partition.hex + verity.hash_partition.hex == verity.root_hash


@given(st.integers(1, 1 << 41))
def test_the_hashes_take_a_126th_at_most(size: int) -> None:
    """What docs/definition.md says, but for the few blocks that the smallest root has."""
    assert size / 128 < hash_bytes(size) <= size / 126 + 8 * BLOCK


def test_an_empty_root_is_reported(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    with pytest.raises(Failure, match="nothing to protect") as caught:
        protect(tmp_path / "root")
    assert caught.value.where == str(tmp_path / "root")


@pytest.mark.parametrize("blocks", [1, 2, 129, 128 * 128 + 1])
def test_the_bytes_are_those_of_veritysetup(blocks: int, tmp_path: Path, closure: Tools) -> None:
    ours, theirs = (image(tmp_path / name, blocks * BLOCK) for name in ("ours", "theirs"))
    verity = protect(ours)
    said = closure.run(
        "veritysetup",
        *("format", str(theirs), str(theirs), f"--hash-offset={blocks * BLOCK}", f"--data-blocks={blocks}"),
        *("--data-block-size=4096", "--hash-block-size=4096", "--hash=sha256", "--salt=-"),
        f"--uuid={uuid.UUID(bytes=hashlib.sha256(b'flotilla verity superblock').digest()[:16])}",
    )
    assert verity.root_hash in said.decode()
    assert ours.read_bytes() == theirs.read_bytes()

"""xz of the closure unpacks what Python's does, no more than it may, and says what is wrong."""

from __future__ import annotations

import errno
import lzma
import random
from pathlib import Path

import pytest

from builder.core.store import Store
from builder.debian import deb, xz
from builder.debian.tools import Tools
from tests.builder import debmaker
from tests.builder.debmaker import member

pytestmark = pytest.mark.slow

DATA = random.Random(7).randbytes(3 * xz.WORTHWHILE)


def unpacked(tmp_path: Path, stream: bytes, tools: Tools, limit: int = 1 << 30) -> bytes:
    """What a stream in the middle of a file unpacks to."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    whole.write_bytes(b"before" + stream + b"\nafter")
    with whole.open("rb") as source, out.open("wb") as target:
        source.read(len(b"before"))
        xz.decompress(source, target, limit, tools)
    return out.read_bytes()


@pytest.mark.parametrize("size", [0, 1, len(DATA)])
def test_a_stream_inside_a_file(size: int, tmp_path: Path, closure: Tools) -> None:
    assert unpacked(tmp_path, lzma.compress(DATA[:size], preset=0), closure) == DATA[:size]


@pytest.mark.parametrize("kept", [0, 5, -200, -1])
def test_a_stream_cut_short(kept: int, tmp_path: Path, closure: Tools) -> None:
    with pytest.raises(xz.XzError, match="xz:"):
        unpacked(tmp_path, lzma.compress(DATA, preset=0)[:kept], closure)


def test_a_bit_that_fell_over(tmp_path: Path, closure: Tools) -> None:
    stream = bytearray(lzma.compress(DATA, preset=0))
    stream[len(stream) // 2] ^= 1
    with pytest.raises(xz.XzError, match="corrupt"):
        unpacked(tmp_path, bytes(stream), closure)


def test_more_than_it_may(tmp_path: Path, closure: Tools) -> None:
    with pytest.raises(xz.XzError, match="more than 1000000 bytes"):
        unpacked(tmp_path, lzma.compress(bytes(50_000_000), preset=0), closure, limit=1_000_000)
    assert (tmp_path / "out").stat().st_size <= 1_000_000


def test_a_full_disk_is_reported_as_one(tmp_path: Path, closure: Tools) -> None:
    whole = tmp_path / "whole"
    whole.write_bytes(lzma.compress(DATA, preset=0))
    with whole.open("rb") as source, Path("/dev/full").open("wb") as full, pytest.raises(OSError) as caught:
        xz.decompress(source, full, 1 << 30, closure)
    assert caught.value.errno == errno.ENOSPC


class Counting:
    """The closure, and the names that were requested."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.requested: list[str] = []

    def command(self, name: str) -> list[str]:
        self.requested.append(name)
        return self._tools.command(name)

    def environment(self, name: str) -> dict[str, str]:
        return self._tools.environment(name)


@pytest.mark.parametrize(("size", "requested"), [(1000, []), (len(DATA), ["xz"])])
def test_a_large_package_is_unpacked_by_it(size: int, requested: list[str], tmp_path: Path, closure: Tools) -> None:
    path, tools = tmp_path / "example.deb", Counting(closure)
    sha256 = debmaker.deb(path, [member("./usr/bin/large", DATA[:size]), member("./usr/bin/small", b"s")])
    with_it = deb.unpack(path, sha256, Store(tmp_path / "one"), tools)
    without = deb.unpack(path, sha256, Store(tmp_path / "two"))
    assert tools.requested == requested
    contents = [[(entry.path, entry.content.read()) for entry in package.entries] for package in (with_it, without)]
    assert contents[0] == contents[1]
    assert contents[0][0] == ("usr/bin/large", DATA[:size])


def test_a_large_package_that_is_damaged(tmp_path: Path, closure: Tools) -> None:
    path, store = tmp_path / "example.deb", Store(tmp_path / "store")
    sha256 = debmaker.deb(path, [member("./usr/bin/large", DATA)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(deb.BadPackage, match="damaged or cut short"):
        deb.unpack(path, sha256, store, closure)
    assert not deb.is_unpacked(sha256, store)

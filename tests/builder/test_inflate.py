"""Streams are unpacked whole, in pieces that are small however much they stand for."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.core.inflate import PIECE, inflated

PACK: dict[str, Callable[[bytes], bytes]] = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}
kinds = pytest.mark.parametrize("kind", sorted(PACK))


def chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@kinds
@given(data=st.binary(max_size=2000), repeat=st.sampled_from([1, 3000]), size=st.integers(1, 300))
def test_what_was_packed_comes_out(kind: str, data: bytes, repeat: int, size: int) -> None:
    whole = data * repeat
    pieces = list(inflated(kind, chunks(PACK[kind](whole), size)))
    assert b"".join(pieces) == whole
    assert max(map(len, pieces), default=0) <= PIECE


@pytest.mark.slow
@kinds
def test_a_bomb_takes_no_memory(kind: str) -> None:
    packed = PACK[kind](bytes(96 << 20))
    tracemalloc.start()
    try:
        assert sum(map(len, inflated(kind, [packed]))) == 96 << 20
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


@kinds
def test_a_stream_that_is_cut_short_is_reported(kind: str) -> None:
    with pytest.raises(EOFError):
        list(inflated(kind, [PACK[kind](b"x" * 1000)[:-10]]))


def test_dictionary_larger_than_the_cap_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 27, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3}]
    packed = lzma.compress(b"x", filters=filters)
    with pytest.raises(lzma.LZMAError):
        list(inflated("xz", [packed]))

"""Decompressing in pieces of bounded size: a few KiB may expand to GiB, which callers limit before they use memory."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

KINDS: Final = ("tar", "xz", "gz", "bz2")
PIECE: Final = 1 << 20
"""Most bytes of one piece."""

XZ_MEMORY_MAX: Final = 128 << 20
"""Limit of xz's memory, since the stream sets the size of its dictionary: twice what ``xz -9`` needs."""


def inflated(kind: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The unpacked ``chunks`` of one stream, in pieces of at most :data:`PIECE` bytes; "tar" chunks stay as they are.

    Raises ``EOFError`` for a stream that is truncated or continues after its end, ``lzma.LZMAError``, ``zlib.error`` or
    ``OSError`` (bz2) for a broken one.
    """
    if kind == "tar":
        yield from chunks
    elif kind == "gz":
        yield from _gzip(chunks)
    else:
        xz = lzma.LZMADecompressor(memlimit=XZ_MEMORY_MAX) if kind == "xz" else bz2.BZ2Decompressor()
        for chunk in chunks:
            yield xz.decompress(chunk, PIECE)
            while not (xz.eof or xz.needs_input):
                yield xz.decompress(b"", PIECE)
        if not xz.eof:
            raise EOFError(kind)


def _gzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    stream = zlib.decompressobj(wbits=31)
    for chunk in chunks:
        piece = stream.decompress(chunk, PIECE)
        yield piece
        # After a full piece there may be more in zlib's window, even when all input is used.
        while stream.unconsumed_tail or len(piece) == PIECE:
            piece = stream.decompress(stream.unconsumed_tail, PIECE)
            yield piece
    if not stream.eof:
        raise EOFError("gz")

"""Frames on the wire to QEMU.

``-netdev stream`` puts the length in front of each, in four bytes, big-endian (QEMU ``net/stream.c``).

A run is any number of whole frames, each with its length, one behind the other.
"""

from __future__ import annotations

from collections.abc import Iterator

HEADER_BYTES = 4
FRAME_BYTES_MIN = 14
"""Two addresses and a type: less is no Ethernet frame."""
FRAME_BYTES_MAX = 4096 + 65536
"""QEMU's own cap (``NET_BUFSIZE``); a peer that announces more does not speak our protocol and is disconnected."""
ADDRESSES_BYTES = 12


class FrameTooLongError(ValueError):
    """A length prefix above :data:`FRAME_BYTES_MAX`."""


def frames_of(run: bytes | memoryview) -> Iterator[bytes]:
    """The frames of a run, without the lengths."""
    position = 0
    while position < len(run):
        start = position + HEADER_BYTES
        position = start + int.from_bytes(run[position:start], "big")
        yield bytes(run[start:position])


def with_header(frame: bytes) -> bytes:
    """A run of one frame."""
    return len(frame).to_bytes(HEADER_BYTES, "big") + frame

"""Recording frames in the classic pcap format, with nanoseconds, which tcpdump and Wireshark read.

Format: draft-ietf-opsawg-pcap, "PCAP Capture File Format". Our files are little-endian whatever the computer.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

from terminal import Failure

_FILE = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_MAGIC_NANOSECONDS = 0xA1B23C4D
_LINKTYPE_ETHERNET = 1
SNAP_BYTES = 262144
"""What tcpdump writes: more than any frame has, so that none is cut short."""
BYTES_MAX = 64 << 20
"""Of a file, by default: a second and a half of the traffic of two emulated nodes at full speed."""

BUFFER_BYTES = 1 << 18
"""Written at once: every write makes all frames of the network wait."""


def file_header() -> bytes:
    """The 24 bytes that a file begins with."""
    return _FILE.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAP_BYTES, _LINKTYPE_ETHERNET)


def record(time_ns: int, frame: bytes) -> bytes:
    """One frame, at ``time_ns`` nanoseconds since 1970, as it is in a file."""
    seconds, nanoseconds = divmod(time_ns, 10**9)
    return _RECORD.pack(seconds, nanoseconds, len(frame), len(frame)) + frame


class Recording:
    """A file that is being written. Once it is full, or cannot be written, frames are only counted."""

    def __init__(self, path: Path, bytes_max: int = BYTES_MAX, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Begin the file ``path``, in place of what is there. Raises :class:`Failure` if it cannot be written."""
        try:
            # Not blocking: opening a named pipe without a reader would halt the whole network.
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise Failure(f"the capture cannot be written: {error.strerror}", where=str(path)) from error
        self._file = os.fdopen(number, "wb", buffering=BUFFER_BYTES)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            self._file.close()
            raise Failure("a capture is written to a plain file only", where=str(path))
        self._file.truncate()
        self.path = path
        self.frames = 0
        self.left_out = 0
        """Frames for which there was no room."""
        self.trouble: str | None = None
        """Why writing has stopped, if that is an error."""
        self._bytes, self._bytes_max, self._clock_ns = 0, bytes_max, clock_ns
        self._write(file_header())

    def add(self, frame: bytes) -> None:
        """Record ``frame`` now."""
        data = record(self._clock_ns(), frame)
        if self.trouble is not None or self._bytes + len(data) > self._bytes_max:
            self._bytes_max = 0  # a shorter frame that still fits would leave an invisible gap
            self.left_out += 1
        else:
            self._write(data)
            self.frames += 1

    def close(self) -> None:
        """End the file."""
        try:
            self._file.close()
        except OSError as error:
            self.trouble = str(error)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
            self._bytes += len(data)
        except OSError as error:
            self.trouble = str(error)

"""What can be wrong with a node's disk, as values: slow, or with errors."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TypeAlias

from terminal import UsageFailure

KINDS = {"eio": errno.EIO, "enospc": errno.ENOSPC}
"""The errors of a failing disk, with Linux's numbers.

QEMU's ``block/blkdebug.c`` passes the number to the device as it is.
"""


@dataclass(frozen=True, slots=True)
class Slow:
    """At most so many requests, and so many bytes, a second; None is as fast as it can."""

    iops: int | None = None
    bytes_per_second: int | None = None

    def __post_init__(self) -> None:
        """Raises :class:`UsageFailure` for limits that limit nothing."""
        limits = [limit for limit in (self.iops, self.bytes_per_second) if limit is not None]
        if not limits or min(limits) < 1:
            raise UsageFailure("a slow disk has a limit of at least 1 a second", hint="--iops 20, --rate 1M")

    def __str__(self) -> str:
        limits = [] if self.iops is None else [f"{self.iops} requests/s"]
        limits += [] if self.bytes_per_second is None else [f"{self.bytes_per_second} bytes/s"]
        return ", ".join(limits)


@dataclass(frozen=True, slots=True)
class Errors:
    """Writes, or reads, fail.

    With ``eio`` the node gets an I/O error; with ``enospc`` it is stalled, as if this computer's disk were full.
    """

    write: bool = True
    read: bool = False
    kind: str = "eio"

    def __post_init__(self) -> None:
        """Raises :class:`UsageFailure` for errors that cannot be."""
        if self.kind not in KINDS:
            raise UsageFailure(f"there is no disk error {self.kind!r}", hint=" or ".join(KINDS))
        if not (self.write or self.read):
            raise UsageFailure("neither writes nor reads are selected", hint="write=True, read=True or both")
        if self.kind == "enospc" and self.read:
            raise UsageFailure("a full disk fails writes, not reads", hint="kind='eio' fails both")

    def __str__(self) -> str:
        what = " and ".join(word for word, meant in (("writes", self.write), ("reads", self.read)) if meant)
        return f"{what} fail with {self.kind.upper()}"


DiskFault: TypeAlias = Slow | Errors

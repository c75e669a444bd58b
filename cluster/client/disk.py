"""A node's state disk as a test or a command holds it, ``node.disk``, and what can be wrong with it::

with node.disk.slow(iops=20):
    ...
node.kill()
node.disk.corrupt("/var/lib/etcd/data/member/wal/0000000000000000-0000000000000000.wal", offset=8)
"""

from __future__ import annotations

from cluster.client.fault import Fault, recorded
from cluster.faults import corruption
from cluster.faults.disk import Errors, Slow
from cluster.model.protocol import Ask, Begun, CorruptDisk, FailDisk, FillDisk, NodeRequest, SlowDisk
from terminal import UsageFailure

DISK_DEADLINE_S = 60.0
"""With hardware: filling a disk, or replaying a journal and looking up a file.

The tools for that may have to be unpacked first.
"""


class Disk:
    """Faults of one node's state disk. Each holds until it is healed, across reboots and power cuts; they add up."""

    def __init__(self, node: int, ask: Ask, factor: float) -> None:
        """``ask`` sends requests to the supervisor; ``node`` takes ``factor`` times as long as hardware."""
        self._node, self._ask, self._deadline_s = node, ask, DISK_DEADLINE_S * factor

    def slow(self, iops: int | None = None, bytes_per_second: int | None = None) -> Fault:
        """At most so many requests, and so many bytes, a second. Raises :class:`Failure`, as all here."""
        fault = Slow(iops, bytes_per_second)
        return self._fault(SlowDisk(self._node, fault.iops, fault.bytes_per_second))

    def errors(self, *, write: bool = True, read: bool = False, kind: str = "eio") -> Fault:
        """Writes (or reads) fail.

        With ``kind`` "eio" the node gets an I/O error: its file system goes read-only until a reboot.

        With "enospc" the node behaves as when this computer's disk is full: QEMU stops it at its next write, and it
        goes on from there when it is healed.
        """
        fault = Errors(write, read, kind)
        return self._fault(FailDisk(self._node, fault.write, fault.read, fault.kind))

    def full(self, leave_bytes: int = 0) -> Fault:
        """Fill the node's state file system, but for ``leave_bytes``: a file takes the rest, root's reserve too.

        The node must be on.
        """
        if leave_bytes < 0:
            raise UsageFailure(f"{leave_bytes} bytes cannot be left free", hint="0 or more")
        return self._fault(FillDisk(self._node, leave_bytes))

    def corrupt(self, path: str | None = None, offset: int = 0, bytes: int = 1) -> Fault:  # noqa: A002 - the usual term
        """Invert ``bytes`` from ``offset`` of a node's disk, or of the file that it knows as ``path``.

        The node must be off.

        Healed, they are inverted back, unless the node has written over that block since.
        """
        if path is not None:
            corruption.state_path(path)
        if not 1 <= bytes <= corruption.BYTES_MAX or offset < 0:
            raise UsageFailure(f"{bytes} bytes from {offset}: 1 to {corruption.BYTES_MAX} can be corrupted, from 0 on")
        return self._fault(CorruptDisk(self._node, path, offset, bytes))

    def _fault(self, request: NodeRequest[Begun]) -> Fault:
        return recorded(self._ask, self._ask(request, deadline_s=self._deadline_s), self._deadline_s)

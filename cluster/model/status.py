"""What ``cluster status --json`` and ``cluster fault list --json`` print, and what a capture reports, as types.

Key by key as they are printed; they are a public format.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class RoomStatus(TypedDict):
    """How full a node's disk is: :class:`cluster.client.room.Room`."""

    percent: dict[str, int]
    above: list[str]
    stuck: bool
    removed: dict[str, int]


class BackupStatus(TypedDict):
    """How a node's backups of etcd go: :class:`discovery.backup.state.State`.

    ``taken`` (seconds since 1970), ``revision`` and ``size`` (bytes) are those of the last good one, None before the
    first; ``kept`` are in the node's folder; ``trouble`` is why the last attempt failed, empty if it did not.
    """

    taken: int | None
    revision: int | None
    size: int | None
    kept: int
    trouble: str


class NodeStatus(TypedDict):
    """A node and its machine: :class:`cluster.model.protocol.NodeState`. ``network`` has the counters of its port."""

    name: str
    state: str
    address: str
    role: str
    ssh_port: int
    pid: int | None
    ended: str | None
    network: dict[str, int] | None
    room: NotRequired[RoomStatus | None]
    backup: NotRequired[BackupStatus | None]


class FrameStatus(TypedDict):
    """What became of the frames of one direction: :class:`cluster.network.transit.Fate`."""

    pair: list[int]
    frames: int
    lost: int
    corrupted: int
    duplicated: int
    reordered: int
    overflowed: int


class RecordedStatus(TypedDict):
    """A file of a capture: :class:`cluster.model.protocol.Recorded`."""

    path: str
    frames: int
    left_out: int
    trouble: str | None


class FaultStatus(TypedDict):
    """A fault that holds: :class:`cluster.model.protocol.FaultState`. The last four only of one of the network."""

    id: int
    what: str
    nodes: list[int]
    pairs: NotRequired[list[list[int]]]
    impairment: NotRequired[dict[str, bool | int | float]]
    seed: NotRequired[int]
    frames: NotRequired[list[FrameStatus]]


class AcceleratorStatus(TypedDict):
    """What makes machines fast, or why nothing does: :class:`cluster.model.accelerator.Accelerator`."""

    name: str
    factor: float
    reason: str


class ClusterStatus(TypedDict):
    """A cluster."""

    name: str
    state: str
    accelerator: AcceleratorStatus
    memory_mib: int
    discovery: str
    folder: str
    services: dict[str, str | None]
    nodes: list[NodeStatus]
    faults: list[FaultStatus]


class NodeName(TypedDict):
    """A node of which no more is known."""

    name: str


class NoAnswer(TypedDict):
    """A cluster whose supervisor does not answer, in ``cluster list --json``."""

    name: str
    state: str
    nodes: list[NodeName]
    folder: str

"""Messages between commands and a cluster's supervisor, as values.

:mod:`cluster.model.encoding` makes lines of them. Pure.

A request is a value of one of :data:`REQUESTS`; its class names the type of its reply, which is what
:func:`cluster.client.control.ask` returns. A :class:`Conversation` is a request after which lines go both ways, until
one side hangs up; :data:`TURNS` is what its caller sends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar, get_args

from cluster.model.description import Description
from cluster.model.impairment import Impairment
from cluster.model.status import FaultStatus, FrameStatus, RecordedStatus

VERSION = 3
"""To be raised with every change of a request or a reply."""
LINE_BYTES_MAX = 1 << 20
"""Of one request or reply."""
DEADLINE_S = 30.0
"""For a reply, unless the caller says how long it may take."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Message: TypeAlias = dict[str, object]
"""What a line holds."""


# --- replies ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node's machine: "off", "paused", "stalled" or "running".

    Also how the last one ended, and the root shell's boot, if it was there once.
    """

    node: int
    state: str
    pid: int | None
    started_at: float | None
    ended: str | None
    shell: bool
    boot: str | None


@dataclass(frozen=True, slots=True)
class PairFrames:
    """What became of the frames of one direction: the counts of :class:`cluster.network.transit.Fate`."""

    pair: tuple[int, int]
    fate: dict[str, int]

    def data(self) -> FrameStatus:
        """For JSON."""
        of = self.fate
        return {
            "pair": list(self.pair),
            "frames": of["frames"],
            "lost": of["lost"],
            "corrupted": of["corrupted"],
            "duplicated": of["duplicated"],
            "reordered": of["reordered"],
            "overflowed": of["overflowed"],
        }


@dataclass(frozen=True, slots=True)
class NetworkDetail:
    """What only a fault of the network has: which pairs suffer what, the seed, and what became of frames."""

    pairs: tuple[tuple[int, int], ...]
    impairment: Impairment
    seed: int
    frames: tuple[PairFrames, ...]


@dataclass(frozen=True, slots=True)
class FaultState:
    """A fault that holds: its number, one line for people, and the nodes that it is about."""

    id: int
    what: str
    nodes: tuple[int, ...]
    network: NetworkDetail | None = None

    def data(self) -> FaultStatus:
        """For JSON, as ``cluster fault list --json`` prints it."""
        data: FaultStatus = {"id": self.id, "what": self.what, "nodes": list(self.nodes)}
        if (detail := self.network) is not None:
            data["pairs"] = [list(pair) for pair in detail.pairs]
            data["impairment"] = detail.impairment.data()
            data["seed"] = detail.seed
            data["frames"] = [each.data() for each in detail.frames]
        return data


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The supervisor, all nodes, the counters of every port, and the faults that hold, oldest first.

    Counters are :class:`cluster.network.switch.Counters`.
    """

    pid: int
    nodes: tuple[NodeState, ...]
    network: dict[str, dict[str, int]]
    faults: tuple[FaultState, ...]


@dataclass(frozen=True, slots=True)
class Begun:
    """A fault that has begun."""

    id: int
    what: str


@dataclass(frozen=True, slots=True)
class ClockTimes:
    """A node's time before and after it was set, in seconds since 1970."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Recorded:
    """A file of a capture: how many frames are in it, how many found no room, and what went wrong."""

    path: str
    frames: int
    left_out: int
    trouble: str | None

    def data(self) -> RecordedStatus:
        """For JSON."""
        return {"path": self.path, "frames": self.frames, "left_out": self.left_out, "trouble": self.trouble}


@dataclass(frozen=True, slots=True)
class Captured:
    """The files of a capture."""

    seen: Recorded
    missed: Recorded | None


# --- requests ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request(Generic[T_co]):
    """A request, whose reply is of type ``T_co``."""


class Ask(Protocol):
    """Sends requests to one cluster's supervisor, as :func:`cluster.client.control.ask` does."""

    def __call__(self, request: Request[T], /, *, deadline_s: float = DEADLINE_S) -> T:
        """The reply to ``request``. Raises :class:`terminal.Failure`."""


@dataclass(frozen=True, slots=True)
class NodeRequest(Request[T_co]):
    """A request about one node."""

    node: int


@dataclass(frozen=True, slots=True)
class Conversation(NodeRequest[None]):
    """A request after which lines go both ways, see :mod:`cluster.client.root_shell`."""


@dataclass(frozen=True, slots=True)
class Status(Request[ClusterState]):
    """The state of all."""


@dataclass(frozen=True, slots=True)
class NewToken(Request[str]):
    """A token of the discovery service for ``size`` members."""

    size: int


@dataclass(frozen=True, slots=True)
class SwitchDiscovery(Request[None]):
    """Have the discovery service run, or not."""

    running: bool


@dataclass(frozen=True, slots=True)
class StartNode(NodeRequest[None]):
    """Switch it on; the reply comes when its machine runs."""


@dataclass(frozen=True, slots=True)
class KillNode(NodeRequest[None]):
    """Pull its plug."""


@dataclass(frozen=True, slots=True)
class StopNode(NodeRequest[None]):
    """Press its power button; the reply comes when it is off."""


@dataclass(frozen=True, slots=True)
class PauseNode(NodeRequest[None]):
    """Stop its time."""


@dataclass(frozen=True, slots=True)
class ResumeNode(NodeRequest[None]):
    """Let its time go on."""


@dataclass(frozen=True, slots=True)
class RebootNode(NodeRequest[None]):
    """Make its system reboot (``graceful``), or press its reset button.

    The reply comes when the root shell of the new boot is there.
    """

    graceful: bool


@dataclass(frozen=True, slots=True)
class PowerCut(Request[None]):
    """Pull the plugs of ``nodes`` at one moment, and put them back."""

    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SetClock(NodeRequest[ClockTimes]):
    """Set its wall clock to ``epoch_s`` seconds since 1970, and its hardware clock if ``rtc``."""

    epoch_s: float
    rtc: bool


@dataclass(frozen=True, slots=True)
class StepClock(NodeRequest[Begun]):
    """A fault: its clocks are wrong by ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class StrobeClock(NodeRequest[Begun]):
    """A fault: its clocks are wrong by ``seconds`` and right in turn, ``period_s`` each, for ``duration_s``."""

    seconds: float
    period_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class SlowDisk(NodeRequest[Begun]):
    """A fault: see :class:`cluster.faults.disk.Slow`."""

    iops: int | None
    bytes_per_second: int | None


@dataclass(frozen=True, slots=True)
class FailDisk(NodeRequest[Begun]):
    """A fault: see :class:`cluster.faults.disk.Errors`."""

    write: bool
    read: bool
    kind: str


@dataclass(frozen=True, slots=True)
class FillDisk(NodeRequest[Begun]):
    """A fault: its state file system is full but for ``leave_bytes``."""

    leave_bytes: int


@dataclass(frozen=True, slots=True)
class CorruptDisk(NodeRequest[Begun]):
    """A fault: ``count`` bytes from ``offset`` of its file ``path``, or of its whole disk, are inverted."""

    path: str | None
    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class Impair(Request[int]):
    """A fault: the ordered ``pairs`` of ports suffer ``impairment``.

    Without a ``seed`` one is drawn. The reply is its number.
    """

    what: str
    pairs: tuple[tuple[int, int], ...]
    impairment: Impairment
    seed: int | None


@dataclass(frozen=True, slots=True)
class HealNetwork(Request[tuple[int, ...]]):
    """Heal the network's fault ``id``, or all of the network; the reply is which were healed."""

    id: int | None


@dataclass(frozen=True, slots=True)
class NetworkFaults(Request[tuple[FaultState, ...]]):
    """The network's faults that hold, oldest first."""


@dataclass(frozen=True, slots=True)
class Capture(Request[int]):
    """Record the card at ``port`` in ``file``, and frames dropped on the way to it in ``missed``.

    The reply is the capture's number.
    """

    port: int
    file: str
    missed: str | None
    bytes_max: int


@dataclass(frozen=True, slots=True)
class EndCapture(Request[Captured]):
    """End the capture ``id``."""

    id: int


@dataclass(frozen=True, slots=True)
class ShiftTime(Request[Begun]):
    """A fault: the time server is wrong by ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Faults(Request[tuple[FaultState, ...]]):
    """All faults that hold, oldest first."""


@dataclass(frozen=True, slots=True)
class Heal(Request[tuple[int, ...]]):
    """Heal the fault ``id``, or all; the reply is which were healed."""

    id: int | None


@dataclass(frozen=True, slots=True)
class Adopt(Request[None]):
    """Make the cluster what ``description`` describes."""

    description: Description


@dataclass(frozen=True, slots=True)
class Mark(Request[None]):
    """Put ``text`` on the timeline."""

    text: str


@dataclass(frozen=True, slots=True)
class StartRegistry(Request[None]):
    """Have the image registry run, with ``program``."""

    program: str


@dataclass(frozen=True, slots=True)
class Save(Request[None]):
    """Write all machines as they are at one moment into ``folder``."""

    folder: str


@dataclass(frozen=True, slots=True)
class Restore(Request[None]):
    """Start all machines from what :class:`Save` wrote into ``folder``."""

    folder: str


@dataclass(frozen=True, slots=True)
class Shutdown(Request[None]):
    """End everything."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """The terminal in front of a root shell: rows and columns, and its type (terminfo(5))."""

    size: tuple[int, int]
    term: str


@dataclass(frozen=True, slots=True)
class RootShell(Conversation):
    """Run ``command``, or a login shell, as root; fed by the sender if ``input``; within ``timeout`` seconds."""

    command: str | None
    input: bool = False
    timeout: float | None = None
    tty: Terminal | None = None


Condition: TypeAlias = dict[str, str | int | tuple[dict[str, str | int], ...]]
"""Of a node, see docs/guest.md; one of others (``any``) has those in it."""


@dataclass(frozen=True, slots=True)
class Watch(Conversation):
    """Report each of ``conditions`` (docs/guest.md) when it holds, in order, and which of ``units`` have failed.

    They are checked every ``interval`` seconds.
    """

    conditions: tuple[Condition, ...]
    units: tuple[str, ...]
    interval: float


REQUESTS: tuple[type[Request[object]], ...] = (
    *(Status, NewToken, SwitchDiscovery, Adopt, Mark, StartRegistry, Save, Restore, Shutdown),
    *(StartNode, KillNode, StopNode, PauseNode, ResumeNode, RebootNode, PowerCut, SetClock),
    *(StepClock, StrobeClock, SlowDisk, FailDisk, FillDisk, CorruptDisk),
    *(Impair, HealNetwork, NetworkFaults, Capture, EndCapture, ShiftTime, Faults, Heal),
    *(RootShell, Watch),
)


# --- messages after the request of a root shell -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """A line from the caller that requested a root shell."""


@dataclass(frozen=True, slots=True)
class Input(Turn):
    """Something is typed: ``data``, in base64."""

    data: str


@dataclass(frozen=True, slots=True)
class EndOfInput(Turn):
    """No more of it."""


@dataclass(frozen=True, slots=True)
class Resize(Turn):
    """The terminal has another size: rows and columns."""

    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Signal(Turn):
    """Send the command this signal."""

    signal: int


TURNS: tuple[type[Turn], ...] = (Input, EndOfInput, Resize, Signal)


def reply_type(kind: type[Request[T]]) -> type[T]:
    """The type of the reply to requests of this ``kind``."""
    named = next(vars(each)["__orig_bases__"] for each in kind.__mro__ if "__orig_bases__" in vars(each))
    reply: type[T] = get_args(named[0])[0]
    return reply

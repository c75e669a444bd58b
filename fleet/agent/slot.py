"""What an agent knows about one unit."""

from __future__ import annotations

from dataclasses import dataclass, field

from fleet.agent.sight import Explanation
from fleet.agent.steps import Here, Step, SystemdState, next_step
from fleet.model import codec
from fleet.model.entities import Desired, Placement, UnitState

UNIT_BACKOFF_S = (1.0, 60.0)


@dataclass
class Slot:
    """One unit on this machine."""

    order: Placement | None = None
    is_broken: bool = False  # its order cannot be read: leave it as it is
    here: Here = field(default_factory=Here)
    seen: SystemdState = field(default_factory=SystemdState)
    error: str = ""
    job: str = ""  # the start job that runs
    start: str = ""  # as in UnitState; of the last start
    ended: str = ""  # the result of a start job, until systemd has reported how the unit is after it
    explained: Explanation = field(default_factory=Explanation)
    is_refused: bool = False  # and so its start is tried again
    is_busy: bool = False
    retry_at: float = 0.0
    backoff_s: float = UNIT_BACKOFF_S[0]
    said: tuple[object, ...] = ()
    saying: bytes | None = None  # what there is to write, made of ``said``
    written: bytes | None = None  # what etcd has; b"" if it must be written again in any case
    write_at: float = 0.0  # not before
    hold_until: float = 0.0  # nor before this while it is in transition; 0 when there is nothing to write

    @property
    def next_step(self) -> Step | None:
        """What can be done next about the unit."""
        return None if self.is_busy or self.is_broken else next_step(self.order, self.here)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left of the unit: no order, no file, no state."""
        idle = self.order is None and not self.is_busy and not self.is_broken
        return idle and self.here.reached is None and self.written is None

    def report(self) -> dict[str, object]:
        """See :meth:`fleet.agent.agent.Agent.report`."""
        return {
            "desired": None if self.order is None else self.order.desired.value,
            "reached": None if self.here.reached is None else self.here.reached.value,
            "hash": self.here.hash,
            "busy": self.is_busy or bool(self.job),
            "start": self.start,
            "error": self.error,
            "note": self.explained.note,
            "load": self.seen.load,
            "active": self.seen.active,
            "sub": self.seen.sub,
        }

    def state(self, name: str, machine: str) -> bytes | None:
        """The state to write about the unit; ``None`` if it is not here and loading it did not fail."""
        facts = (self.here, self.seen, self.error, self.start, self.explained, self.is_refused, self.order is not None)
        if facts != self.said:
            self.said, self.saying = facts, self._state_bytes(name, machine)
        return self.saying

    def _state_bytes(self, name: str, machine: str) -> bytes | None:
        reached = self.here.reached
        if reached is None and not (self.order is not None and self.error):
            return None
        if self.is_refused:
            reached = Desired.LAUNCHED  # so much was done; whether it runs, systemd says
        return codec.state_bytes(
            UnitState(
                name=name,
                machine=machine,
                load=self.seen.load,
                active=self.seen.active,
                sub=self.seen.sub,
                hash=self.here.hash,
                reached=reached or Desired.INACTIVE,
                error=self.error,
                start=self.start,
                note=self.explained.note,
                log=self.explained.log,
            )
        )

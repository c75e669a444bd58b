"""A node's machine and what is known of it, between the supervisor and those who do something to nodes for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from cluster.machines.driver import Vm
from cluster.machines.shell import Shell
from cluster.model.protocol import NodeState


@dataclass(slots=True)
class RunningNode:
    """A node's machine as the supervisor knows it.

    ``ended`` is how the last one ended, None before the first start.
    """

    number: int
    shell: Shell
    vm: Vm | None = None
    paused: bool = False
    stalled: bool = False
    """Whether it stood still for want of room when :func:`cluster.faults.stall.look` looked last."""
    started_at: float | None = None
    ended: str | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    changing_disk: asyncio.Lock = field(default_factory=asyncio.Lock)
    fault: int | None = None
    """The number of the fault that it is paused, or that its plug was pulled."""

    @property
    def state(self) -> str:
        """In one word: off, paused, stalled or running."""
        if self.vm is None:
            return "off"
        if self.paused:
            return "paused"
        return "stalled" if self.stalled else "running"

    def status(self) -> NodeState:
        """What ``cluster status`` shows."""
        pid = None if self.vm is None else self.vm.pid
        boot = None if self.shell.hello is None else self.shell.hello.boot
        return NodeState(
            node=self.number,
            state=self.state,
            pid=pid,
            started_at=self.started_at,
            ended=self.ended,
            shell=self.shell.hello is not None,
            boot=boot,
        )

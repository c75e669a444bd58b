"""The protocol between the supervisor and what runs a node's machine.

That is a QEMU process, libvirt, or namespaces of this computer's kernel.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from cluster.model.machine import Machine
from cluster.model.protocol import Request


class Vm(Protocol):
    """A machine that was started.

    All of it belongs to the supervisor's event loop; methods raise :class:`terminal.Failure`.
    """

    @property
    def pid(self) -> int | None:
        """Its process on this computer, None if it has none here."""

    @property
    def changed(self) -> asyncio.Event:
        """Set whenever the result of :meth:`is_stalled` may have changed. The reader clears it first."""

    async def wait(self) -> str:
        """Return when the machine is off, with how it ended: "exit code 0", "signal 9".

        It may be awaited more than once.
        """

    async def kill(self) -> None:
        """Pull its plug; :meth:`wait` returns when that is done. Nothing happens if it is off."""

    async def reset(self) -> None:
        """Press its reset button: it boots, without its unwritten data."""

    async def press_power_button(self) -> None:
        """Ask its system to switch itself off."""

    async def pause(self) -> None:
        """Stop its time."""

    async def resume(self) -> None:
        """Let its time go on."""

    async def is_stalled(self) -> bool:
        """Whether it is stalled because its computer has no room for its writes.

        :meth:`resume` makes it try again.
        """

    async def save(self, folder: Path) -> None:
        """Write the paused machine, memory and devices but no disks, into ``folder``.

        A machine with that as :attr:`Machine.incoming` starts from it.
        """

    async def monitor(self, command: str, **arguments: object) -> object:
        """Run a command of QEMU's monitor (QMP) and return its answer.

        Raises :class:`terminal.Failure` if there is no QEMU.
        """


class Driver(Protocol):
    """Starts machines."""

    async def start(self, machine: Machine, log: Path) -> Vm:
        """Switch ``machine`` on; returns when its monitor answers, while the machine boots on.

        QEMU's output goes to the file ``log``.

        Raises :class:`terminal.Failure` with QEMU's own message, and OSError.
        """

    async def close(self) -> None:
        """Let go of what the driver itself holds; its machines are off by then."""

    def refusal(self, kind: type[Request[object]]) -> str | None:
        """Why requests of this ``kind`` cannot be carried out with machines of this driver; None if they can."""

"""The driver that runs each node as namespaces of this computer's kernel, with the image's systemd as PID 1.

It needs root.

One kernel, so one clock, no disk of the node's own and no firmware: what that makes impossible is refused
(:data:`REFUSED`). A boot is one process (:mod:`cluster.machines.namespaces.boot`) that stays beside its node; a node
that reboots is another boot of the same machine.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cluster.machines.namespaces import boot, cgroup
from cluster.machines.namespaces.boot import Boot
from cluster.machines.namespaces.cable import Cable
from cluster.machines.namespaces.doors import Doors, Network
from cluster.machines.namespaces.terminal import Console, Port, Terminal
from cluster.machines.process import dies_with_us
from cluster.model import logs
from cluster.model.description import Description
from cluster.model.layout import Layout
from cluster.model.machine import DISCOVERY_PORT, HOST_ADDRESS, SHELL_PORT, Machine, cluster_mac, kernel_arguments
from cluster.model.protocol import (
    CorruptDisk,
    FailDisk,
    FillDisk,
    Request,
    Restore,
    Save,
    SetClock,
    SlowDisk,
    StepClock,
    StrobeClock,
)
from terminal import Failure, record

SCRIPT = Path(boot.__file__)
POWER_BUTTON = signal.SIGRTMIN + 4
"""What systemd takes for "switch off" as PID 1 (systemd(1), SIGNALS)."""
BOOT_DEADLINE_S = 60.0
"""From the start of the process to systemd's first step.

That is mounts, and on the first boot a copy of the image's /var.
"""
PACKET_BYTES = 1 << 14
SSH_PORT = 22
NO_DISK = (
    "its state is a folder of this computer: it has no disk that could be slow, fail, fill up or be changed under it"
)
NO_CLOCK = "all nodes have this computer's clock"
NO_MEMORY = "the memory of processes of this computer's kernel is not written to files"
REFUSED: Mapping[type[Request[object]], str] = {
    **dict.fromkeys((SlowDisk, FailDisk, FillDisk, CorruptDisk), NO_DISK),
    **dict.fromkeys((StepClock, StrobeClock, SetClock), NO_CLOCK),
    **dict.fromkeys((Save, Restore), NO_MEMORY),
}
"""What the supervisor may be requested to do, and why not with nodes in namespaces."""


class NamespaceVm:
    """One node, from :meth:`start` until it is off; see :class:`cluster.machines.driver.Vm`."""

    def __init__(self, machine: Machine, log: Path, folder: Path, group: Path, discovery_port: int) -> None:
        """The node has its own ``folder`` and control ``group``.

        It finds ``discovery_port`` of our loopback at the host's address.
        """
        self._machine, self._log, self._folder, self._group = machine, log, folder, group
        self._discovery_port = discovery_port
        self.changed = asyncio.Event()
        self._console, self._port = Terminal(raw=False), Terminal(raw=True)
        self._doors = Doors()
        self._keeper: asyncio.subprocess.Process | None = None
        self._init: int | None = None
        """A pidfd of the node's PID 1."""
        self._cable: Cable | None = None
        self._again = self._killed = False
        self._life: asyncio.Task[str] | None = None
        self._shell: Port | None = None
        self._writer: Console | None = None

    @property
    def pid(self) -> int | None:
        """The process beside the node."""
        return None if self._keeper is None else self._keeper.pid

    async def start(self) -> None:
        """Switch it on; returns when systemd runs. Raises :class:`Failure` and OSError, and leaves nothing then."""
        try:
            self._writer = Console(self._console, self._machine.console)
            self._shell = Port(self._port)
            await self._shell.listen(self._machine.shell_socket)
            await self._doors.open(self._machine.ssh_port, SSH_PORT)
            await self._boot()
        except BaseException:
            await self._over()
            self._close()
            raise
        self._life = asyncio.create_task(self._live())

    async def wait(self) -> str:
        """How it ended."""
        assert self._life is not None
        return await asyncio.shield(self._life)

    async def kill(self) -> None:
        """SIGKILL for PID 1, and the kernel ends all others."""
        self._killed = True
        self._cut()

    async def reset(self) -> None:
        """Likewise, and boot."""
        self._again = True
        self._cut()

    async def press_power_button(self) -> None:
        """What a container's manager has for that."""
        self._signal(POWER_BUTTON)

    async def pause(self) -> None:
        """Freeze its processes; the clock goes on."""
        await cgroup.freeze(self._group, frozen=True)

    async def resume(self) -> None:
        """Let them go on."""
        await cgroup.freeze(self._group, frozen=False)

    async def is_stalled(self) -> bool:
        """Never: a write without room is the node's to see."""
        return False

    async def save(self, folder: Path) -> None:
        """Cannot be."""
        raise Failure(refusal(Save), where=str(folder))

    async def monitor(self, command: str, **_: object) -> object:
        """There is none."""
        raise Failure(f"a node in namespaces has no QEMU that could do {command!r}", hint="cluster up --driver qemu")

    def _cut(self) -> None:
        """Cut the power.

        The cable goes first: a machine without power closes no connection, but a kernel that ends processes does.
        """
        self._unplug()
        self._signal(signal.SIGKILL)

    def _unplug(self) -> None:
        if self._cable is not None:
            self._cable.unplug()
            self._cable = None

    def _signal(self, number: int) -> None:
        if self._init is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, number)

    async def _live(self) -> str:
        """Boot after boot; returns how the last one ended."""
        try:
            while True:
                assert self._keeper is not None
                code = await self._keeper.wait()
                again = (code == boot.REBOOT or self._again) and not self._killed
                self._again = False
                if not again:
                    return f"signal {-code}" if code < 0 else f"exit code {code}"
                await self._over()
                self._port.flush()
                try:
                    await self._boot()
                except (Failure, OSError) as error:
                    return f"it does not boot again: {error}"
                if self._killed:  # in between, when there was no PID 1 to be killed
                    self._cut()
        finally:
            await self._over()
            self._close()

    async def _boot(self) -> None:
        """One boot. Raises :class:`Failure` and OSError."""
        cgroup.make(self._group, self._machine.memory_mib)
        # Below it lies the node's /var with whatever its root makes there, programs that are setuid root among them.
        self._folder.chmod(0o700)
        for name in ("root", "state"):
            (self._folder / name).mkdir(exist_ok=True)
        file = self._folder / "boot.json"
        file.write_text(json.dumps(dataclasses.asdict(self._described())))
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, logs.fresh(self._log) as said:
                self._keeper = await asyncio.create_subprocess_exec(
                    *dies_with_us([sys.executable, "-I", "-S", str(SCRIPT), str(file), str(theirs.fileno())]),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    pass_fds=(theirs.fileno(),),
                )
            ours.setblocking(False)
            async with asyncio.timeout(BOOT_DEADLINE_S):
                await self._begin(ours)
        except TimeoutError:
            message = f"node-{self._machine.number} did not begin to boot within {BOOT_DEADLINE_S:.0f} s"
            raise Failure(message, where=str(self._log)) from None
        finally:
            ours.close()

    async def _begin(self, keeper: socket.socket) -> None:
        """Read a boot's messages until systemd runs."""
        begun = False
        while True:
            await readable(keeper)
            data, descriptors, _, _ = socket.recv_fds(keeper, PACKET_BYTES, 2)
            if not data:
                break
            match record.parse(data):
                case {"pid": int(pid)}:
                    with suppress(ProcessLookupError):  # it has ended already, and reports why
                        self._init = os.pidfd_open(pid)
                case {"card": str()}:
                    begun = True
                    await self._connect(*descriptors)
                case {"failed": str(why)}:
                    raise Failure(f"node-{self._machine.number} cannot boot: {why}", where=str(self._log))
        if not begun:
            said = self._log.read_text(errors="replace").strip()
            raise Failure(
                f"node-{self._machine.number} did not boot: {said or 'it ended at once'}", where=str(self._log)
            )

    async def _connect(self, card: int, namespace: int) -> None:
        """Plug in the cable, and open the ways between the node and this computer."""
        try:
            self._cable = cable = Cable(card)
            transport, _ = await asyncio.get_running_loop().create_unix_connection(
                lambda: cable, str(self._machine.net_socket)
            )
            if self._cable is not cable:  # the power was cut meanwhile
                transport.abort()
            network = Network(namespace)
        finally:
            os.close(namespace)
        await self._doors.boot(network, (HOST_ADDRESS, DISCOVERY_PORT), self._discovery_port)

    def _described(self) -> Boot:
        machine = self._machine
        return Boot(
            image=str(machine.image / "root.img"),
            root=str(self._folder / "root"),
            state=str(self._folder / "state"),
            seed=str(machine.cidata),
            command_line=kernel_arguments(machine),
            console=str(self._console.path),
            shell=str(self._port.path),
            shell_port=SHELL_PORT,
            mac=cluster_mac(machine.number),
            host_address=HOST_ADDRESS,
            cgroup=str(self._group),
        )

    async def _over(self) -> None:
        """What belonged to one boot goes; all of its processes have ended, or are ended now."""
        self._doors.shut()
        self._unplug()
        if self._keeper is not None and self._keeper.returncode is None:
            self._keeper.kill()
            await self._keeper.wait()
        if self._init is not None:
            os.close(self._init)
            self._init = None
        deadline = time.monotonic() + cgroup.PATIENCE_S
        while not cgroup.remove(self._group) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)  # a process that was killed is counted until it is reaped

    def _close(self) -> None:
        """What belonged to the machine goes."""
        self._doors.close()
        if self._writer is not None:
            self._writer.close()
        if self._shell is not None:
            self._shell.close()
        self._console.close()
        self._port.close()


async def readable(line: socket.socket) -> None:
    """Wait until something can be read from it."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(line, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(line)


class NamespaceDriver:
    """See :class:`cluster.machines.driver.Driver`."""

    def __init__(self, description: Description, layout: Layout) -> None:
        """Of one cluster."""
        self._description, self._layout = description, layout

    async def start(self, machine: Machine, log: Path) -> NamespaceVm:
        """Boot ``machine``."""
        if machine.incoming is not None:
            raise Failure(refusal(Restore), where=str(machine.incoming))
        group = cgroup.of(self._layout.state, machine.number)
        vm = NamespaceVm(machine, log, self._layout.node(machine.number), group, self._description.discovery_port)
        await vm.start()
        return vm

    async def close(self) -> None:
        """Nothing is held."""

    def refusal(self, kind: type[Request[object]]) -> str | None:
        """Why requests of this ``kind`` cannot be carried out with such nodes; None if they can."""
        return refusal(kind) if kind in REFUSED else None


def refusal(kind: type[Request[object]]) -> str:
    """The sentence for :data:`REFUSED`."""
    return f"nodes in namespaces cannot do that: {REFUSED[kind]}"


def forget_groups(description: Description, layout: Layout) -> None:
    """Remove the control groups of nodes whose supervisor was killed. The kernel has ended the rest."""
    with suppress(Failure):
        for number in description.numbers:
            group = cgroup.of(layout.state, number)
            deadline = time.monotonic() + cgroup.PATIENCE_S
            while not cgroup.remove(group) and time.monotonic() < deadline:
                time.sleep(0.01)

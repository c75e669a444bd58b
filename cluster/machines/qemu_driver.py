"""The driver that runs each machine as a QEMU process of its own, which dies with the supervisor."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from cluster.machines import qmp
from cluster.machines.process import dies_with_us
from cluster.machines.sparse import copy_sparse
from cluster.model import logs
from cluster.model.machine import Machine, argv
from cluster.model.protocol import Request
from cluster.model.utterance import printable
from guest.lines import Message
from terminal import Failure

MONITOR_DEADLINE_S = 30.0
"""From starting QEMU to its monitor answering: its own start, files read and ports bound, on a busy computer."""
MIGRATION_DEADLINE_S = 120.0
"""For writing or reading a machine's devices, and its memory if that is not shared."""
IGNORE_SHARED = {"capabilities": [{"capability": "x-ignore-shared", "state": True}]}
"""Memory in a shared file is not part of a migration (QEMU ``docs/system/vm-templating``)."""
CHANGES = ("STOP", "RESUME", qmp.CONNECTION)
"""Events after which a machine may be stalled, or no longer (QEMU ``docs/interop/qmp``)."""
MEMORY, DEVICES = "memory", "devices"
"""Files of a saved machine. Without the first, the second holds the memory, too."""


class QemuVm:
    """One QEMU process; see :class:`cluster.machines.driver.Vm`."""

    def __init__(self, process: asyncio.subprocess.Process, socket: Path, memory: int | None) -> None:
        """``socket`` is its monitor's, ``memory`` the file of its memory if that is shared with us.

        Both are closed when the process ends.
        """
        self.pid = process.pid
        self.changed = asyncio.Event()
        self._process = process
        self._monitor = qmp.Monitor(socket, self._hear)
        self._memory = memory
        self._closing = asyncio.create_task(self._close())

    async def wait(self) -> str:
        """How it ended."""
        code = await self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process.returncode is None:
            self._process.kill()

    async def reset(self) -> None:
        """The board's other button, likewise."""
        await self.monitor("system_reset")

    async def press_power_button(self) -> None:
        """The board's button, by the monitor."""
        await self.monitor("system_powerdown")

    async def pause(self) -> None:
        """Stop its processor."""
        await self.monitor("stop")

    async def resume(self) -> None:
        """Let its processor go on."""
        await self.monitor("cont")

    async def is_stalled(self) -> bool:
        """What QEMU makes of a write without room, ``werror=enospc`` being its default."""
        return qmp.status(await self.monitor("query-status")) == "io-error"

    async def save(self, folder: Path) -> None:
        """Devices by migration into a file, memory by copying what is not zero."""
        await self.monitor("migrate-set-capabilities", **IGNORE_SHARED)
        await self.monitor("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        await self.monitor("migrate", uri=f"file:{folder / DEVICES}")
        await self.migrated()
        if self._memory is not None:
            with (folder / MEMORY).open("wb") as file:
                await asyncio.to_thread(copy_sparse, self._memory, file.fileno())

    async def migrated(self) -> None:
        """Wait until a migration has ended well. Raises :class:`Failure`."""
        deadline = time.monotonic() + MIGRATION_DEADLINE_S
        while (status := qmp.status(found := await self.monitor("query-migrate"))) != "completed":
            if status == "failed" or time.monotonic() > deadline:
                raise Failure(f"QEMU did not move the machine: {printable(str(found))}")
            await asyncio.sleep(0.01)

    def _hear(self, event: str, data: Message) -> None:
        # A failed write means nothing unless the machine was stopped for it: a guest can cause any number of them.
        if event in CHANGES or (event == "BLOCK_IO_ERROR" and data.get("action") == "stop"):
            self.changed.set()

    async def _close(self) -> None:
        await self._process.wait()
        self._monitor.close()
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    async def monitor(self, command: str, **arguments: object) -> object:
        """See :meth:`cluster.machines.qmp.Monitor.execute`."""
        return await self._monitor.execute(command, arguments)

    @property
    def is_off(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None


class QemuDriver:
    """Runs the QEMU at ``program``; see :class:`cluster.machines.driver.Driver`."""

    def __init__(self, program: Path) -> None:
        self._program = program

    async def start(self, machine: Machine, log: Path) -> QemuVm:
        """A new process for ``machine``."""
        machine.qmp_socket.unlink(missing_ok=True)
        saved = None if machine.incoming is None else machine.incoming / MEMORY
        # QEMU does not load memory from a stream into what is shared, so only machines that boot share theirs.
        shared = saved is None
        memory = os.open(saved, os.O_RDWR) if saved and saved.exists() else os.memfd_create(machine.name)
        try:
            with logs.fresh(log) as said:
                process = await asyncio.create_subprocess_exec(
                    *dies_with_us(argv(self._program, machine, memory, shared=shared)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    pass_fds=(memory,),
                )
        except OSError:
            os.close(memory)
            raise
        if not shared:
            os.close(memory)
        vm = QemuVm(process, machine.qmp_socket, memory if shared else None)
        try:
            await self._wait_for_monitor(vm, machine, log)
            if machine.incoming is not None:
                await vm.monitor("migrate-set-capabilities", **IGNORE_SHARED)
                await vm.monitor("migrate-incoming", uri=f"file:{machine.incoming / DEVICES}")
                await vm.migrated()
        except BaseException:
            await vm.kill()
            await vm.wait()
            raise
        return vm

    async def close(self) -> None:
        """Nothing is held."""

    def refusal(self, _: type[Request[object]]) -> None:
        """None: a virtual machine can do all."""

    async def _wait_for_monitor(self, vm: QemuVm, machine: Machine, log: Path) -> None:
        deadline = time.monotonic() + MONITOR_DEADLINE_S
        while True:
            try:
                await vm.monitor("query-status")
            except Failure:
                pass  # not yet
            else:
                return
            if vm.is_off:
                said = log.read_text(errors="replace").strip() or await vm.wait()
                raise Failure(f"QEMU did not start node-{machine.number}: {said}", where=str(log))
            if time.monotonic() > deadline:
                raise Failure(
                    f"QEMU of node-{machine.number} did not come up within {MONITOR_DEADLINE_S:.0f} s", where=str(log)
                )
            await asyncio.sleep(0.05)

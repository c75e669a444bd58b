"""The one background process of a cluster: ``python -m cluster.daemon.supervisor FOLDER``.

It owns the switch, the discovery service and the nodes' QEMU processes, and carries out the requests of
:mod:`cluster.client.control`. Whatever ends it (a request, SIGTERM, ``kill -9``) ends all of them: the QEMUs have a
parent-death signal (:mod:`cluster.machines.parent_death`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from cluster.daemon import shell_session
from cluster.daemon.requests import Handlers
from cluster.faults import stall
from cluster.faults.book import FaultBook, Heal
from cluster.faults.disk import Errors, Slow
from cluster.faults.nodes import SHELL_DEADLINE_S, NodeFaults
from cluster.machines.driver import Driver, Vm
from cluster.machines.process import Process
from cluster.machines.qemu_driver import QemuDriver
from cluster.machines.running import RunningNode
from cluster.machines.shell import Lost, Shell
from cluster.machines.sparse import copy_file
from cluster.model import logs, protocol
from cluster.model.description import Description
from cluster.model.layout import Layout, make_private
from cluster.model.protocol import LINE_BYTES_MAX, ClockTimes, ClusterState, FaultState, NodeRequest
from cluster.model.timeline import Timeline
from cluster.model.utterance import printable
from cluster.network.impairment import HOST
from cluster.network.segment import Segment
from cluster.services.provider import Services
from discovery.server import DiscoveryServer
from terminal import Failure

REBOOT_DEADLINE_S = 60.0
"""For a node to end and to boot to its root shell, likewise."""
LINE_CHARS_MAX = 2000
"""Of the log."""
POWERDOWN_DEADLINE_S = 15.0
"""For a node to switch itself off, with hardware; times the accelerator's factor."""


class Supervisor:
    """One cluster at work. :meth:`run` returns after a request or signal to end, with everything ended."""

    def __init__(self, state: Path) -> None:
        """``state`` is the cluster's folder. Raises :class:`Failure` or OSError if it holds no cluster."""
        self.description = Description.load(state / "cluster.json")
        self.layout = Layout(state, Path(self.description.runtime))
        self.guests = {number: self._guest(number) for number in self.description.numbers}
        self.discovery: DiscoveryServer | None = None
        self.driver: Driver = driver(self.description, self.layout)
        self.timeline = Timeline(self.layout.timeline)
        self.book = FaultBook(self.timeline.record)
        sockets = {number: self.layout.net_socket(number) for number in self.description.numbers}
        self.segment = Segment(sockets, self.book)
        self.switch = self.segment.switch
        self.node_faults = NodeFaults(self.book, self.layout, self.description.accelerator.factor)
        self.services = Services(
            self.description,
            self.layout,
            partial(self.switch.inject, HOST),
            self.book,
            changed=self._record_change,
            say=say,
        )
        self.switch.attach(HOST, self.services)
        self._end = asyncio.Event()
        self._handlers = self.handlers()
        self._watchers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until a request or signal to end. Raises OSError if a socket or port cannot be had."""
        make_private(self.layout.runtime)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._end.set)
        self.layout.control.unlink(missing_ok=True)
        self._switch_discovery(on=True)
        try:
            await self.switch.start()
            await self.services.start()
            server = await asyncio.start_unix_server(self._serve, str(self.layout.control), limit=LINE_BYTES_MAX)
            self._record()
            say(f"cluster {self.description.name} supervised")
            keeping = asyncio.create_task(logs.watch(self._logs))
            await self._end.wait()
            keeping.cancel()
            server.close()
        finally:
            for guest in self.guests.values():
                await self._end_machine(guest)
            await self.driver.close()
            self.segment.close()
            await self.services.stop()
            await self.switch.stop()
            self._switch_discovery(on=False)
            sockets = (*map(self.layout.qmp_socket, self.guests), *map(self.layout.shell_socket, self.guests))
            for path in (self.layout.control, self.layout.supervisor, *sockets):
                path.unlink(missing_ok=True)
            say("ended")

    def _logs(self) -> list[Path]:
        nodes = [path for number in list(self.guests) for path in self.layout.node_logs(number)]
        return [self.layout.supervisor_log, self.layout.services_log, self.services.registry.log, *nodes]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._handlers.serve(reader, writer)
        except OSError as error:
            say(f"the caller of a request went away: {error}")
        finally:
            writer.close()

    def handlers(self) -> Handlers:
        """The handler of each request."""
        handlers = Handlers(self.driver.refusal, f"cluster {self.description.name}", "cluster up --driver qemu")
        on, node, faults = handlers.on, self._node, self.node_faults
        on(protocol.Status, lambda _: self.status())
        on(protocol.NewToken, lambda r: self.new_token(r.size))
        on(protocol.SwitchDiscovery, lambda r: self.switch_discovery(on=r.running))
        on(protocol.Adopt, lambda r: self.adopt(r.description))
        on(protocol.Mark, lambda r: self.timeline.record("mark", r.text))
        on(protocol.StartRegistry, lambda r: self.services.registry.start(Path(r.program)))
        on(protocol.Save, lambda r: self.save(Path(r.folder)))
        on(protocol.Restore, lambda r: self.restore(Path(r.folder)))
        on(protocol.Shutdown, lambda _: self._end.set())
        for kind, change in (
            (protocol.StartNode, self.start),
            (protocol.KillNode, self.kill),
            (protocol.StopNode, self.stop),
            (protocol.PauseNode, self.pause),
            (protocol.ResumeNode, self.resume),
        ):
            on(kind, partial(self._change, change))
        on(protocol.RebootNode, lambda r: self.reboot(node(r), graceful=r.graceful))
        on(protocol.PowerCut, lambda r: self.power_cut([self._numbered(number) for number in r.nodes]))
        on(protocol.SetClock, self.set_clock)
        on(protocol.StepClock, lambda r: faults.step(node(r), r.seconds))
        on(protocol.StrobeClock, lambda r: faults.strobe(node(r), r.seconds, r.period_s, r.duration_s))
        on(protocol.SlowDisk, lambda r: faults.filter(node(r), Slow(r.iops, r.bytes_per_second)))
        on(protocol.FailDisk, lambda r: faults.filter(node(r), Errors(r.write, r.read, r.kind)))
        on(protocol.FillDisk, lambda r: faults.fill(node(r), r.leave_bytes))
        on(protocol.CorruptDisk, lambda r: faults.corrupt(node(r), r.path, r.offset, r.count))
        on(protocol.Impair, lambda r: self.segment.impair(r.what, r.pairs, r.impairment, r.seed))
        on(protocol.HealNetwork, lambda r: self.segment.heal(r.id))
        on(protocol.NetworkFaults, lambda _: self.segment.faults())
        on(protocol.Capture, lambda r: self.segment.capture(r.port, Path(r.file), r.missed, r.bytes_max))
        on(protocol.EndCapture, lambda r: self.segment.release(r.id))
        on(protocol.ShiftTime, lambda r: self.services.shift_time(r.seconds))
        on(protocol.Faults, lambda _: self.faults())
        on(protocol.Heal, lambda r: self.book.heal(r.id))
        handlers.converse(protocol.RootShell, lambda r, *line: shell_session.run(node(r).shell, r, *line))
        handlers.converse(protocol.Watch, lambda r, *line: shell_session.watch(node(r).shell, r, *line))
        return handlers

    def _node(self, request: NodeRequest[object]) -> RunningNode:
        return self._numbered(request.node)

    def _numbered(self, number: int) -> RunningNode:
        if number not in self.guests:
            there = ", ".join(f"node-{each}" for each in self.guests)
            raise Failure(f"cluster {self.description.name} has no node-{number}", hint=f"there are: {there}")
        return self.guests[number]

    async def _change(self, change: Callable[[RunningNode], Awaitable[None]], request: NodeRequest[None]) -> None:
        guest = self._node(request)
        say(f"{type(request).__name__} node-{guest.number}")
        await change(guest)

    def new_token(self, size: int) -> str:
        """A token of the discovery service. Raises :class:`Failure` if that is off."""
        if self.discovery is None:
            raise Failure("the discovery service is off", where=f"cluster {self.description.name}")
        return self.discovery.new_token(size)

    def switch_discovery(self, *, on: bool) -> None:
        """Start or stop the discovery service, as a fault. Raises :class:`Failure` if it cannot listen."""
        self._switch_discovery(on=on)
        self.timeline.record("heal" if on else "fault", f"discovery service {'on' if on else 'off'}")

    async def set_clock(self, request: protocol.SetClock) -> ClockTimes:
        """Set a node's clock. Raises :class:`Failure`."""
        before, after = await self._node(request).shell.clock_step(request.epoch_s, rtc=request.rtc)
        return ClockTimes(before, after)

    def _switch_discovery(self, *, on: bool) -> None:
        """Start or stop the discovery service, whose data is in a file. Raises :class:`Failure` if it cannot listen."""
        if self.discovery is not None:
            self.discovery.stop()
            self.discovery = None
        if on:
            discovery = DiscoveryServer(
                "127.0.0.1",
                self.description.discovery_port,
                self.layout.discovery,
                public_url=self.description.discovery_url("").partition("#")[0],
                certificate=(self.layout.services_certificate, None) if self.description.services_fingerprint else None,
                log=say,
            )
            discovery.start()
            self.discovery = discovery

    def status(self) -> ClusterState:
        """The state of nodes and network."""
        counters = {str(port): dataclasses.asdict(counter) for port, counter in self.switch.counters.items()}
        nodes = tuple(guest.status() for guest in self.guests.values())
        return ClusterState(os.getpid(), nodes, counters, tuple(self.faults()))

    def faults(self) -> list[FaultState]:
        """The faults that hold now, oldest first; the network's with what became of frames."""
        network = {fault.id: fault for fault in self.segment.faults()}
        return [network.get(fault.id, fault) for fault in self.book.faults()]

    async def adopt(self, description: Description) -> None:
        """Become the cluster of ``description``: other nodes go, new ones can be started. Raises :class:`Failure`."""
        if set(description.numbers) == set(self.guests):
            return
        for number in set(self.guests) - set(description.numbers):
            await self._end_machine(self.guests[number])
            del self.guests[number]
            self.node_faults.forget(number)
            self.switch.remove(number)
            for path in (self.layout.qmp_socket(number), self.layout.shell_socket(number)):
                path.unlink(missing_ok=True)
        self.description = description
        self.services.adopt(description)
        try:
            for number in set(description.numbers) - set(self.guests):
                await self.switch.add(number, self.layout.net_socket(number))
                self.guests[number] = self._guest(number)
        except OSError as error:
            raise Failure(f"no place on the network: {error.strerror}", where=str(self.layout.runtime)) from error

    def _guest(self, number: int) -> RunningNode:
        return RunningNode(number, Shell(self.layout.shell_socket(number), f"node-{number}", say))

    async def start(self, guest: RunningNode, incoming: Path | None = None) -> None:
        """Switch a node on; returns when its machine runs.

        It boots, or is paused in the state that the folder ``incoming`` holds.

        Raises :class:`Failure`.
        """
        async with guest.starting:
            if guest.vm is not None:
                raise Failure(f"node-{guest.number} runs already")
            try:
                machine = self.description.machine(guest.number, self.layout, incoming)
                guest.vm = vm = await self.driver.start(machine, self.layout.node(guest.number) / "qemu.log")
            except OSError as error:
                raise Failure(f"node-{guest.number} cannot be started: {error}") from error
        guest.started_at, guest.paused, guest.stalled, guest.ended = time.time(), incoming is not None, False, None
        watcher = asyncio.create_task(self._watch(guest, vm))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        self._record_change()
        self._power_fault(guest)
        self.timeline.record("power", f"node-{guest.number} on", [guest.number])
        try:
            await guest.shell.open()
        except OSError as error:  # it has just ended
            say(f"node-{guest.number}'s root shell: {error}")
        await self.node_faults.started(guest)

    async def _watch(self, guest: RunningNode, vm: Vm) -> None:
        stalls = asyncio.create_task(stall.watch(guest, vm, self.node_faults.has_no_room, self.timeline.record))
        ended = await vm.wait()
        stalls.cancel()
        if guest.paused:
            self._power_fault(guest)
        guest.vm, guest.paused, guest.ended = None, False, ended
        say(f"node-{guest.number} is off: {guest.ended}")
        self.timeline.record("power", f"node-{guest.number} off: {guest.ended}", [guest.number])
        self._record_change()

    async def kill(self, guest: RunningNode) -> None:
        """Pull a node's plug; nothing happens if it is off."""
        if guest.vm is not None:
            guest.paused = False
            self._power_fault(guest, f"kill node-{guest.number}", partial(self._switch_on, guest))
            await self._end_machine(guest)

    async def _switch_on(self, guest: RunningNode) -> None:
        if guest.vm is None:
            await self.start(guest)

    def _power_fault(self, guest: RunningNode, what: str | None = None, heal: Heal | None = None) -> None:
        """Its power fault of before is over; ``what`` is the new one."""
        if guest.fault is not None:
            self.book.end(guest.fault)
        guest.fault = None
        if what is not None and heal is not None:
            guest.fault = self.book.begin(self.book.number(), what, [guest.number], heal)

    async def _end_machine(self, guest: RunningNode) -> None:
        if guest.vm is not None:
            await guest.vm.kill()
            await self._off(guest, 10)

    async def stop(self, guest: RunningNode) -> None:
        """Press a node's power button, wait, and pull its plug if it does not switch itself off."""
        if guest.vm is None:
            return
        if guest.paused:
            await self.resume(guest)
        patience_s = POWERDOWN_DEADLINE_S * self.description.accelerator.factor
        try:
            await guest.vm.press_power_button()
        except Failure as failure:
            say(f"node-{guest.number}'s power button: {failure}")
            patience_s = 1.0  # it may have been switching itself off just then
        if not await self._off(guest, patience_s):
            say(f"node-{guest.number} did not switch itself off")
            await self._end_machine(guest)

    async def _off(self, guest: RunningNode, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while guest.vm is not None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def pause(self, guest: RunningNode) -> None:
        """Stop a node's time. Raises :class:`Failure` if it is off."""
        await self._running(guest).pause()
        if not guest.paused:
            self._power_fault(guest, f"pause node-{guest.number}", partial(self.resume, guest))
        guest.paused = True

    async def resume(self, guest: RunningNode) -> None:
        """Let a paused node go on. Raises :class:`Failure` if it is off."""
        await self._running(guest).resume()
        if guest.paused:
            self._power_fault(guest)
        guest.paused = False

    async def reboot(self, guest: RunningNode, *, graceful: bool) -> None:
        """Make a node's system reboot, or press its reset button.

        Returns when the root shell of the new boot is there. Raises :class:`Failure`.
        """
        vm, factor = self._running(guest), self.description.accelerator.factor
        before = await guest.shell.ready(SHELL_DEADLINE_S * factor) if graceful else guest.shell.hello
        how = "reboot" if graceful else "reset"
        self.timeline.record("power", f"{how} node-{guest.number}", [guest.number])
        if graceful:
            with suppress(Lost):  # it went down before it could report the result
                await guest.shell.run("systemctl reboot", timeout=SHELL_DEADLINE_S * factor)
        else:
            await vm.reset()
        deadline = time.monotonic() + REBOOT_DEADLINE_S * factor
        while guest.shell.hello is None or (before is not None and guest.shell.hello.boot == before.boot):
            if guest.vm is not vm:
                raise Failure(f"node-{guest.number} went off instead: {guest.ended}")
            if time.monotonic() > deadline:
                raise Failure(
                    f"node-{guest.number} is not back",
                    where=f"{REBOOT_DEADLINE_S * factor:.0f} s",
                    hint="cluster console",
                )
            await asyncio.sleep(0.1)

    async def power_cut(self, guests: Sequence[RunningNode]) -> None:
        """Pull the plugs of several nodes at once and put them back. Raises :class:`Failure`."""
        if not guests:
            raise Failure("a power cut needs one node or more")
        for guest in guests:
            self._running(guest)
        numbers = [guest.number for guest in guests]
        self.timeline.record("fault", "power cut " + " ".join(f"node-{number}" for number in numbers), numbers)
        await asyncio.gather(*map(self._end_machine, guests))
        await asyncio.gather(*map(self.start, guests))

    def _running(self, guest: RunningNode) -> Vm:
        if guest.vm is None:
            raise Failure(f"node-{guest.number} is off", hint=f"cluster start node-{guest.number}")
        return guest.vm

    async def save(self, folder: Path) -> None:
        """Write all machines as they are at one moment into ``folder``, and let them go on.

        Each goes to ``node-N/`` there, with its state disk.

        Raises :class:`Failure`, for a node that does not run, too.
        """
        for guest in self.guests.values():
            if guest.state != "running":
                raise Failure(f"node-{guest.number} is {guest.state}", hint="a snapshot is made of a whole cluster")
        vms = {guest.number: self._running(guest) for guest in self.guests.values()}
        await asyncio.gather(*(vm.pause() for vm in vms.values()))
        try:
            await asyncio.gather(*(self._save(number, vm, folder / f"node-{number}") for number, vm in vms.items()))
        except OSError as error:
            raise Failure("the snapshot cannot be written", where=str(folder)) from error
        finally:
            await asyncio.gather(*(vm.resume() for vm in vms.values()))
        self.timeline.record("mark", "snapshot")

    async def _save(self, number: int, vm: Vm, folder: Path) -> None:
        folder.mkdir()
        await vm.save(folder)
        disk = self.layout.node(number) / "state.img"
        await asyncio.to_thread(copy_file, disk, folder / disk.name)

    async def restore(self, folder: Path) -> None:
        """Start all machines from what :meth:`save` wrote into ``folder``, and let them go on once all are there.

        Raises :class:`Failure`.
        """
        await asyncio.gather(*(self.start(guest, folder / f"node-{guest.number}") for guest in self.guests.values()))
        await asyncio.gather(*(self._running(guest).resume() for guest in self.guests.values()))
        for guest in self.guests.values():
            guest.paused = False
        self.timeline.record("mark", "restored from a snapshot")

    def _record(self) -> None:
        """Record the processes, so that the next command can clean up after a supervisor that was killed.

        The file also shows that this supervisor listens, so it is not written before.
        """
        if not self.layout.control.exists():
            return
        pids = [
            os.getpid(),
            *(guest.vm.pid for guest in self.guests.values() if guest.vm is not None),
            *self.services.pids,
        ]
        found = (Process.of(pid) for pid in pids if pid is not None)
        processes = [dataclasses.asdict(process) for process in found if process is not None]
        part = self.layout.supervisor.with_suffix(".part")
        part.write_text(json.dumps(processes) + "\n")
        part.replace(self.layout.supervisor)

    def _record_change(self) -> None:
        """The same, after the fact. If there is no room to record the processes, the kernel still ends them."""
        try:
            self._record()
        except OSError as error:
            say(f"{self.layout.supervisor} cannot be written: {error.strerror}")


def driver(description: Description, layout: Layout) -> Driver:
    """What runs the nodes of a cluster."""
    if description.driver == "libvirt":
        from cluster.machines.libvirt_driver import LibvirtDriver

        return LibvirtDriver(description, layout)
    if description.driver == "namespaces":
        from cluster.machines.namespaces.driver import NamespaceDriver

        return NamespaceDriver(description, layout)
    return QemuDriver(Path(description.qemu))


def say(text: str) -> None:
    """Add a line, perhaps with a guest's own text, to the log; without room for it, it waits for the next one."""
    with suppress(OSError):
        print(time.strftime("%Y-%m-%d %H:%M:%S"), printable(text, LINE_CHARS_MAX), flush=True)


def main() -> int:
    """Supervise the cluster in the folder that is the one argument."""
    os.chdir("/")
    state = Path(sys.argv[1])
    with (state / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            asyncio.run(_supervise(state))
        except BlockingIOError:
            say("another supervisor runs this cluster")
            return 1
        except (Failure, OSError) as error:
            say(f"cannot go on: {error}")
            return 1
    return 0


async def _supervise(state: Path) -> None:
    await Supervisor(state).run()


if __name__ == "__main__":
    sys.exit(main())

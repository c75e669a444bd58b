"""The one background process of a cluster: ``python -m cluster.daemon.supervisor FOLDER``.

It owns the switch, the discovery service and the nodes' QEMU processes, and does what :mod:`cluster.client.control` asks. Whatever ends
it (a request, SIGTERM, ``kill -9``) ends all of them: the QEMUs are on a leash that the kernel holds (:mod:`cluster.machines.parent_death`).
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
from typing import Any

from cluster.daemon import shell_session
from cluster.faults import stall
from cluster.faults.book import FaultBook, Heal
from cluster.faults.nodes import SHELL_DEADLINE_S, NodeFaults
from cluster.machines.driver import Driver, Vm
from cluster.machines.process import Process
from cluster.machines.qemu_driver import QemuDriver
from cluster.machines.running import RunningNode
from cluster.machines.shell import Lost, Shell
from cluster.machines.sparse import copy_file
from cluster.model import logs
from cluster.model.description import Description
from cluster.model.layout import Layout, make_private
from cluster.model.protocol import LINE_BYTES_MAX
from cluster.model.timeline import Timeline
from cluster.model.utterance import printable
from cluster.network.impairment import HOST
from cluster.network.segment import Segment
from cluster.services.provider import Services
from discovery.server import DiscoveryServer
from terminal import Failure, record

REBOOT_DEADLINE_S = 60.0
"""For a node to end and to boot to its root shell, likewise."""
LINE_CHARS_MAX = 2000
"""Of the log."""
POWERDOWN_DEADLINE_S = 15.0
"""For a node to switch itself off, with hardware; times the accelerator's factor."""


class Supervisor:
    """One cluster at work. :meth:`run` returns when it was told to end, with everything ended."""

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
        self._watchers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until told to end. Raises OSError if a socket or port cannot be had."""
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
            watching = asyncio.create_task(
                stall.watch(self.guests.values, self.node_faults.has_no_room, self.timeline.record)
            )
            keeping = asyncio.create_task(logs.watch(self._logs))
            await self._end.wait()
            watching.cancel()
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
            request = record.parse(await reader.readline())
            try:
                if request["do"] in shell_session.VERBS and request.get("node") in self.guests:
                    return await shell_session.attend(self.guests[request["node"]].shell, request, reader, writer)
                answer = {"result": await self.do(request)}
            except Failure as failure:
                answer = {"failure": failure.message, "where": failure.where, "hint": failure.hint}
            except OSError as error:  # the disk is full, say
                answer = {"failure": f"this computer does not let us: {error}"}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, KeyError, TypeError, ValueError) as error:
            say(f"a request was not understood or its asker went away: {error}")
        finally:
            writer.close()

    async def do(self, request: dict[str, Any]) -> Any:
        """Carry out one request, ``{"do": VERB, ...}``. Raises :class:`Failure`."""
        if (why := self.driver.refusal(str(request["do"]))) is not None:
            raise Failure(why, where=f"cluster {self.description.name}", hint="cluster up --driver qemu")
        nodes: dict[str, Callable[[RunningNode], Awaitable[None]]] = {
            "start": self.start,
            "kill": self.kill,
            "stop": self.stop,
            "pause": self.pause,
            "resume": self.resume,
        }
        match request:
            case {"do": "status"}:
                return self.status()
            case {"do": "token", "size": int(size)} if self.discovery is not None:
                return self.discovery.new_token(size)
            case {"do": "discovery", "running": bool(running)}:
                self._switch_discovery(on=running)
                self.timeline.record("heal" if running else "fault", f"discovery service {'on' if running else 'off'}")
                return None
            case {"do": "network"}:
                return self.segment.do(request)
            case {"do": "disk" | "skew", "node": int(number)} if number in self.guests:
                return await self.node_faults.do(self.guests[number], request)
            case {"do": "faults"}:
                return self.faults()
            case {"do": "heal", "id": int() | None as number}:
                return await self.book.heal(number)
            case {"do": "adopt", "description": dict(description)}:
                return await self.adopt(Description.of(description))
            case {"do": "mark", "text": str(text)}:
                return self.timeline.record("mark", text)
            case {"do": "registry", "program": str(program)}:
                return await self.services.registry.start(Path(program))
            case {"do": "time", "seconds": int() | float() as seconds}:
                return self.services.shift_time(seconds)
            case {"do": "save", "folder": str(folder)}:
                return await self.save(Path(folder))
            case {"do": "restore", "folder": str(folder)}:
                return await self.restore(Path(folder))
            case {"do": "clock", "node": int(number), "epoch": int() | float() as epoch} if number in self.guests:
                before, after = await self.guests[number].shell.clock_step(epoch, rtc=bool(request.get("rtc")))
                return {"before": before, "after": after}
            case {"do": "reboot", "node": int(number), "graceful": bool(graceful)} if number in self.guests:
                return await self.reboot(self.guests[number], graceful=graceful)
            case {"do": "power-cut", "nodes": list(numbers)} if numbers and set(numbers) <= set(self.guests):
                return await self.power_cut([self.guests[number] for number in numbers])
            case {"do": "shutdown"}:
                self._end.set()
                return None
            case {"do": str(verb), "node": int(number)} if verb in nodes and number in self.guests:
                say(f"{verb} node-{number}")
                return await nodes[verb](self.guests[number])
            case _:
                raise Failure(f"the supervisor knows no such request: {request}")

    def _switch_discovery(self, *, on: bool) -> None:
        """Start or stop the discovery service; what it knows is in its file. Raises :class:`Failure` if it cannot listen."""
        if self.discovery is not None:
            self.discovery.stop()
            self.discovery = None
        if on:
            discovery = DiscoveryServer(
                "127.0.0.1",
                self.description.discovery_port,
                self.layout.discovery,
                public_url=self.description.discovery_url("").rstrip("/"),
                log=say,
            )
            discovery.start()
            self.discovery = discovery

    def status(self) -> dict[str, Any]:
        """The state of nodes and network."""
        counters = {port: dataclasses.asdict(counter) for port, counter in self.switch.counters.items()}
        nodes = [guest.status() for guest in self.guests.values()]
        return {"pid": os.getpid(), "nodes": nodes, "network": counters, "faults": self.faults()}

    def faults(self) -> list[dict[str, Any]]:
        """The faults that hold now, oldest first; the network's with what became of frames."""
        network = {fault["id"]: fault for fault in self.segment.faults()}
        return [network.get(fault["id"], fault) for fault in self.book.faults()]

    async def adopt(self, description: Description) -> None:
        """The cluster is what ``description`` says from now on: nodes that it does not have are gone, new ones can be started. Raises :class:`Failure`."""
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
        """Switch a node on; returns when its machine runs: it boots, or stands still with what the folder ``incoming`` holds.

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
        ended = await vm.wait()
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
        """Have a node's system reboot, or press its reset button; returns when the root shell of the new boot is there. Raises :class:`Failure`."""
        vm, factor = self._running(guest), self.description.accelerator.factor
        before = await guest.shell.ready(SHELL_DEADLINE_S * factor) if graceful else guest.shell.hello
        how = "reboot" if graceful else "reset"
        self.timeline.record("power", f"{how} node-{guest.number}", [guest.number])
        if graceful:
            with suppress(Lost):  # it went down before it could tell how that went
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
        """Write all machines as they are at one moment into ``folder`` (``node-N/``, with the state disk), and let them go on.

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
        """Write down which processes there are, so that the next command can clean up after a supervisor that was killed.

        That the file is there also says that we listen: not before.
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
        """The same, for what has happened already: a leash holds the processes, too, should there be no room to write them down."""
        try:
            self._record()
        except OSError as error:
            say(f"{self.layout.supervisor} is not as it should be: {error.strerror}")


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
    """One line for the log; if there is no room for it, it waits for the next one. Some of it may be a guest's own words."""
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

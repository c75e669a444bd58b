"""The driver that has libvirt run each machine as a transient domain, here or on other computers (``docs/libvirt.md``).

libvirt's calls block, so each runs in a thread; its events come in a thread of their own and are passed to the asyncio
loop. A domain ends with our connection: the daemon sees to that (``VIR_DOMAIN_START_AUTODESTROY``), and where there is
none, a guard.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cluster.machines import libvirt_connection, qmp
from cluster.machines.domain import domain_xml
from cluster.machines.process import Process
from cluster.machines.remote import Remote
from cluster.model import connection_uri
from cluster.model.connection_uri import Place
from cluster.model.description import Description
from cluster.model.layout import Layout
from cluster.model.machine import Machine
from cluster.model.protocol import Request
from guest.lines import decode
from terminal import Failure

T = TypeVar("T")
REAPER = Path(__file__).with_name("reaper.py")
KEEPALIVE_S, KEEPALIVE_COUNT = 5, 6
"""A daemon that is silent for half a minute is gone, and its domains are lost to us."""
CLOSE_DEADLINE_S = 10.0


class LibvirtVm:
    """One domain; see :class:`cluster.machines.driver.Vm`."""

    def __init__(self, place: Place, domain: Any, ended: asyncio.Future[str]) -> None:
        """``ended`` receives how the domain ended."""
        self._place, self._domain, self._ended = place, domain, ended
        self.changed = asyncio.Event()
        self.changed.set()  # events from before we listened do not come
        self._name = str(domain.name())
        self.pid = libvirt_connection.read_pid(place, self._name)
        self._process = None if self.pid is None else Process.of(self.pid)

    async def wait(self) -> str:
        """How it ended."""
        return await asyncio.shield(self._ended)

    async def kill(self) -> None:
        """Have libvirt end its process."""
        libvirt = libvirt_connection.library()
        if self._ended.done():
            return
        try:
            await asyncio.to_thread(self._domain.destroy)
        except libvirt.libvirtError as error:
            if error.get_error_code() not in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                raise Failure(f"libvirt does not end {self._name}: {error}", where=self._place.uri) from error

    def abandon(self) -> None:
        """libvirt does not answer any more: end the process, if it is here."""
        if not self._ended.done():
            self._ended.set_result(f"the connection to {self._place.uri} broke")
        if self._process is not None:
            self._process.send(signal.SIGKILL)

    async def press_power_button(self) -> None:
        """The board's button."""
        button = libvirt_connection.library().VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN
        await self._call("switch off", self._domain.shutdownFlags, button)

    async def pause(self) -> None:
        """Stop its processor."""
        await self._call("pause", self._domain.suspend)

    async def resume(self) -> None:
        """Let its processor go on."""
        await self._call("resume", self._domain.resume)

    async def is_stalled(self) -> bool:
        """What QEMU has reported to libvirt about it."""
        libvirt = libvirt_connection.library()
        found = await self._call("read the state of", self._domain.state)
        return tuple(found) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)

    async def save(self, folder: Path) -> None:
        """Not with this driver. Raises :class:`Failure`."""
        raise _no_memory(folder)

    async def reset(self) -> None:
        """The board's reset button, by the monitor."""
        await self.monitor("system_reset")

    async def monitor(self, command: str, **arguments: object) -> object:
        """QEMU's monitor, through libvirt."""
        import libvirt_qemu

        line = json.dumps({"execute": command, "arguments": arguments})
        said = await self._call(f"ask QEMU {command} for", libvirt_qemu.qemuMonitorCommand, self._domain, line, 0)
        return qmp.result(decode(said.encode()) or {}, command)

    async def _call(self, what: str, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.to_thread(function, *arguments)
        except libvirt_connection.library().libvirtError as error:
            raise Failure(f"libvirt does not {what} {self._name}: {error}", where=self._place.uri) from error


class Host:
    """One connection and what runs behind it. All of it belongs to one asyncio loop."""

    def __init__(self, place: Place, qemu: Path, remote: Remote | None) -> None:
        """``qemu`` is this computer's program; ``remote`` the way to a place that is another one."""
        self.place = place
        self._qemu = qemu
        self._remote = remote
        self._emulator = Path()
        self._connection: Any = None
        self._guard: asyncio.subprocess.Process | None = None
        self._ended: dict[str, asyncio.Future[str]] = {}
        self._vms: dict[str, LibvirtVm] = {}
        self._watch: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    async def start(self, machine: Machine, name: str, log: Path) -> LibvirtVm:
        """See :meth:`cluster.machines.driver.Driver.start`; the domain is called ``name``."""
        await self._open()
        libvirt = libvirt_connection.library()
        there = machine if self._remote is None else await self._remote.bring(machine)
        identity = str(uuid.uuid4())
        text = domain_xml(there, name, identity, self._emulator)
        log.write_text(text)
        # Without a daemon libvirt cannot; there it is the guard's task.
        flags = 0 if self._guard is not None else libvirt.VIR_DOMAIN_START_AUTODESTROY
        self._ended[identity] = ended = self._loop.create_future()
        try:
            await asyncio.to_thread(end_domains, self._connection, name.__eq__)
            domain = await asyncio.to_thread(self._connection.createXML, text, flags)
        except libvirt.libvirtError as error:
            del self._ended[identity]
            with log.open("a") as file:
                file.write(f"\n{error}\n")
            raise Failure(f"QEMU did not start node-{machine.number}: {str(error).strip()}", where=str(log)) from error
        vm = self._vms[name] = LibvirtVm(self.place, domain, ended)
        if self._remote is not None:
            try:
                usage = await vm.monitor("human-monitor-command", **{"command-line": "info usernet"})
                await self._remote.attach(machine, str(usage))
            except BaseException:
                await vm.kill()
                raise
        return vm

    async def _open(self) -> None:
        async with self._opening:
            if self._connection is not None:
                return
            if self._remote is not None:
                await self._remote.open()
                self._watch = asyncio.create_task(self._watch_way(self._remote))
                text = libvirt_connection.emulator_text(str(self._remote.qemu))
                self._emulator = await self._remote.install_emulator(text)
            else:
                self._emulator = libvirt_connection.emulator(self._qemu)
            self._connection = await asyncio.to_thread(self._connect)
            if self.place.root is not None:
                self._guard = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(REAPER), str(self.place.root / "run" / "qemu")),
                    stdin=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )

    def _connect(self) -> Any:
        libvirt = libvirt_connection.library()
        connection = libvirt_connection.connect(self.place)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None)
        if self.place.root is None:  # otherwise there is no daemon to lose
            connection.registerCloseCallback(self._on_close, None)
            connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        return connection

    def _on_lifecycle(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: object) -> None:
        libvirt = libvirt_connection.library()
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self._loop.call_soon_threadsafe(self._stopped, domain.UUIDString(), detail)
        elif event in (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_RESUMED):
            self._loop.call_soon_threadsafe(self._changed, domain.name())

    def _changed(self, name: str) -> None:
        if (vm := self._vms.get(name)) is not None:
            vm.changed.set()

    def _stopped(self, identity: str, detail: int) -> None:
        ended = self._ended.pop(identity, None)
        if ended is not None and not ended.done():
            ended.set_result(how_it_ended(detail))

    async def _watch_way(self, remote: Remote) -> None:
        """Without the way to it, a computer is lost, though libvirt may still reach it: its nodes have no cables."""
        await remote.wait()
        names = list(self._vms)
        if (connection := self._lost()) is not None:
            await asyncio.to_thread(self._hang_up, connection, names)

    def _on_close(self, _connection: Any, _reason: int, _opaque: object) -> None:
        self._loop.call_soon_threadsafe(self._lost)

    def _lost(self) -> Any:
        """All that ran there is over for us; returns the former connection."""
        connection, self._connection = self._connection, None
        for vm in self._vms.values():
            vm.abandon()
        self._vms.clear()
        return connection

    async def close(self) -> None:
        """Hang up; a daemon ends what is left of ours."""
        if self._watch is not None:
            self._watch.cancel()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await asyncio.to_thread(self._hang_up, connection)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            await asyncio.wait_for(self._guard.wait(), CLOSE_DEADLINE_S)
            self._guard = None
        if self._remote is not None:
            await self._remote.close()

    def _hang_up(self, connection: Any, names: Sequence[str] = ()) -> None:
        """Close ``connection``, after ending the domains ``names``.

        While a reference to one of them exists, libvirt does not close it.
        """
        with suppress(libvirt_connection.library().libvirtError):  # it was gone already
            end_domains(connection, names.__contains__)
            if self.place.root is None:
                connection.unregisterCloseCallback()
            connection.close()


class LibvirtDriver:
    """Deals the nodes to ``places`` in turn; see :class:`cluster.machines.driver.Driver`."""

    def __init__(self, description: Description, layout: Layout) -> None:
        """Raises :class:`Failure` for a URI that is none."""
        self._description, self._layout = description, layout
        self._places = [connection_uri.parse(uri) for uri in description.connect]
        self._hosts: dict[int, Host] = {}

    async def start(self, machine: Machine, log: Path) -> LibvirtVm:
        """A new domain for ``machine``."""
        if machine.incoming is not None:
            raise _no_memory(machine.incoming)
        host = self._host((machine.number - 1) % len(self._places))
        return await host.start(machine, domain_name(self._layout, machine.number), log)

    async def close(self) -> None:
        """Hang up everywhere."""
        await asyncio.gather(*(host.close() for host in self._hosts.values()))

    def refusal(self, _: type[Request[object]]) -> None:
        """None: a virtual machine can do all, and libvirt's own errors name what it lacks."""

    def _host(self, index: int) -> Host:
        if index not in self._hosts:
            place = self._places[index]
            remote = None if place.is_local else remote_of(self._description, self._layout, index)
            self._hosts[index] = Host(place, Path(self._description.qemu), remote)
        return self._hosts[index]


def remote_of(description: Description, layout: Layout, index: int) -> Remote:
    """The way to the ``index``-th place of a cluster."""
    here = hashlib.sha256(f"{platform.node()}:{layout.state}".encode()).hexdigest()[:8]
    return Remote(
        connection_uri.parse(description.connect[index]),
        f"{description.name}-{here}",
        layout.runtime,
        index,
        discovery_port=description.discovery_port,
        architecture=description.architecture,
    )


def forget(description: Description, layout: Layout) -> None:
    """Remove what a cluster that has ended left where its nodes ran.

    Raises :class:`Failure` if a place cannot be reached.
    """
    ours = domain_name(layout, "")
    for index, uri in enumerate(description.connect):
        place = connection_uri.parse(uri)
        if place.root is not None and (place.root / libvirt_connection.MARK).exists():
            shutil.rmtree(place.root)
        if not place.is_local:
            end_domains(libvirt_connection.connect(place), lambda name: name.startswith(ours))
            asyncio.run(_forget_remote(remote_of(description, layout, index)))


async def _forget_remote(remote: Remote) -> None:
    await remote.open()
    try:
        await remote.remove()
    finally:
        await remote.close()


def domain_name(layout: Layout, number: object) -> str:
    """A node's name among all domains of this user.

    It has the name of the folder of sockets, which no other cluster has.
    """
    return f"flotilla-{layout.runtime.name}-node-{number}"


def end_domains(connection: Any, is_meant: Callable[[str], bool]) -> None:
    """End domains that outlived their supervisor, by name: libvirt has not noticed yet that it, or QEMU, is gone."""
    libvirt = libvirt_connection.library()
    for domain in connection.listAllDomains():
        if is_meant(domain.name()):
            with suppress(libvirt.libvirtError):  # noticed just now
                domain.destroy()


def how_it_ended(detail: int) -> str:
    """A reason of libvirt's in the form of :meth:`cluster.machines.driver.Vm.wait`."""
    libvirt = libvirt_connection.library()
    words = {
        libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "exit code 0",
        libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "signal 9",
        libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "crashed",
        libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "its QEMU died",
    }
    return words.get(detail, f"libvirt's reason {detail}")


def _no_memory(folder: Path) -> Failure:
    return Failure("snapshots of memory need the qemu driver", where=str(folder), hint="cluster up N --driver qemu")

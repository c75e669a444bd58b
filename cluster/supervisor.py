"""The one background process of a cluster: ``python -m cluster.supervisor FOLDER``.

It owns the switch, the discovery service and the nodes' QEMU processes, and does what :mod:`cluster.control` asks. Whatever ends
it (a request, SIGTERM, ``kill -9``) ends all of them: the QEMUs are on a leash that the kernel holds (:mod:`cluster.leash`).
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
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import machine, qmp
from cluster.control import LINE_BYTES_MAX
from cluster.description import Description
from cluster.layout import Layout, make_private
from cluster.process import Process
from cluster.switch import Switch
from discovery.server import DiscoveryServer
from terminal import Failure

LEASH = Path(__file__).with_name("leash.py")
MONITOR_DEADLINE_S = 30.0
"""From starting QEMU to its monitor answering: its own start, files read and ports bound, on a busy computer."""
POWERDOWN_DEADLINE_S = 15.0
"""For a node to switch itself off, with hardware; times the accelerator's factor."""


@dataclass(slots=True)
class Guest:
    """A node's QEMU as the supervisor knows it. ``ended`` says how the last one ended, None before the first start."""

    number: int
    process: asyncio.subprocess.Process | None = None
    paused: bool = False
    started_at: float | None = None
    ended: str | None = None

    def status(self) -> dict[str, Any]:
        """What ``cluster status`` shows."""
        state = "off" if self.process is None else "paused" if self.paused else "running"
        pid = None if self.process is None else self.process.pid
        return {"node": self.number, "state": state, "pid": pid, "started_at": self.started_at, "ended": self.ended}


class Supervisor:
    """One cluster at work. :meth:`run` returns when it was told to end, with everything ended."""

    def __init__(self, state: Path) -> None:
        """``state`` is the cluster's folder. Raises :class:`Failure` or OSError if it holds no cluster."""
        self.description = Description.load(state / "cluster.json")
        self.layout = Layout(state, Path(self.description.runtime))
        self.guests = {number: Guest(number) for number in self.description.numbers}
        self.switch = Switch({number: self.layout.net_socket(number) for number in self.description.numbers})
        self.discovery = DiscoveryServer(
            "127.0.0.1",
            self.description.discovery_port,
            self.layout.discovery,
            public_url=self.description.discovery_url("").rstrip("/"),
            log=say,
        )
        self._end = asyncio.Event()
        self._watchers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until told to end. Raises OSError if a socket or port cannot be had."""
        make_private(self.layout.runtime)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._end.set)
        self.layout.control.unlink(missing_ok=True)
        self.discovery.start()
        try:
            await self.switch.start()
            server = await asyncio.start_unix_server(self._serve, str(self.layout.control), limit=LINE_BYTES_MAX)
            self._record()
            say(f"cluster {self.description.name} supervised")
            await self._end.wait()
            server.close()
        finally:
            for guest in self.guests.values():
                await self.kill(guest)
            await self.switch.stop()
            self.discovery.stop()
            for path in (self.layout.control, self.layout.supervisor, *map(self.layout.qmp_socket, self.guests)):
                path.unlink(missing_ok=True)
            say("ended")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = json.loads(await reader.readline())
            try:
                answer = {"result": await self.do(request)}
            except Failure as failure:
                answer = {"failure": failure.message, "where": failure.where, "hint": failure.hint}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError) as error:
            say(f"a request was not understood or its asker went away: {error}")
        finally:
            writer.close()

    async def do(self, request: dict[str, Any]) -> Any:
        """Carry out one request, ``{"do": VERB, ...}``. Raises :class:`Failure`."""
        verbs: dict[str, Callable[[Guest], Awaitable[None]]] = {
            "start": self.start,
            "kill": self.kill,
            "stop": self.stop,
            "pause": self.pause,
            "resume": self.resume,
        }
        match request:
            case {"do": "status"}:
                return self.status()
            case {"do": "token", "size": int(size)}:
                return self.discovery.new_token(size)
            case {"do": "shutdown"}:
                self._end.set()
                return None
            case {"do": str(verb), "node": int(number)} if verb in verbs and number in self.guests:
                say(f"{verb} node-{number}")
                return await verbs[verb](self.guests[number])
            case _:
                raise Failure(f"the supervisor knows no such request: {request}")

    def status(self) -> dict[str, Any]:
        """The state of nodes and network."""
        counters = {port: dataclasses.asdict(counter) for port, counter in self.switch.counters.items()}
        return {"pid": os.getpid(), "nodes": [guest.status() for guest in self.guests.values()], "network": counters}

    async def start(self, guest: Guest) -> None:
        """Switch a node on; returns when its QEMU runs (the node boots on). Raises :class:`Failure`."""
        if guest.process is not None:
            raise Failure(f"node-{guest.number} runs already")
        log_path = self.layout.node(guest.number) / "qemu.log"
        self.layout.qmp_socket(guest.number).unlink(missing_ok=True)
        try:
            command = machine.argv(Path(self.description.qemu), self.description.machine(guest.number, self.layout))
            with log_path.open("wb") as log:
                guest.process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        except OSError as error:
            raise Failure(f"node-{guest.number} cannot be started: {error}") from error
        guest.started_at, guest.paused, guest.ended = time.time(), False, None
        watcher = asyncio.create_task(self._watch(guest, guest.process))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        self._record()
        deadline = time.monotonic() + MONITOR_DEADLINE_S
        while not await self._answers(guest):
            if guest.process is None:
                said = log_path.read_text(errors="replace").strip() or guest.ended
                raise Failure(f"QEMU did not start node-{guest.number}: {said}", where=str(log_path))
            if time.monotonic() > deadline:
                await self.kill(guest)
                raise Failure(
                    f"QEMU of node-{guest.number} did not come up within {MONITOR_DEADLINE_S:.0f} s",
                    where=str(log_path),
                )
            await asyncio.sleep(0.05)

    async def _answers(self, guest: Guest) -> bool:
        try:
            await qmp.execute(self.layout.qmp_socket(guest.number), "query-status")
        except Failure:
            return False
        return guest.process is not None

    async def _watch(self, guest: Guest, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        guest.process, guest.paused = None, False
        guest.ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        say(f"node-{guest.number} is off: {guest.ended}")
        self._record()

    async def kill(self, guest: Guest) -> None:
        """Pull a node's plug; nothing happens if it is off."""
        if (process := guest.process) is not None:
            try:
                process.kill()
            except ProcessLookupError:
                return
            await self._off(guest, 10)

    async def stop(self, guest: Guest) -> None:
        """Press a node's power button, wait, and pull its plug if it does not switch itself off."""
        if guest.process is None:
            return
        if guest.paused:
            await self.resume(guest)
        patience_s = POWERDOWN_DEADLINE_S * self.description.accelerator.factor
        try:
            await qmp.execute(self.layout.qmp_socket(guest.number), "system_powerdown")
        except Failure as failure:
            say(f"node-{guest.number}'s power button: {failure}")
            patience_s = 1.0  # it may have been switching itself off just then
        if not await self._off(guest, patience_s):
            say(f"node-{guest.number} did not switch itself off")
            await self.kill(guest)

    async def _off(self, guest: Guest, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while guest.process is not None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.02)
        return True

    async def pause(self, guest: Guest) -> None:
        """Stop a node's time. Raises :class:`Failure` if it is off."""
        await self._monitor(guest, "stop")
        guest.paused = True

    async def resume(self, guest: Guest) -> None:
        """Let a paused node go on. Raises :class:`Failure` if it is off."""
        await self._monitor(guest, "cont")
        guest.paused = False

    async def _monitor(self, guest: Guest, command: str) -> None:
        if guest.process is None:
            raise Failure(f"node-{guest.number} is off", hint=f"cluster start node-{guest.number}")
        await qmp.execute(self.layout.qmp_socket(guest.number), command)

    def _record(self) -> None:
        """Write down which processes there are, so that the next command can clean up after a supervisor that was killed."""
        pids = [os.getpid(), *(guest.process.pid for guest in self.guests.values() if guest.process is not None)]
        processes = [dataclasses.asdict(process) for pid in pids if (process := Process.of(pid)) is not None]
        part = self.layout.supervisor.with_suffix(".part")
        part.write_text(json.dumps(processes) + "\n")
        part.replace(self.layout.supervisor)


def say(text: str) -> None:
    """One line for the log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


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

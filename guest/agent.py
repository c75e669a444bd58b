"""The agent: the one process that has the node's port open. Messages in, messages out; docs/guest.md has them all.

The host's end is a socket that comes and goes, is reset with the node, or is another one than before since the node's
memory was restored from a snapshot; the port itself shows little of that. So the host begins with a ``reset``, and
until then all messages are ignored; a reset discards all that an earlier host has requested, and its answer, ``hello``,
carries its nonce.
"""

from __future__ import annotations

import os
import select
import sys
import time

from guest import clock
from guest.command import Command
from guest.lines import Lines, Message, encode
from guest.loop import Loop
from guest.watch import Watch

PROTOCOL = 1
TASKS_MAX = 64
"""Commands and watches at once."""
PIECE_BYTES = 1 << 16
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Agent:
    """Serves the port ``path``: a virtio port, or, in tests, a terminal."""

    def __init__(self, path: str) -> None:
        """Raises OSError if the port cannot be opened; a virtio port has one opener at a time."""
        self._port = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        if os.isatty(self._port):
            import termios
            import tty

            tty.setraw(self._port, termios.TCSANOW)
        self._loop = Loop()
        self._lines = Lines()
        self._unsent = bytearray()
        self._listening = False
        self._tasks: dict[int, Command | Watch] = {}
        # Edges only: an end without a host is in the state "hung up" all the time, and would report that all the time.
        self._loop.add(self._port, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET, lambda _: self._exchange())

    def run(self) -> None:
        """Serve until the port is gone. Raises OSError then."""
        self._hello(None)
        while True:
            now = time.monotonic()
            due = [task.tick(now) for task in list(self._tasks.values()) if isinstance(task, Watch)]
            self._forget_ended()
            self._flush()
            self._loop.once(max(min(due) - time.monotonic(), 0) if due else None)
            self._forget_ended()

    def close(self) -> None:
        """End every command, and close the port."""
        self._drop_all()
        self._loop.close()
        os.close(self._port)

    def _exchange(self) -> None:
        self._flush()
        while True:
            try:
                data = os.read(self._port, PIECE_BYTES)
            except BlockingIOError:
                return
            if not data:  # no host is at the other end; when one connects, there is an edge
                self._silence()
                return
            for message in self._lines.feed(data):
                self._obey(message)
            self._flush()

    def _obey(self, message: Message) -> None:
        if message.get("do") == "reset":
            self._silence()
            self._listening = True
            self._hello(message.get("nonce"))
        elif self._listening:
            number = message.get("id")
            if not isinstance(number, int):
                return
            try:
                self._answer(number, message)
            except OSError as error:
                self._refuse(number, error.strerror or str(error))
            except KeyError as error:
                self._refuse(number, f"the request lacks {error}")
            except (TypeError, ValueError, OverflowError) as error:
                self._refuse(number, f"the request makes no sense: {error}")

    def _answer(self, number: int, message: Message) -> None:
        do, task = message["do"], self._tasks.get(number)
        if do in ("run", "watch"):
            if task is not None:
                raise ValueError("this number is taken")
            if len(self._tasks) >= TASKS_MAX:
                raise ValueError(f"{TASKS_MAX} commands run already")
            kind = Command if do == "run" else Watch
            self._tasks[number] = kind(number, message, self._loop, self._send)
        elif do == "clock":
            before, after = clock.step(float(message["epoch"]), rtc=bool(message.get("rtc")))
            self._send({"id": number, "before": before, "after": after, "exit": 0})
        elif do == "drop":
            if task is not None:
                del self._tasks[number]
                task.drop()
        elif do == "ping":
            self._send({"id": number, "exit": 0})
        elif task is not None:  # else it has ended meanwhile
            task.receive(message)

    def _refuse(self, number: int, why: str) -> None:
        if (task := self._tasks.pop(number, None)) is not None:
            task.drop()
        self._send({"id": number, "error": why})

    def _forget_ended(self) -> None:
        for number in [number for number, task in self._tasks.items() if task.is_over]:
            del self._tasks[number]

    def _silence(self) -> None:
        """The host that sent the requests is gone, and needs no answers."""
        self._drop_all()
        self._unsent.clear()
        self._listening = False

    def _drop_all(self) -> None:
        for task in self._tasks.values():
            task.drop()
        self._tasks.clear()

    def _hello(self, nonce: object) -> None:
        with open(BOOT_ID, encoding="ascii") as file:
            boot = file.read().strip()
        # The text that is already on the line was cut off.
        self._unsent += b"\n"
        self._send({"hello": PROTOCOL, "nonce": nonce, "boot": boot, "uptime": time.clock_gettime(time.CLOCK_BOOTTIME)})

    def _send(self, message: Message) -> None:
        self._unsent += encode(message)

    def _flush(self) -> None:
        while self._unsent:
            try:
                count = os.write(self._port, self._unsent)
            except BlockingIOError:
                return  # there is an edge when it takes more
            del self._unsent[:count]


def main() -> int:
    """Serve the port that is the one argument; ends when it is gone, and is started again by its unit."""
    if len(sys.argv) != 2:
        print("usage: flotilla-shell PORT", file=sys.stderr)
        return 2
    try:
        agent = Agent(sys.argv[1])
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr)
        return 1
    try:
        agent.run()
    except OSError as error:
        print(f"the port is gone: {error.strerror}", file=sys.stderr)
        return 1
    finally:
        agent.close()
    return 0

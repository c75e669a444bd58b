"""`cluster console` and `cluster logs`: at a terminal and without, with the real agent behind a real socket in place of
a machine.
"""

import asyncio
import io
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli.console import merged
from cluster.client import console, root_shell
from cluster.daemon import shell_session
from cluster.daemon.requests import Handlers
from cluster.machines.shell import Shell
from cluster.model.protocol import RootShell, Watch
from terminal import Failure
from tests.eventually import ended, eventually
from tests.guest.hypervisor import Hypervisor, hypervisor

ROOT = Path(__file__).parents[2]
SOON_S = 120.0


class Desk:
    """A supervisor's socket, as far as root shells go, with one node behind it; it works in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.control = folder / "control"
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._work(),))
        self.guest: Hypervisor
        self.shell: Shell

    async def _work(self) -> None:
        self._end = asyncio.Event()
        self._served: list[asyncio.Task[object]] = []
        async with hypervisor(self._folder) as self.guest:
            self.shell = Shell(self.guest.socket, "node-1", lambda _: None)
            await self.shell.open()
            self.handlers = Handlers(lambda _: None, "here", "")
            self.handlers.converse(RootShell, lambda r, *line: shell_session.run(self.shell, r, *line))
            self.handlers.converse(Watch, lambda r, *line: shell_session.watch(self.shell, r, *line))
            server = await asyncio.start_unix_server(self._serve, str(self.control))
            self._ready.set()
            await self._end.wait()
            server.close()
            await self.shell.close()
            await asyncio.gather(*self._served)  # they notice

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._served.append(task)
        try:
            await self.handlers.serve(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    def __enter__(self) -> "Desk":
        self._thread.start()
        assert self._ready.wait(SOON_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    def reset(self) -> None:
        """The node is reset."""
        asyncio.run_coroutine_threadsafe(self.guest.boot(), self._loop).result(SOON_S)


@pytest.fixture
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="fd-") as folder, Desk(Path(folder)) as made:
        yield made


class Person:
    """At a terminal of 30 rows and 90 columns, with a console."""

    def __init__(self, desk: Desk, command: str | None = None) -> None:
        self.seen = b""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            ioctl(0, TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
            code = (
                f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from cluster.client.console import attach;"
                f"sys.exit(attach(Path({str(desk.control)!r}), 1, {command!r}))"
            )
            os.execve(sys.executable, [sys.executable, "-c", code], {**os.environ, "TERM": "vt100"})

    def types(self, text: bytes) -> None:
        os.write(self._terminal, text)

    def sees(self, text: bytes) -> bytes:
        """Wait for ``text``; returns what came before."""
        end = time.monotonic() + SOON_S
        while text not in self.seen:
            assert time.monotonic() < end, self.seen
            try:
                self.seen += os.read(self._terminal, 4096)
            except OSError:
                raise AssertionError(f"it ended without {text!r}: {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before

    def resizes(self, rows: int, columns: int) -> None:
        ioctl(self._terminal, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)

    def ends(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(status)


def test_a_terminal_there_is_the_terminal_here(desk: Desk) -> None:
    person = Person(desk, "bash --norc -i")
    person.sees(b"$ " if os.getuid() else b"# ")
    person.types(b"PS1='ask''ing> '; echo $TERM; stty size\n")
    person.sees(b"vt100\r\n30 90\r\n")
    person.sees(b"asking> ")
    person.resizes(50, 132)
    person.types(b"stty size\n")
    person.sees(b"50 132\r\n")
    person.sees(b"asking> ")
    person.types(b"sh -c 'echo b''egun; exec sleep 1000'\n")
    person.sees(b"begun")
    person.types(b"\x03")
    person.sees(b"asking> ")
    person.types(b"exit 3\n")
    assert person.ends() == 3


def test_ctrl_bracket_leaves_and_ends_what_was_left(desk: Desk, tmp_path: Path) -> None:
    person = Person(desk, f"echo $$ > {tmp_path}/pid; echo there; exec sleep 1000")
    person.sees(b"there")
    person.types(b"x\x1dy")
    assert person.ends() == 0
    assert ended(int((tmp_path / "pid").read_text()))


def test_a_reset_node_ends_the_session_with_a_word(desk: Desk) -> None:
    person = Person(desk, "echo there; sleep 1000")
    person.sees(b"there")
    desk.reset()
    person.sees(b"the node was reset, or its root shell restarted")
    assert person.ends() == 1


def test_without_a_terminal_streams_and_code_are_the_commands(desk: Desk, tmp_path: Path) -> None:
    out, err = io.BytesIO(), io.BytesIO()
    assert console.run(desk.control, 1, "echo out; echo err >&2; exit 5", out, err, None) == 5
    assert (out.getvalue(), err.getvalue()) == (b"out\n", b"err\n")
    out = io.BytesIO()
    script = tmp_path / "commands"
    script.write_bytes(b"echo one\nfalse\necho two $?\nexit 7\n")
    with script.open("rb", buffering=0) as source:
        assert console.run(desk.control, 1, None, out, err, source) == 7
    assert out.getvalue().endswith(b"one\ntwo 1\n")


def test_what_a_test_asks_for(desk: Desk, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(3_000_000))
    assert root_shell.run(desk.control, 1, "exit 9", 20).rc == 9
    with large.open("rb") as source:
        assert root_shell.run(desk.control, 1, "wc -c; cat >&2 /dev/null", 30, source).out == "3000000\n"
    begin = time.monotonic()
    with pytest.raises(Failure, match=r"'echo s; sleep 60' did not end within 1 s; the last it said: s"):
        root_shell.run(desk.control, 1, "echo s; sleep 60", 1.0)
    assert time.monotonic() - begin < 30
    with pytest.raises(Failure, match="the command is longer than"):
        root_shell.run(desk.control, 1, "x" * 100_000, 5)


def test_who_hangs_up_ends_the_command(desk: Desk, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with root_shell.Line(desk.control, RootShell(1, f"echo $$ > {pid}; sleep 1000")):
        eventually(lambda: pid.exists() and pid.read_text().endswith("\n"))
    assert ended(int(pid.read_text()))


def test_a_watch_outlives_a_reset_and_begins_again(desk: Desk, tmp_path: Path) -> None:
    request = Watch(1, ({"exists": "/"}, {"exists": str(tmp_path / "there")}), (), 0.05)
    with root_shell.Line(desk.control, request, SOON_S) as line:
        messages = line.messages()
        assert set(next(messages)) == {"boot", "uptime"}
        assert next(messages) == {"held": 0}
        desk.reset()
        assert "reset" in next(messages)["lost"]
        assert set(next(messages)) == {"boot", "uptime"}
        assert next(messages) == {"held": 0}
        (tmp_path / "there").touch()
        assert list(messages) == [{"held": 1}, {"exit": 0}]


def test_a_console_that_is_piped_on_may_be_cut_off(desk: Desk) -> None:
    """``cluster console node-1 yes | head -1``"""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from cluster.client.console import run;"
        f"run(Path({str(desk.control)!r}), 1, 'yes', sys.stdout.buffer, sys.stderr.buffer, None)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.stderr
        assert b"BrokenPipeError" in process.stderr.read()  # which terminal.command understands


def test_journals_are_merged_by_time_and_lines_stay_together() -> None:
    one = (
        "2026-11-23T14:00:01.000000+0000 node-1 a: first\n"
        "2026-11-23T14:00:03.000000+0000 node-1 a: third\n"
        "    and more of it\n"
    )
    two = "2026-11-23T14:00:02.000000+0000 node-2 b: second\n-- No entries --\n"
    assert [(name, line.split(": ")[-1]) for name, line in merged([("node-1", one), ("node-2", two)])] == [
        ("node-1", "first"),
        ("node-2", "second"),
        ("node-2", "-- No entries --"),
        ("node-1", "third"),
        ("node-1", "    and more of it"),
    ]


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.text("2026-11T:\nx ", max_size=80))))
def test_merging_loses_no_line(journals: list[tuple[str, str]]) -> None:
    expected = sorted((name, line) for name, text in journals for line in text.splitlines())
    assert sorted(merged(journals)) == expected

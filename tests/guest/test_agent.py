"""The real agent, as a process of its own on a terminal in place of its port, and the host's half of it, over a real
socket.
"""

import asyncio
import hashlib
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.machines.shell import Lost, Session, Shell, run_request
from guest.command import COST_BYTES, WINDOW_BYTES
from guest.lines import encode
from terminal import Failure
from tests.eventually import ended, eventually_async
from tests.guest.hypervisor import Hypervisor, hypervisor

SOON_S = 120.0
World = Callable[[Callable[[Shell, Hypervisor], Awaitable[None]]], None]


@pytest.fixture
def world(short: Path) -> World:
    """Runs a coroutine function with a shell that is ready and its guest; 60 s are more than any of these needs."""

    def run(scene: Callable[[Shell, Hypervisor], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(60), hypervisor(short) as guest:
                shell = Shell(guest.socket, "node-1", lambda _: None)
                await shell.open()
                try:
                    await shell.ready(SOON_S)
                    await scene(shell, guest)
                finally:
                    await shell.close()

        asyncio.run(main())

    return run


async def collected(shell: Shell, request: dict[str, Any]) -> list[dict[str, Any]]:
    async with shell.session(request) as session:
        return [message async for message in session.messages()]


def test_a_commands_streams_and_code_are_its_own(world: World) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        result = await shell.run("echo out; echo err >&2; exit 3", timeout=SOON_S)
        assert (result.rc, result.out, result.err) == (3, "out\n", "err\n")
        assert (await shell.run("kill -TERM $$", timeout=SOON_S)).rc == 128 + 15
        assert (await shell.run("cat", timeout=SOON_S)).out == "", "without input it is at its end"
        assert (await shell.run("echo $HOME $PATH", timeout=SOON_S)).out.startswith("/root /usr/local/sbin:")

    world(scene)


@pytest.mark.slow
def test_a_stuck_command_blocks_nothing_and_is_killed_with_its_children(world: World, tmp_path: Path) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        pids = tmp_path / "pids"
        stuck = asyncio.create_task(
            shell.run(f"echo said; sleep 60 & echo $$ $! > {pids}; wait; echo never", timeout=4.0)
        )
        await eventually_async(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        answers = await asyncio.gather(*(shell.run(f"echo {number}", timeout=SOON_S) for number in range(20)))
        assert [answer.out for answer in answers] == [f"{number}\n" for number in range(20)]
        assert not stuck.done()
        with pytest.raises(Failure, match=r"did not end within 4 s; the last it said: said"):
            await stuck
        assert await asyncio.to_thread(ended, *map(int, pids.read_text().split()))

    world(scene)


def test_megabytes_go_both_ways_and_others_get_their_turn(world: World) -> None:
    async def scene(shell: Shell, guest: Hypervisor) -> None:
        data = bytes(range(256)) * 8192
        large = asyncio.create_task(shell.run("cat; echo done >&2", timeout=30, stdin=data))
        await eventually_async(lambda: guest.carried > len(data) // 4)
        begin = time.monotonic()
        assert (await shell.run("echo between", timeout=SOON_S)).out == "between\n"
        assert time.monotonic() - begin < 15
        result = await large
        assert (result.rc, result.err, len(result.out.encode("latin1", "replace"))) == (0, "done\n", len(result.out))
        summed = await shell.run("sha256sum", timeout=30, stdin=data)
        assert summed.out.split()[0] == hashlib.sha256(data).hexdigest()

    world(scene)


async def said(session: Session) -> list[dict[str, Any]]:
    """All that the guest says about a command that was started before."""
    return [message async for message in session.messages()]


def used(session: Session) -> int:
    """How much of the guest's window is full of output that waits to be taken."""
    queue = session._messages
    waiting = [queue.get_nowait() for _ in range(queue.qsize())]
    for message in waiting:
        queue.put_nowait(message)
    return sum(len(b64decode(message["out"])) + COST_BYTES for message in waiting if message is not None)


def test_a_host_that_does_not_read_on_holds_the_command_not_the_memory(world: World) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        async with shell.session(run_request("yes", has_input=False)) as session:
            await eventually_async(lambda: used(session) >= WINDOW_BYTES)
            waiting = session._messages.qsize()
            await asyncio.sleep(0.5)  # in which it could write many times that
            assert session._messages.qsize() == waiting, "it goes on writing into a window that is full"
            assert (await shell.run("echo others", timeout=SOON_S)).out == "others\n"
            async for message in session.messages():
                waiting -= 1
                if waiting < -10:  # and goes on when there is room again
                    assert "out" in message
                    return

    world(scene)


def test_a_command_ends_when_its_process_does_whoever_holds_the_pipe(world: World) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        begin = time.monotonic()
        result = await shell.run("(sleep 30; echo late) & head -c 200000 /dev/zero | tr '\\0' x", timeout=SOON_S)
        assert time.monotonic() - begin < 15
        assert len(result.out) == 200_000
        result = await shell.run("yes > /dev/stderr & head -c 300000 /dev/zero; kill -0 $!; kill $!", timeout=SOON_S)
        assert len(result.out) == 300_000

    world(scene)


def test_input_that_no_process_reads_is_no_trouble(world: World) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        assert (await shell.run("true", timeout=SOON_S, stdin=bytes(1 << 20))).rc == 0
        assert (await shell.run("head -c 3", timeout=SOON_S, stdin=b"abcdef" * 100_000)).out == "abc"
        assert (await shell.run("exec <&-; sleep 0.3; echo on", timeout=SOON_S, stdin=bytes(1 << 18))).out == "on\n"

    world(scene)


def test_a_terminal_has_a_size_and_ends_its_jobs(world: World) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        tty = {"size": [33, 111], "term": "xterm"}
        said = bytearray()

        async with shell.session(run_request("bash --norc -i", has_input=True, tty=tty)) as session:
            messages = session.messages()

            async def until(text: bytes) -> None:
                while text not in said:
                    message = await anext(messages)
                    said.extend(b64decode(message.get("out", "")))
                del said[: said.index(text) + len(text)]

            # A shell discards what is typed before it asks.
            await session.type(b"PS1='ask''ing> '; stty size; echo $TERM; tty\n")
            await until(b"33 111\r\nxterm\r\n/dev/pts/")
            await until(b"asking> ")
            session.send("size", size=[40, 100])
            await session.type(b"stty size\n")
            await until(b"40 100")
            await until(b"asking> ")
            await session.type(b"sh -c 'echo a; exec sleep 100'\n")  # when it says that, the terminal is its own
            await until(b"\ra\r\n")
            await session.type(b"\x03")
            await until(b"asking> ")
            await session.type(b"echo $((6 * 7))\n")
            await until(b"42")
            await until(b"asking> ")
            await session.type(b"exit 5\n")
            codes = [message["exit"] async for message in messages if "exit" in message]
            assert codes == [5]

    world(scene)


def test_the_end_of_input_ends_a_shell_on_a_terminal(world: World) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        tty = {"size": [24, 80], "term": "dumb"}
        async with shell.session(run_request("cat", has_input=True, tty=tty)) as session:
            await session.type(b"line\n")
            session.send("end")
            assert [message async for message in session.messages()][-1] == {"id": session.number, "exit": 0}

    world(scene)


def test_a_new_host_kills_what_the_former_left_and_drops_its_halves(world: World, tmp_path: Path) -> None:
    """The supervisor was killed in the middle of a line; or memory was restored: the other end is another one than
    before.
    """

    async def scene(shell: Shell, guest: Hypervisor) -> None:
        pid = tmp_path / "pid"
        lost = asyncio.create_task(shell.run(f"echo $$ > {pid}; sleep 60", timeout=30))
        await eventually_async(lambda: pid.exists() and pid.read_text().endswith("\n"))
        await shell.close()
        with pytest.raises(Lost, match="switched off"):
            await lost
        guest.say(b'{"do":"run","id":1,"argv":["touch","/nowhere')
        other = Shell(guest.socket, "node-1", lambda _: None)
        await other.open()
        try:
            await other.ready(SOON_S)
            assert (await other.run("echo mine", timeout=SOON_S)).out == "mine\n"
            assert await asyncio.to_thread(ended, int(pid.read_text()))
        finally:
            await other.close()

    world(scene)


def test_a_reset_is_reported_and_the_node_served_again(world: World, tmp_path: Path) -> None:
    async def scene(shell: Shell, guest: Hypervisor) -> None:
        lost = asyncio.create_task(shell.run(f"touch {tmp_path}/begun; sleep 60", timeout=30))
        await eventually_async((tmp_path / "begun").exists)
        await guest.boot()
        with pytest.raises(Lost, match="reset"):
            await lost
        await shell.ready(SOON_S)
        assert (await shell.run("echo again", timeout=SOON_S)).out == "again\n"

    world(scene)


def test_requests_before_a_reset_are_ignored(short: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), hypervisor(short) as guest:
            reader, writer = await asyncio.open_unix_connection(str(guest.socket))
            writer.write(encode({"do": "run", "id": 1, "argv": ["echo", "unheard"]}))
            writer.write(b'\xff{"half\n' + encode({"do": "reset", "nonce": "n"}) + encode({"do": "ping", "id": 2}))
            said = b""
            while b'"id":2' not in said:
                said += await reader.read(4096)
            assert b'"nonce":"n"' in said
            assert b'"id":1' not in said
            writer.close()

    asyncio.run(main())


def test_requests_that_make_no_sense_are_refused_and_the_agent_lives(world: World) -> None:
    async def scene(shell: Shell, guest: Hypervisor) -> None:
        for request, words in (
            ({"do": "run"}, "lacks 'argv'"),
            ({"do": "run", "argv": []}, "no sense"),
            ({"do": "run", "argv": 5}, "no sense"),
            ({"do": "run", "argv": ["/no/such/program"]}, "No such file"),
            ({"do": "run", "argv": ["x\0y"]}, "no sense"),
            ({"do": "run", "argv": ["true"], "tty": {"size": [0, 80], "term": "x"}}, "no sense"),
            ({"do": "run", "argv": ["true"], "tty": {"size": "ab", "term": "x"}}, "no sense"),
            ({"do": "watch", "conditions": [], "interval": 1}, "no sense"),
            ({"do": "watch", "conditions": [{"what": 1}], "interval": 1}, "no such condition"),
            ({"do": "clock"}, "lacks 'epoch'"),
            ({"do": "clock", "epoch": 1e300}, "no sense"),
        ):
            with pytest.raises(Failure, match=f"the node refuses: .*{words}"):
                await collected(shell, request)
        async with shell.session(run_request("cat", has_input=True)) as session:
            session.send("input", data="!")
            with pytest.raises(Failure, match="no sense"):
                await said(session)
        async with shell.session(run_request("sleep 60", has_input=True)) as session:
            for _ in range(20):
                session.send("input", data="eHh4" * 4000)
            with pytest.raises(Failure, match="more input than there is room for"):
                await said(session)
        assert (await shell.run("echo alive", timeout=SOON_S)).out == "alive\n"

    world(scene)


def test_there_is_a_limit_to_how_much_runs_at_once(world: World, tmp_path: Path) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        command = f"touch {tmp_path}/$$; exec sleep 60"
        running = [asyncio.create_task(shell.run(command, timeout=70)) for _ in range(64)]
        await eventually_async(lambda: len(list(tmp_path.iterdir())) == 64)
        with pytest.raises(Failure, match="64 commands run already"):
            await shell.run("true", timeout=SOON_S)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        assert (await shell.run("echo room", timeout=SOON_S)).out == "room\n"

    world(scene)


def test_a_command_too_long_for_a_line_is_refused_here(world: World) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        with pytest.raises(Failure, match="the command is longer than 64 KiB"):
            await shell.run("x" * 100_000, timeout=SOON_S)
        result = await shell.run("true " + "x" * 60_000, timeout=SOON_S)
        assert result.rc == 0

    world(scene)


def test_a_watch_reports_its_conditions_in_their_order(world: World, tmp_path: Path) -> None:
    async def scene(shell: Shell, _: Hypervisor) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        request = {
            "do": "watch",
            "conditions": [{"exists": str(first)}, {"file": str(second), "has": "yes"}],
            "interval": 0.05,
        }
        async with shell.session(request) as session:
            messages = session.messages()
            second.write_text("yes")
            await asyncio.sleep(0.2)  # four intervals
            assert session._messages.empty(), "the second is not looked at before the first"
            first.touch()
            assert (await anext(messages))["held"] == 0
            assert (await anext(messages))["held"] == 1
            assert (await anext(messages))["exit"] == 0

    world(scene)


def test_an_agent_without_a_port_says_so(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    code = "import sys; from guest.agent import main; sys.exit(main())"
    for arguments, words in (([], "usage: flotilla-shell PORT"), ([str(tmp_path / "none")], "No such file")):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, timeout=30
        )
        assert done.returncode in (1, 2)
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_the_launcher_starts_it() -> None:
    root = Path(__file__).parents[2]
    launcher = root / "image/overlay/usr/bin/flotilla-shell"
    assert "from guest.agent import main" in launcher.read_text()
    assert launcher.stat().st_mode & 0o111

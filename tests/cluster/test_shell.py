"""The host's half of the root shell against guests that mean harm; with the real agent it is tested in tests/guest."""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.machines.shell import Lost, Shell, run_request
from terminal import Failure
from tests.eventually import eventually_async

Answers = Callable[[dict[str, Any]], list[bytes]]
OUT = json.dumps({"id": 1, "out": "eHh4" * 9000}).encode() + b"\n"


@pytest.fixture
def socket_path() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fs-"))
    yield folder / "shell"
    shutil.rmtree(folder)


def against(path: Path, answers: Answers, scene: Callable[[Shell], Awaitable[None]]) -> list[str]:
    """Run ``scene`` with a shell whose guest says ``answers(request)`` to each request; returns what was logged."""
    logged: list[str] = []
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                if line.strip():
                    for words in answers(json.loads(line)):
                        writer.write(words)
                        await writer.drain()
        except ConnectionError:
            pass
        await hang_up(writer)
        gone.set()

    async def main() -> None:
        async with asyncio.timeout(60):
            server = await asyncio.start_unix_server(serve, str(path))
            shell = Shell(path, "node-1", logged.append)
            await shell.open()
            try:
                await scene(shell)
            finally:
                await shell.close()
                await gone.wait()
                server.close()
                await server.wait_closed()
                path.unlink()

    asyncio.run(main())
    return logged


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


def hello(request: dict[str, Any]) -> bytes:
    return json.dumps({"hello": 1, "nonce": request["nonce"], "boot": "b", "uptime": 1}).encode() + b"\n"


def saying(*said: bytes) -> Answers:
    """A guest that is polite until it is to run something."""

    def answers(request: dict[str, Any]) -> list[bytes]:
        return [hello(request)] if request["do"] == "reset" else list(said) if request["do"] == "run" else []

    return answers


@pytest.mark.parametrize(
    "flood",
    [
        OUT,
        b'{"id":1,"out":"!%s"}\n' % (b"x" * 50_000),
        b'{"id":1,"failed":%s}\n' % json.dumps(["x" * 1000] * 100).encode(),
        b'{"id":1,"out":""}\n' * 200,
    ],
    ids=["output", "no base64", "large", "small"],
)
def test_more_than_there_is_room_for_ends_the_command(socket_path: Path, flood: bytes) -> None:
    async def scene(shell: Shell) -> None:
        await shell.ready(30)
        async with shell.session(run_request("x", has_input=False)) as session:
            await eventually_async(lambda: session.is_over)  # we take nothing meanwhile
            with pytest.raises(Lost, match="more than it may"):
                async for _ in session.messages():
                    await asyncio.sleep(0)

    against(socket_path, saying(*[flood] * 300), scene)


def test_a_line_without_an_end_is_not_held(socket_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        await shell.ready(30)
        result = await shell.run("x", timeout=30)
        assert result.out == "fine"

    said = [b"x" * 65536] * 64 + [b'\n{"id":1,"out":"ZmluZQ=="}\n{"id":1,"exit":0}\n']
    against(socket_path, saying(*said), scene)


def test_messages_about_unknown_commands_are_ignored(socket_path: Path) -> None:
    said = [
        b'{"id":2,"out":"eA=="}\n{"id":"1","exit":3}\n{"id":null,"exit":3}\n{"id":1,"took":1e400}\n{"id":1,"took":"x"}\n',
        b'{"hello":"1"}\n{"hello":1,"nonce":1}\n[]\n5\n',
        b'{"id":1,"out":5}\n{"id":1,"out":"!!"}\n{"id":1,"out":"eQ=="}\n{"id":1,"exit":0}\n',
    ]

    async def scene(shell: Shell) -> None:
        await shell.ready(30)
        assert await shell.run("x", timeout=30) == await shell_result("y")

    async def shell_result(out: str) -> object:
        from cluster.model.run import RunResult

        return RunResult(0, out, "")

    against(socket_path, saying(*said), scene)


def test_a_guest_that_never_says_hello_has_no_shell(socket_path: Path) -> None:
    async def scene(shell: Shell) -> None:
        with pytest.raises(Failure, match="no root shell within 0 s"):
            await shell.ready(0.3)
        with pytest.raises(Failure, match="within 0 s"):
            await shell.run("x", timeout=0.3)
        with pytest.raises(Failure, match="within 0 s"):
            await shell.clock_step(1.0, timeout=0.3)

    against(socket_path, lambda _: [], scene)


def test_an_answer_to_an_earlier_reset_is_waited_out(socket_path: Path) -> None:
    """One is on its way already when the agent starts: it says so, and then obeys that one, and then the one that it
    has caused.
    """
    nonces: list[str] = []

    def answers(request: dict[str, Any]) -> list[bytes]:
        if request["do"] != "reset":
            return []
        nonces.append(request["nonce"])
        if len(nonces) == 1:
            started = b'{"hello":1,"nonce":null,"boot":"b","uptime":1}\n'
            stale = {"hello": 1, "nonce": nonces[0], "boot": "earlier", "uptime": 9}
            return [started, json.dumps(stale).encode() + b"\n"]
        return [hello(request)]

    async def scene(shell: Shell) -> None:
        assert (await shell.ready(30)).boot == "b"
        assert (await shell.ready(30)).uptime == 1
        await asyncio.sleep(0.2)  # in which no third comes
        assert len(nonces) == 2

    against(socket_path, answers, scene)


def test_a_machine_that_is_switched_off_takes_its_commands_along(socket_path: Path) -> None:
    async def main() -> None:
        lines = asyncio.Queue[bytes]()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = json.loads((await reader.readline()).strip() or await reader.readline())
            writer.write(hello(request))
            await lines.put(await reader.readline())
            await hang_up(writer)

        async with asyncio.timeout(60):
            server = await asyncio.start_unix_server(serve, str(socket_path))
            shell = Shell(socket_path, "node-1", lambda _: None)
            await shell.open()
            with pytest.raises(Lost, match="switched off"):
                await shell.run("x", timeout=10)
            assert shell.hello is None
            with pytest.raises(Lost):
                async with shell.session(run_request("x", has_input=False)):
                    pass
            await shell.close()
            server.close()
            await server.wait_closed()

    asyncio.run(main())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300), max_size=6))
def test_bytes_of_any_kind_do_no_harm(socket_path: Path, said: list[bytes]) -> None:
    async def scene(shell: Shell) -> None:
        await shell.ready(30)
        result = await shell.run("x", timeout=30)
        assert result.rc == 7

    against(socket_path, saying(*said, b'\n{"id":1,"exit":7}\n'), scene)


def test_nothing_of_ours_is_left(socket_path: Path) -> None:
    """A shell that is closed has neither task nor descriptor."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - of a moment, as it is

    async def scene(shell: Shell) -> None:
        await shell.ready(30)

    for _ in range(3):
        against(socket_path, saying(), scene)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

"""QEMU's monitor, and one that a guest controls: any bytes are an answer or a reported failure, in time."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.faults.diskchain import SERIAL, DiskChain
from cluster.machines import qemu, qmp
from cluster.machines.qemu_driver import QemuVm
from terminal import Failure
from tests.budget import peak_bytes
from tests.cluster.test_shell import hang_up, socket_path
from tests.eventually import eventually_async

__all__ = ["socket_path"]

GREETING, READY = b'{"QMP": {}}\r\n', b'{"return": {}, "id": 1}\r\n'
"""What comes at once, and in reply to the first command, which is not ours to choose."""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["status", "qdev", "inserted", "desc"]), inner)
    ),
    max_leaves=6,
)


Script = Sequence[bytes]
"""What a monitor says on one connection: the first piece at once, each of the others when another command has come.

Then it hangs up.
"""


@asynccontextmanager
async def monitor(path: Path, *scripts: Script) -> AsyncIterator[tuple[qmp.Monitor, list[str]]]:
    """Our end of a monitor that follows the next one of ``scripts`` on each connection, and the events that came."""
    events, waiting = list[str](), list(scripts)
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            for number, said in enumerate(waiting.pop(0)):
                if number > 0 and not await reader.readline():
                    break
                for begin in range(0, len(said), 1 << 20):
                    writer.write(said[begin : begin + (1 << 20)])
                    await writer.drain()
            writer.write_eof()
            await reader.read()
        await hang_up(writer)
        if not waiting:
            ended.set()

    async with await asyncio.start_unix_server(serve, str(path)):
        made = qmp.Monitor(path, lambda name, _: events.append(name))
        try:
            yield made, events
        finally:
            made.close()
            await ended.wait()


def reply_of(path: Path, *script: bytes, command: str = "query-status") -> Any:
    """What ``command`` returns from a monitor that follows ``script``. Raises Failure."""

    async def main() -> Any:
        async with monitor(path, script) as (made, _):
            return await made.execute(command)

    return asyncio.run(main())


def test_an_answer_behind_events() -> None:
    assert qmp.result({"return": 5}, "x") == 5
    with pytest.raises(Failure, match=r"refuses x: no such\?thing"):
        qmp.result({"error": {"class": "GenericError", "desc": "no such\x1bthing"}}, "x")


def test_what_comes_before_the_answer_is_passed_over(socket_path: Path) -> None:
    noise = b'{"event": "STOP"}\r\n[]\r\n5\r\n"return"\r\n\r\n' + b"[" * 60_000 + b'\n{"a": ' + b"[" * 60_000 + b"\n"
    answer = b'{"return": {"status": "running"}, "id": 2}\r\n'
    assert reply_of(socket_path, GREETING + noise, READY + noise, noise + answer) == {"status": "running"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.binary(max_size=200).map(lambda said: (said,))
    | st.binary(max_size=200).map(lambda said: (GREETING, READY, said))
    | json_values.map(lambda value: (GREETING, READY, json.dumps({"return": value, "id": 2}).encode() + b"\n"))
    | json_values.map(lambda value: (GREETING, READY, json.dumps({"error": value, "id": 2}).encode() + b"\n"))
    | st.tuples(json_values, json_values).map(
        lambda values: (GREETING, READY, json.dumps({"event": values[0], "data": values[1]}).encode() + b"\n")
    )
)
def test_any_bytes_are_an_answer_or_a_failure(socket_path: Path, script: Script) -> None:
    with suppress(Failure):
        reply_of(socket_path, *script)


def test_a_line_without_an_end_is_not_held(socket_path: Path) -> None:
    said = READY + b"x" * (64 << 20)

    def ask() -> None:
        with pytest.raises(Failure, match="cannot be talked to"):
            reply_of(socket_path, GREETING, said)

    assert peak_bytes(ask) < 16 * qmp.LINE_BYTES_MAX


class Liar(QemuVm):
    """A machine whose monitor returns ``value``, whatever the command."""

    def __init__(self, value: object) -> None:
        self.value = value

    async def monitor(self, command: str, **_: Any) -> Any:
        return SERIAL if command == "qom-get" else self.value


@given(json_values | st.lists(json_values, max_size=3))
def test_any_value_is_a_state_or_a_failure(value: object) -> None:
    async def main() -> None:
        liar = Liar(value)
        assert await liar.is_stalled() in (True, False)
        with suppress(Failure):
            await DiskChain(liar).impose([])

    asyncio.run(main())


def test_a_migration_that_has_failed_is_reported_with_qemus_words() -> None:
    with pytest.raises(Failure, match="no room"):
        asyncio.run(Liar({"status": "failed", "error-desc": "no room"}).migrated())


# --- one connection ---------------------------------------------------------------------------------------------------


def reply(number: int, value: object) -> bytes:
    return json.dumps({"return": value, "id": number}).encode() + b"\n"


def test_replies_belong_to_their_commands_in_whatever_order(socket_path: Path) -> None:
    async def main() -> None:
        crossed = reply(3, "second") + reply(9, "unknown") + b'{"return": "unknown"}\n' + reply(2, "first")
        async with monitor(socket_path, (GREETING, READY, b"", crossed)) as (made, _):
            first, second = await asyncio.gather(made.execute("one"), made.execute("two"))
            assert (first, second) == ("first", "second")

    asyncio.run(main())


def test_events_are_reported_without_a_command(socket_path: Path) -> None:
    async def main() -> None:
        said = reply(2, {}) + b'{"event": "STOP"}\n{"event": 5}\n{"event": "RESUME", "data": []}\n'
        async with monitor(socket_path, (GREETING, READY, said)) as (made, events):
            await made.execute("one")
            await eventually_async(lambda: "RESUME" in events)
            await eventually_async(lambda: len(events) == 4)
            assert events == [qmp.CONNECTION, "STOP", "RESUME", qmp.CONNECTION]

    asyncio.run(main())


def test_a_connection_that_broke_is_made_again_by_the_next_command(socket_path: Path) -> None:
    async def main() -> None:
        later = (GREETING, READY.replace(b"1", b"3"), b"")
        scripts = (GREETING, READY, b""), later, (GREETING, READY.replace(b"1", b"5"), reply(6, "here again"))
        async with monitor(socket_path, *scripts) as (made, events):
            begin = time.monotonic()
            for _ in range(2):
                with pytest.raises(Failure, match="cannot be talked to about one") as caught:
                    await made.execute("one")
                assert "QEMU hung up" in str(caught.value.__cause__)
            assert time.monotonic() - begin < 9, "it is known at once"
            assert await made.execute("one") == "here again"
            assert events.count(qmp.CONNECTION) >= 5, "made and lost, each time"

    asyncio.run(main())


def test_a_reply_that_comes_too_late_is_ignored(socket_path: Path) -> None:
    async def main() -> None:
        async with monitor(socket_path, (GREETING, READY, b"", reply(2, "late") + reply(3, "in time"))) as (made, _):
            with pytest.raises(Failure, match="did not answer one within 0 s"):
                await made.execute("one", deadline_s=0.1)
            assert await made.execute("two") == "in time"

    asyncio.run(main())


def test_a_monitor_that_was_closed_or_says_that_it_ends_is_not_called_again(socket_path: Path) -> None:
    async def main() -> None:
        async with monitor(socket_path, (GREETING, READY, reply(2, {}) + b'{"event": "SHUTDOWN"}\n')) as (made, events):
            await made.execute("one")
            await eventually_async(lambda: events[-1] == qmp.CONNECTION and "SHUTDOWN" in events)
            with pytest.raises(Failure, match="cannot be talked to about two") as caught:
                await made.execute("two")
            assert "it was shut down" in str(caught.value.__cause__)
        with pytest.raises(Failure, match="cannot be talked to about three"):
            await made.execute("three")

    asyncio.run(main())


@pytest.mark.slow
def test_a_flood_of_events_is_not_taken_as_fast_as_it_comes(socket_path: Path) -> None:
    async def main() -> None:
        flood = b'{"event": "STOP"}\n' * (8 * qmp.BYTES_A_SECOND // 18)
        async with monitor(socket_path, (GREETING, READY, reply(2, {}) + flood)) as (made, events):
            begin = time.monotonic()
            await made.execute("one")
            await eventually_async(lambda: len(events) > qmp.BYTES_A_SECOND // 18)
            taken = len(events) * 18
            assert taken < (time.monotonic() - begin + 1.5) * qmp.BYTES_A_SECOND

    asyncio.run(main())


# --- the real one -----------------------------------------------------------------------------------------------------


def listens(path: Path) -> bool:
    """Whether a server takes connections at ``path``: the file is there a moment before (bind(2), then listen(2)).

    ``__SO_ACCEPTCON`` of /proc/net/unix (linux/net.h).
    """
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(row[-1] == str(path) and int(row[3], 16) & 0x10000 for row in rows[1:])


def test_qemu_itself_takes_commands_side_by_side_reports_events_and_goes_away(socket_path: Path) -> None:
    async def main() -> None:
        events: list[str] = []
        program = qemu.find({"PATH": os.environ["PATH"]}).path
        process = await asyncio.create_subprocess_exec(
            *(str(program), "-S", "-nodefaults", "-display", "none", "-machine", "none"),
            *("-qmp", f"unix:{socket_path},server=on,wait=off"),
        )
        made = qmp.Monitor(socket_path, lambda name, _: events.append(name))
        try:
            await eventually_async(lambda: listens(socket_path))
            states = await asyncio.gather(*(made.execute("query-status") for _ in range(20)))
            assert {qmp.status(state) for state in states} <= {"prelaunch", "paused"}
            await made.execute("cont")
            await made.execute("stop")
            await eventually_async(lambda: "STOP" in events)
            assert events == [qmp.CONNECTION, "RESUME", "STOP"]
            with pytest.raises(Failure, match="QEMU refuses dance"):
                await made.execute("dance")
            await made.execute("quit")
            await process.wait()
            await eventually_async(lambda: events[-1] == qmp.CONNECTION)
            assert events[3:] == ["SHUTDOWN", qmp.CONNECTION]
            with pytest.raises(Failure, match="cannot be talked to"):
                await made.execute("query-status")
        finally:
            made.close()
            if process.returncode is None:
                process.kill()
                await process.wait()

    asyncio.run(main())

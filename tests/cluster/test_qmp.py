"""QEMU's monitor, and one that a guest controls: any bytes are an answer or a reported failure, in time."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.faults.diskchain import SERIAL, DiskChain
from cluster.machines import qmp
from cluster.machines.qemu_driver import QemuVm
from terminal import Failure
from tests.budget import peak_bytes
from tests.cluster.test_shell import hang_up, socket_path

__all__ = ["socket_path"]

GREETING = b'{"QMP": {}}\r\n{"return": {}}\r\n'
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["status", "qdev", "inserted", "desc"]), inner)
    ),
    max_leaves=6,
)


def asked(path: Path, said: bytes, command: str = "query-status") -> Any:
    """What ``command`` returns from a monitor that says ``said`` and hangs up. Raises Failure."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            for begin in range(0, len(said), 1 << 20):
                writer.write(said[begin : begin + (1 << 20)])
                await writer.drain()
            writer.write_eof()
            await reader.read()
        await hang_up(writer)
        gone.set()

    async def main() -> Any:
        async with await asyncio.start_unix_server(serve, str(path)):
            try:
                return await qmp.execute(path, command)
            finally:
                await gone.wait()

    return asyncio.run(main())


def test_an_answer_behind_events() -> None:
    assert qmp.result({"return": 5}, "x") == 5
    with pytest.raises(Failure, match=r"refuses x: no such\?thing"):
        qmp.result({"error": {"class": "GenericError", "desc": "no such\x1bthing"}}, "x")


def test_what_comes_before_the_answer_is_passed_over(socket_path: Path) -> None:
    noise = b'{"event": "STOP"}\r\n[]\r\n5\r\n"return"\r\n\r\n' + b"[" * 60_000 + b'\n{"a": ' + b"[" * 60_000 + b"\n"
    assert asked(socket_path, GREETING + noise + b'{"return": {"status": "running"}}\r\n') == {"status": "running"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200) | json_values.map(lambda value: GREETING + json.dumps({"return": value}).encode() + b"\n")
       | json_values.map(lambda value: GREETING + json.dumps({"error": value}).encode() + b"\n"))  # fmt: skip
def test_any_bytes_are_an_answer_or_a_failure(socket_path: Path, said: bytes) -> None:
    with suppress(Failure):
        asked(socket_path, said)


def test_a_line_without_an_end_is_not_held(socket_path: Path) -> None:
    said = GREETING + b"x" * (64 << 20)

    def ask() -> None:
        with pytest.raises(Failure, match="cannot be talked to"):
            asked(socket_path, said)

    assert peak_bytes(ask) < 16 * qmp.LINE_BYTES_MAX


class Liar(QemuVm):
    """A machine whose monitor returns ``value``, whatever it is asked."""

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


def test_a_migration_that_has_failed_is_told_with_qemus_words() -> None:
    with pytest.raises(Failure, match="no room"):
        asyncio.run(Liar({"status": "failed", "error-desc": "no room"}).migrated())

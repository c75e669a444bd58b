"""What is kept of what a guest says, whatever that is, and what it costs to hear it."""

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.machines.shell import HELLOS_LOGGED_MAX, UNREAD_BYTES_MAX, Shell, run_request
from cluster.model.utterance import TEXT_CHARS_MAX, kept
from guest.lines import LINE_BYTES_MAX, Lines
from terminal import Failure
from tests.budget import INPUT_BYTES, assert_cheap, peak_bytes
from tests.cluster.test_shell import against, hello, saying, socket_path
from tests.eventually import eventually_async

__all__ = ["socket_path"]

FIELDS = [
    "id",
    "out",
    "err",
    "exit",
    "error",
    "held",
    "failed",
    "took",
    "before",
    "after",
    "hello",
    "nonce",
    "boot",
    "uptime",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
messages = st.dictionaries(st.sampled_from(FIELDS), values)


@given(messages)
def test_of_any_message_only_what_is_of_its_kind_is_kept(message: dict[str, Any]) -> None:
    found = kept(message)
    assert set(found) <= set(message)
    assert all(isinstance(found.get(name, ""), str) for name in ("out", "err", "error"))
    assert all(0 <= found.get(name, 0) < 1 << 31 for name in ("exit", "held", "took"))
    assert all(math.isfinite(found.get(name, 0)) for name in ("before", "after"))
    shown = [*found.get("failed", []), found.get("error", "")]
    assert all(text.isprintable() and len(text) <= TEXT_CHARS_MAX for text in shown)
    json.dumps(found, allow_nan=False)


def test_an_honest_word_is_kept_whole() -> None:
    honest = {"out": "eA==", "err": "", "exit": 143, "error": "no such unit", "held": 3, "failed": ["etcd.service"]}
    honest |= {"took": 65536, "before": 1.5, "after": 1_700_000_000}
    assert kept({"id": 5, **honest}) == honest


def test_a_reason_is_no_order_to_a_terminal() -> None:
    assert kept({"error": "\x1b]0;owned\x07" + "x" * 5000})["error"].startswith("?]0;owned?xxx")
    assert kept({"failed": ["a\nb", 5, "c"]})["failed"] == ["a?b", "c"]


LINES = {
    "newlines": b"\n",
    "no objects": b"x\n",
    "half objects": b"{\n",
    "small objects": b"{}\n",
    "words": b'{"id":1,"out":""}\n',
    "depth": b'{"id":' + b"[" * 50_000 + b"\n",
    "keys": b"{" + b",".join(b'"%d":1' % number for number in range(9000)) + b"}\n",
    "digits": b'{"id":' + b"9" * 100_000 + b"}\n",
    "no end": b"x",
}


@pytest.mark.slow
@pytest.mark.parametrize("piece", LINES.values(), ids=LINES)
def test_a_mebibyte_of_lines_is_read_in_no_time(piece: bytes) -> None:
    data = (piece * (INPUT_BYTES // len(piece) + 1))[:INPUT_BYTES]

    def read(size: int) -> None:
        lines = Lines()
        for begin in range(0, size, 1 << 16):
            for message in lines.feed(data[begin : begin + (1 << 16)]):
                kept(message)

    assert_cheap(read)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", b"{", b"}", b'"id":1', b"[" * 5000])), st.data())
def test_lines_in_any_pieces_are_the_same_lines(parts: list[bytes], data: st.DataObject) -> None:
    text = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    lines, found = Lines(), []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        found += lines.feed(text[begin:end])
    assert found == Lines().feed(text)


STARTED = b'{"hello":1,"nonce":null,"boot":"b","uptime":1}\n'


def test_hello_without_end_does_not_fill_what_waits_for_the_guest(socket_path: Path) -> None:
    """It says that it has started, again and again, and takes none of the resets that this calls for."""
    starts, resets = 100_000, 0

    def answers(request: dict[str, Any]) -> list[bytes]:
        nonlocal resets
        resets += 1
        return [hello(request) * 500, *[STARTED * 1000] * (starts // 1000)] if resets == 1 else [hello(request)]

    async def scene(shell: Shell) -> None:
        await eventually_async(lambda: resets > 1000 and shell.hello is not None)
        assert resets < starts / 2

    assert len(against(socket_path, answers, scene)) == 2


def test_hello_without_end_does_not_fill_the_log(socket_path: Path) -> None:
    resets = 0

    def answers(request: dict[str, Any]) -> list[bytes]:
        nonlocal resets
        resets += 1
        return [hello(request), STARTED] if resets < 3 * HELLOS_LOGGED_MAX else [hello(request)]

    async def scene(shell: Shell) -> None:
        await eventually_async(lambda: resets == 3 * HELLOS_LOGGED_MAX and shell.hello is not None)

    assert len(against(socket_path, answers, scene)) == HELLOS_LOGGED_MAX


@pytest.mark.parametrize("uptime", ["1e400", "-1e400", "NaN", "9" * 4000, '"1"', "[]", "true"])
def test_an_uptime_that_is_none_is_no_hello(socket_path: Path, uptime: str) -> None:
    def answers(request: dict[str, Any]) -> list[bytes]:
        if request["do"] != "reset":
            return []
        return [
            b'{"hello":1,"nonce":"%s","boot":"b","uptime":%s}\n' % (request["nonce"].encode(), uptime.encode()),
            hello(request),
        ]

    async def scene(shell: Shell) -> None:
        assert (await shell.ready(30)).uptime == 1

    against(socket_path, answers, scene)


@pytest.mark.parametrize("said", ['"x"', "[]", "1e400", "9" * 4000, "-1"])
def test_an_exit_code_and_a_time_that_are_none_are_not_heard(socket_path: Path, said: str) -> None:
    words = b'{"id":1,"exit":%s}\n{"id":1,"exit":3}\n' % said.encode()

    async def scene(shell: Shell) -> None:
        assert (await shell.run("x", timeout=30)).rc == 3

    against(socket_path, saying(words), scene)

    def lies(request: dict[str, Any]) -> list[bytes]:
        times = b'{"id":1,"before":%s,"after":%s,"exit":0}\n' % (b"9" * 4000, said.encode())
        return [hello(request)] if request["do"] == "reset" else [times] if request["do"] == "clock" else []

    async def clock(shell: Shell) -> None:
        with pytest.raises(Failure, match="its clock was not set"):
            await shell.clock_step(1.0, timeout=30)

    against(socket_path, lies, clock)


def test_a_command_of_ours_that_never_stops_talking_is_ended(socket_path: Path) -> None:
    """It keeps to its window: every message is taken, and answered with room for another."""
    word = b'{"id":1,"out":"%s"}\n' % (b"eHh4" * 5000)

    def answers(request: dict[str, Any]) -> list[bytes]:
        return [hello(request)] if request["do"] == "reset" else [word] if request["do"] in ("run", "more") else []

    async def scene(shell: Shell) -> None:
        with pytest.raises(Failure, match="says more than 16 MiB"):
            await shell.run("yes", timeout=60)

    assert peak_bytes(lambda: against(socket_path, answers, scene)) < 64 << 20


@pytest.mark.slow
def test_unread_output_is_bounded_whatever_it_is_made_of(socket_path: Path) -> None:
    """Objects in lists take twenty times the room of their text."""
    nested = b'{"id":1,"held":1,"failed":[%s]}\n' % b",".join([b"{}"] * 40_000)
    assert len(nested) < LINE_BYTES_MAX

    async def scene(shell: Shell) -> None:
        await shell.ready(30)
        async with shell.session(run_request("x", has_input=False)) as session:
            await eventually_async(lambda: session.is_over)
            await asyncio.sleep(0)

    assert peak_bytes(lambda: against(socket_path, saying(*[nested] * 300), scene)) < 32 * UNREAD_BYTES_MAX

"""Logs that a guest can fill: cut under the writer, with the last part kept."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.client.cluster import Cluster
from cluster.daemon.supervisor import LINE_CHARS_MAX, say
from cluster.machines.namespaces.terminal import Console, Terminal
from cluster.model import logs
from cluster.testing.watch import Watch
from tests.cluster.test_watch import OOM, Nodes
from tests.cluster.tinyguest import console, tiny_cluster
from tests.eventually import eventually

WRITES = bytes.fromhex("baf803 b078 ee ebfd")  # dx = port; al = 'x'; again: out; jmp again


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=10), st.integers(1, 100))
def test_what_is_kept_is_the_end_and_the_writer_goes_on(tmp_path: Path, said: list[bytes], bytes_max: int) -> None:
    path, whole = tmp_path / "log", b""
    logs.former(path).unlink(missing_ok=True)
    with logs.fresh(path) as log:
        for piece in said:
            log.write(piece)
            log.flush()
            whole += piece
            before = path.read_bytes()
            if logs.roll(path, bytes_max):
                assert len(before) > bytes_max
                assert (path.read_bytes(), logs.former(path).read_bytes()) == (b"", before[-bytes_max:])
            assert path.stat().st_size <= bytes_max
    assert whole.endswith(path.read_bytes())


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "full").symlink_to("/dev/full")
    for name in ("pipe", "full", "none", "."):
        assert not logs.roll(tmp_path / name)


def test_without_room_for_the_last_part_it_is_cut_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(100))
    logs.former(path).symlink_to("/dev/full")
    assert logs.roll(path, 10)
    assert path.read_bytes() == b""


@pytest.fixture
def cluster(image: Path) -> Iterator[Cluster]:
    """A node that writes to its serial port without end, and whose logs are too long already."""
    with tiny_cluster(image, WRITES, size=1) as made:
        yield made


@pytest.mark.slow
def test_a_guest_that_writes_without_end_fills_no_disk(cluster: Cluster) -> None:
    node, layout = cluster.nodes[0], cluster.layout
    for path in (node.console_log, layout.supervisor_log, layout.services_log):
        with path.open("ab") as file:
            file.truncate(logs.BYTES_MAX + 1)
    node.start()
    eventually(lambda: logs.former(node.console_log).exists() and set(console(node)) == {ord("x")})
    eventually(lambda: layout.supervisor_log.stat().st_size < 10_000 and not layout.services_log.stat().st_size)
    size = node.console_log.stat().st_size
    eventually(lambda: node.console_log.stat().st_size > size)
    assert logs.former(node.console_log).stat().st_size == logs.BYTES_MAX
    node.kill()
    eventually(lambda: b"node-1 is off" in layout.supervisor_log.read_bytes())


def test_a_terminal_that_is_written_to_without_end_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "BYTES_MAX", 1 << 20)
    monkeypatch.setattr(logs.roll, "__defaults__", (1 << 20,))
    log = tmp_path / "console.log"

    async def scene() -> None:
        terminal = Terminal(raw=False)
        taken = Console(terminal, log)
        node = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY)
        with subprocess.Popen(["head", "-c", "5M", "/dev/zero"], stdout=node) as writer:
            while writer.poll() is None:
                await asyncio.sleep(0.001)
                assert log.stat().st_size <= (1 << 20) + (1 << 16)
        taken.close()
        os.close(node)
        terminal.close()

    asyncio.run(asyncio.wait_for(scene(), 60))
    assert logs.former(log).stat().st_size == 1 << 20


def test_a_watch_reads_on_in_a_console_that_was_cut(tmp_path: Path) -> None:
    nodes = Nodes(tmp_path)
    watch = Watch.begun(cast("Cluster", nodes))
    nodes.nodes[0].say("nothing of note, at length")
    assert watch.look() == []
    logs.roll(nodes.nodes[0].folder / "console.log", 1)
    nodes.nodes[0].say(OOM[:20])
    (nodes.nodes[0].folder / "console.log").write_text(f"{OOM}\n")
    assert len(watch.look()) == 1


def test_a_line_of_the_log_is_one_short_line_without_orders_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a node: GET /\x1b[2J\r\nforged " + "x" * 100_000)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "\x1b" not in out
    assert len(out) < LINE_CHARS_MAX + 100

"""A node that is stalled because this computer's disk is full, with a real QEMU and a real file system that is full."""

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.cli.view import status_text
from cluster.client.cluster import Cluster, processes
from cluster.client.node import Node
from cluster.faults import stall
from cluster.machines.driver import Vm
from cluster.machines.running import RunningNode
from cluster.model import timeline
from cluster.model.protocol import Save
from terminal import Failure
from tests.cluster.ordinary import write_program
from tests.cluster.tinyguest import USES_DISK, console, tiny_cluster
from tests.eventually import eventually, eventually_async

pytestmark = pytest.mark.slow

SIZE = 1 << 20


@pytest.fixture
def small(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is a file system of 64 KiB to the supervisor and its nodes, and full: a mount of their own."""
    folder = home / "small"
    folder.mkdir()
    full = f"mount -t tmpfs -o size=64k tmpfs {shlex.quote(str(folder))} && cd {shlex.quote(str(folder))}"
    full += f" && truncate -s {SIZE} state.img && head -c 64k /dev/zero >filler && exec"
    script = shlex.join(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", f'{full} "$@"', "small"])
    program = write_program(home / "python-in-small", f'exec {script} {shlex.quote(sys.executable)} "$@"\n')
    monkeypatch.setattr(sys, "executable", str(program))
    return folder


@pytest.fixture
def node(image: Path, small: Path) -> Iterator[Node]:
    """A node whose guest writes all the time, on a disk for which there is no room."""
    with tiny_cluster(image, USES_DISK, size=1) as made:
        disk = made.nodes[0].folder / "state.img"
        disk.unlink()
        disk.symlink_to(small / "state.img")
        yield made.nodes[0]


def cluster() -> Cluster:
    return Cluster.open("tiny")


def state() -> str:
    return str(cluster().status()["nodes"][0]["state"])


def reported() -> list[str]:
    return [event.what for event in timeline.read(cluster().layout.timeline)]


def test_it_is_reported_and_goes_on_by_itself_when_there_is_room(node: Node, small: Path) -> None:
    node.start()
    assert eventually(lambda: state() == "stalled")
    assert f"node-1 is stalled: {stall.WHY}" in status_text(cluster().status()).splitlines()
    with pytest.raises(Failure, match="node-1 is stalled"):
        cluster().ask(Save("/nowhere"))
    assert not set(b"wrWR") & set(console(node)), "its first write is the first thing it does"
    (supervisor, *_) = processes(cluster().layout)
    Path(f"/proc/{supervisor.pid}/root{small}/filler").unlink()
    assert eventually(lambda: state() == "running")
    assert eventually(lambda: b"w" in console(node))
    assert b"W" not in console(node), "nothing is lost: the write that found no room was kept"
    assert reported()[-2:] == [f"node-1 is stalled: {stall.WHY}", "node-1 is no longer stalled"]


def test_who_is_switched_off_meanwhile_stands_still_no_more_and_may_do_so_again(node: Node) -> None:
    for _ in range(2):
        node.start()
        assert eventually(lambda: state() == "stalled")
        node.kill()
        assert state() == "off"
    assert "node-1 is no longer stalled" not in reported()


def test_a_fault_is_not_ended_by_looking(image: Path) -> None:
    with tiny_cluster(image, USES_DISK, size=1) as made:
        (node,) = made.nodes
        node.start()
        assert eventually(lambda: b"wr" in console(node))
        with node.disk.errors(kind="enospc"):
            assert eventually(lambda: state() == "stalled")
            before = console(node)
            time.sleep(stall.LOOK_S + 2)  # it is looked at, and nothing comes of it
            assert console(node) == before
            assert state() == "stalled"
        assert eventually(lambda: console(node) != before)
        assert eventually(lambda: state() == "running")


class Machine:
    """A machine of which only standing still is known; it counts who looks."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.answers: list[bool | Failure] = []
        self.looks = self.trials = 0

    async def is_stalled(self) -> bool:
        self.looks += 1
        answer = self.answers.pop(0) if self.answers else False
        if isinstance(answer, Failure):
            raise answer
        return answer

    async def resume(self) -> None:
        self.trials += 1
        self.changed.set()


def watched(machine: Machine, story: Callable[[], Coroutine[Any, Any, None]]) -> list[str]:
    """What is recorded of ``machine`` while ``story`` happens."""
    lines: list[str] = []

    async def main() -> None:
        vm = cast("Vm", machine)
        guest = RunningNode(1, cast("Any", None), vm=vm)
        watching = asyncio.create_task(stall.watch(guest, vm, lambda _: False, lambda _, what, *__: lines.append(what)))
        await story()
        watching.cancel()

    asyncio.run(main())
    return lines


def test_a_machine_that_says_nothing_is_not_queried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "LOOK_S", 0.01)
    machine = Machine()

    async def story() -> None:
        await asyncio.sleep(0.3)
        assert machine.looks == 0
        machine.changed.set()
        await eventually_async(lambda: machine.looks == 1)

    assert watched(machine, story) == []


def test_who_finds_no_room_is_tried_from_time_to_time_and_not_as_often_as_it_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stall, "LOOK_S", 0.5)
    machine = Machine()
    machine.answers = [True, True, True]

    async def story() -> None:
        begin = time.monotonic()
        machine.changed.set()
        await eventually_async(lambda: machine.looks == 4)
        assert machine.trials == 3
        assert time.monotonic() - begin > 1

    assert watched(machine, story) == [f"node-1 is stalled: {stall.WHY}", "node-1 is no longer stalled"]


def test_a_machine_that_did_not_answer_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "LOOK_S", 0.01)
    machine = Machine()
    machine.answers = [Failure("it did not answer"), True]

    async def story() -> None:
        machine.changed.set()
        await eventually_async(lambda: machine.trials == 1)

    assert watched(machine, story)[:1] == [f"node-1 is stalled: {stall.WHY}"]


def test_changes_as_fast_as_they_come_are_looked_at_now_and_then() -> None:
    machine = Machine()

    async def story() -> None:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            machine.changed.set()
            await asyncio.sleep(0)
        assert 1 <= machine.looks <= 1 + 1 / stall.PACE_S

    assert watched(machine, story) == []

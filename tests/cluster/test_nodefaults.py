"""Clocks and full disks as the supervisor keeps them: what they run in a node's root shell.

(vm-tests/test_faults.py asks real nodes.)
"""

import asyncio
import subprocess
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.faults.book import FaultBook
from cluster.faults.nodes import FILL, NodeFaults
from cluster.machines.running import RunningNode
from cluster.model.layout import Layout
from cluster.model.run import RunResult
from terminal import Failure
from tests.eventually import eventually_async


@dataclass
class Shell:
    """Records its commands; ``works`` false is a node that does not answer."""

    offsets: list[float] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    works: bool = True

    async def clock_step(self, epoch_s: float, *, rtc: bool, timeout: float) -> tuple[float, float]:
        if not self.works:
            raise Failure("its clock was not set")
        assert rtc
        self.offsets.append(round(epoch_s - time.time()))
        return 0, epoch_s

    async def run(self, command: str, *, timeout: float) -> RunResult:
        self.commands.append(command)
        return RunResult(0 if self.works else 1, "", "" if self.works else "no room for a script")


@dataclass
class World:
    """One node, its faults, and the lines of the timeline."""

    shell: Shell
    guest: RunningNode
    book: FaultBook
    faults: NodeFaults
    lines: list[tuple[str, str, int | None]]

    async def step(self, seconds: float) -> int:
        return (await self.faults.step(self.guest, seconds)).id

    async def strobe(self, seconds: float, period_s: float, duration_s: float) -> int:
        return (await self.faults.strobe(self.guest, seconds, period_s, duration_s)).id

    async def full(self, leave_bytes: int) -> int:
        return (await self.faults.fill(self.guest, leave_bytes)).id


@pytest.fixture
def world(tmp_path: Path) -> World:
    shell, lines = Shell(), list[tuple[str, str, int | None]]()
    guest = RunningNode(1, cast("Any", shell), vm=cast("Any", object()))
    book = FaultBook(lambda kind, what, nodes, number: lines.append((kind, what, number)))
    return World(shell, guest, book, NodeFaults(book, Layout(tmp_path, tmp_path), 1.0), lines)


def test_steps_of_a_clock_add_up_and_are_healed_one_by_one(world: World) -> None:
    async def story() -> None:
        hour = await world.step(-3600)
        await world.step(60.0)
        assert world.shell.offsets == [-3600, -3540]
        assert await world.book.heal(hour) == [hour]
        assert world.shell.offsets[-1] == 60
        await world.book.heal()
        assert world.shell.offsets[-1] == 0

    asyncio.run(story())
    assert [(kind, number) for kind, _, number in world.lines] == [("fault", 1), ("fault", 2), ("heal", 1), ("heal", 2)]
    assert world.lines[0][1] == "clock of node-1: -3600 s"


def test_a_strobe_is_to_and_fro_and_ends_right_by_itself(world: World) -> None:
    async def story() -> None:
        await world.strobe(200, period_s=0.05, duration_s=1)
        await eventually_async(lambda: not world.book.faults())

    asyncio.run(story())
    assert world.shell.offsets[:4] == [200, 0, 200, 0]
    assert world.shell.offsets[-1] == 0
    assert [kind for kind, _, _ in world.lines] == ["fault", "heal"]


def test_a_strobe_that_is_healed_stops(world: World) -> None:
    async def story() -> None:
        number = await world.strobe(200, period_s=0.05, duration_s=60)
        await eventually_async(lambda: len(world.shell.offsets) >= 3)
        await world.book.heal(number)
        count = len(world.shell.offsets)
        await asyncio.sleep(0.15)  # three periods, of which none comes
        assert len(world.shell.offsets) == count
        assert world.shell.offsets[-1] == 0

    asyncio.run(story())


def test_a_clock_is_right_after_a_power_cut_and_the_fault_is_over(world: World) -> None:
    async def story() -> None:
        await world.step(60)
        await world.strobe(5, period_s=1, duration_s=60)
        await world.faults.started(world.guest)
        assert world.book.faults() == []
        assert await world.book.heal() == []

    asyncio.run(story())


@pytest.mark.parametrize("fault", [lambda world: world.step(60), lambda world: world.strobe(60, 1, 9)])
def test_a_clock_that_cannot_be_set_has_no_fault(
    world: World, fault: Callable[[World], Coroutine[Any, Any, int]]
) -> None:
    world.shell.works = False
    with pytest.raises(Failure, match="its clock was not set"):
        asyncio.run(fault(world))
    assert world.book.faults() == []


def test_a_full_disk_is_emptied_by_healing_which_needs_the_node(world: World) -> None:
    async def story() -> None:
        number = await world.full(4096)
        assert "/var/.flotilla-fault-1" in world.shell.commands[0]
        vm, world.guest.vm = world.guest.vm, None
        with pytest.raises(Failure, match="node-1 is off: its disk cannot be emptied"):
            await world.book.heal(number)
        assert [fault.id for fault in world.book.faults()] == [number]
        world.guest.vm = vm
        assert await world.book.heal(number) == [number]
        assert world.shell.commands[-1] == "rm -f /var/.flotilla-fault-1 && sync -f /var"

    asyncio.run(story())


def test_a_disk_that_could_not_be_filled_is_left_as_it_was(world: World) -> None:
    world.shell.works = False
    with pytest.raises(Failure, match="the command on the node failed: no room for a script"):
        asyncio.run(world.full(0))
    assert world.book.faults() == []
    assert world.shell.commands[-1].startswith("rm -f /var/.flotilla-fault-1")


def test_a_node_that_is_gone_has_no_faults_and_others_keep_theirs(world: World) -> None:
    async def story() -> None:
        await world.strobe(60, period_s=1, duration_s=60)
        world.book.begin(world.book.number(), "cut node-1 -> node-2", [1, 2], _nothing)
        world.faults.forget(1)
        assert [fault.what for fault in world.book.faults()] == ["cut node-1 -> node-2"]

    asyncio.run(story())


async def _nothing() -> None:
    """Heals nothing."""


def test_one_fault_that_cannot_be_healed_does_not_keep_the_others(world: World) -> None:
    async def refuse() -> None:
        raise Failure("stuck")

    async def story() -> None:
        for heal in (_nothing, refuse, _nothing):
            world.book.begin(world.book.number(), "x", [1], heal)
        with pytest.raises(Failure, match="stuck"):
            await world.book.heal()
        assert [fault.id for fault in world.book.faults()] == [2]

    asyncio.run(story())


def test_the_script_that_fills_is_one_that_bash_can_read() -> None:
    subprocess.run(["bash", "-n", "-c", FILL.format(file="/var/x", leave=4096)], check=True, timeout=20)

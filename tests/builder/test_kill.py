"""Builds that are ended in the middle, as processes of their own, and builds that meet."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from builder.about.manifest import sha256
from builder.core.store import MADE
from builder.debian.tools import Tools
from tests.builder.smallworld import REPORTS, World
from tests.builder.test_build import snapshot
from tests.eventually import eventually

pytestmark = pytest.mark.slow

PATIENCE = 240
"""Seconds; the machine is shared."""


@pytest.fixture
def world(tmp_path: Path, closure: Tools) -> World:
    return World(tmp_path, closure)


class Gate:
    """A package in the mirror that is a pipe: whoever fetches it waits until the gate is opened."""

    def __init__(self, world: World) -> None:
        self._path = world.pool / "tool.deb"
        self.data = self._path.read_bytes()
        self._path.unlink()
        os.mkfifo(self._path)
        self._writer = -1

    def is_reached(self) -> bool:
        """Has a reader come? From then on the reader waits for :meth:`open`."""
        try:
            self._writer = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO  # no process reads
            return False
        return True

    def open(self, data: bytes) -> None:
        """Let the reader have ``data`` and no more."""
        os.set_blocking(self._writer, True)
        os.write(self._writer, data)
        os.close(self._writer)


@pytest.fixture
def stuck(world: World) -> Iterator[Callable[[], int]]:
    """A closure whose mksquashfs writes half an image and goes no further; gives its process id once it is there."""
    (link,) = (world.store / "tools").iterdir()
    real = link.resolve()
    link.unlink()
    (link / "launch").mkdir(parents=True)
    (link / "usr").symlink_to(real / "usr")
    for launcher in (real / "launch").iterdir():
        (link / "launch" / launcher.name).symlink_to(launcher)
    (link / "launch/mksquashfs").unlink()
    mark = world.root / "pid"
    (link / "launch/mksquashfs").write_text(
        f'#!/bin/sh\necho half > "$2"\necho $$ > {mark}.new\n/bin/mv {mark}.new {mark}\nexec /bin/sleep 60\n'
    )
    (link / "launch/mksquashfs").chmod(0o755)

    yield lambda: int(mark.read_text()) if mark.exists() else 0

    (link / "launch/mksquashfs").unlink()
    (link / "launch/mksquashfs").symlink_to(real / "launch/mksquashfs")


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_fetching_leaves_nothing(number: int, world: World) -> None:
    gate = Gate(world)
    running = world.start("container", world.small)
    eventually(gate.is_reached, running.said)
    running.signal(number)
    time.sleep(1)  # the interrupt must be the first trouble; half a package is the second
    gate.open(b"half")
    assert running.wait(PATIENCE) == 130, running.said()
    assert running.said().endswith("osbuild: interrupted\n")
    assert not (world.root / "out").exists()
    assert list((world.store / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_packing_ends_the_packer_and_keeps_what_was(
    number: int, world: World, stuck: Callable[[], int]
) -> None:
    world.output.mkdir(parents=True)
    (world.output / "root.img").write_text("of yesterday")
    running = world.start("image", "--definition", world.node)
    eventually(lambda: stuck() > 0, running.said)
    running.signal(number)
    assert running.wait(PATIENCE) == 130, running.said()
    assert not is_running(stuck())
    assert {path.name: path.read_text() for path in world.output.iterdir()} == {"root.img": "of yesterday"}
    assert world.leftovers() == []


def test_after_a_kill_the_output_is_as_it_was_and_the_next_build_clears_up(
    world: World, closure: Tools, stuck: Callable[[], int]
) -> None:
    world.output.mkdir(parents=True)
    (world.output / "root.img").write_text("of yesterday")
    running = world.start("image", "--definition", world.node)
    eventually(lambda: stuck() > 0, running.said)
    running.signal(signal.SIGKILL)
    assert running.wait(PATIENCE) == -signal.SIGKILL
    os.kill(stuck(), signal.SIGKILL)
    visible = {path.name: path.read_text() for path in world.output.iterdir() if not path.name.startswith(".")}
    assert visible == {"root.img": "of yesterday"}

    (world.store / "tools" / closure.root.name / "launch/mksquashfs").unlink()
    (world.store / "tools" / closure.root.name / "launch/mksquashfs").symlink_to(closure.path("mksquashfs"))
    assert world.image() == 0
    assert set(snapshot(world.output)) >= {"cmdline", "disk.qcow2", "initrd.img", "root.img", "vmlinuz"}
    assert world.leftovers() == []


def test_killed_at_any_moment_the_next_build_is_right(world: World, seed: int) -> None:
    """Ten builds that change something each, killed at moments drawn from the whole length of one, in one store:
    whatever a killed one left is neither taken for whole nor in the way, a manifest lists what is there, and what
    comes out in the end is what an empty store gives.
    """
    chance = Random(seed)
    begin = time.monotonic()
    assert world.start("image", "--definition", world.node).wait(PATIENCE) == 0
    length = time.monotonic() - begin
    killed = 0
    for number in range(10):
        (world.overlay / "etc/issue").write_text(f"the small world, {number}\n")
        if number % 3 == 0:  # from nothing but downloads; else from what earlier ones made
            for kind in MADE:
                shutil.rmtree(
                    world.store / kind, ignore_errors=True
                )  # there is none, if the last one was killed at once
        running = world.start("image", "--definition", world.node)
        # A moment at random is what is tested here.
        time.sleep(chance.uniform(0, length if number % 3 == 0 else length / 2))
        running.signal(signal.SIGKILL)
        killed += running.wait(PATIENCE) == -signal.SIGKILL
        if (world.output / "manifest.json").exists():
            for artifact in json.loads((world.output / "manifest.json").read_text())["artifacts"]:
                assert sha256(world.output / artifact["name"]) == artifact["sha256"]
    assert killed > 1, "too few were killed to say anything"
    # What is up to date is left alone, with what the last one left if it was killed when all was done.
    (world.overlay / "etc/issue").write_text("the small world, at last\n")
    assert world.image() == 0
    assert world.leftovers() == []
    made = snapshot(world.output)
    for kind in (*MADE, "downloads"):
        shutil.rmtree(world.store / kind)
    assert world.image("--force") == 0
    assert snapshot(world.output) == made


def test_two_builds_into_one_output_take_turns(world: World) -> None:
    """The second waits, says so, and finds the work done."""
    gate = Gate(world)
    first = world.start("container", world.small)
    eventually(gate.is_reached, first.said)
    second = world.start("container", world.small)
    eventually(lambda: "waiting for it" in second.said(), second.said)
    gate.open(gate.data)
    assert first.wait(PATIENCE) == 0, first.said()
    assert second.wait(PATIENCE) == 0, second.said()
    assert first.said().endswith(f"built {world.output}\n")
    assert second.said().endswith(f"{world.output} is up to date\n")
    assert world.leftovers() == []


def test_a_waiting_build_goes_on_alone_when_the_first_fails(world: World) -> None:
    gate = Gate(world)
    first = world.start("container", world.small)
    eventually(gate.is_reached, first.said)
    second = world.start("container", world.small)
    eventually(lambda: "waiting for it" in second.said(), second.said)
    (world.pool / "tool.deb").unlink()
    (world.pool / "tool.deb").write_bytes(gate.data)
    gate.open(b"half")
    assert first.wait(PATIENCE) == 1, first.said()
    assert second.wait(PATIENCE) == 0, second.said()
    assert set(snapshot(world.output)) == {"small.tar", "small.oci.tar"} | REPORTS
    assert world.leftovers() == []

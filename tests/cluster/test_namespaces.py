"""The parts of the driver for nodes in namespaces; ``vm-tests/test_namespaces.py`` has whole nodes."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cluster.lifecycle.up import Options
from cluster.machines.namespaces import cgroup, requirements
from cluster.machines.namespaces.boot import Boot
from cluster.machines.namespaces.cable import Cable
from cluster.machines.namespaces.driver import REFUSED, SCRIPT, NamespaceDriver, refusal
from cluster.machines.namespaces.terminal import Console, Port, Terminal
from cluster.model.framing import FRAME_BYTES_MIN, frames_of, with_header
from cluster.model.protocol import KillNode
from cluster.testing import needs
from terminal import Failure, UsageFailure

CGROUP2 = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n"
DEADLINE_S = 240

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


# --- what this computer must have -----------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A computer that has all that it takes."""
    for name in ("proc/self", "dev/net"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/filesystems").write_text("nodev\ttmpfs\nnodev\toverlay\n\tsquashfs\n\text4\n")
    (tmp_path / "proc/self/mounts").write_text(f"proc /proc proc rw 0 0\n{CGROUP2}")
    for name in ("dev/net/tun", "dev/loop-control"):
        (tmp_path / name).touch()
    return tmp_path


def lacks(system: Path, uid: int = 0) -> list[str]:
    return requirements.lacks(system, uid=uid, which=lambda name: f"/usr/bin/{name}")


def test_a_computer_that_has_all_lacks_nothing(system: Path) -> None:
    assert lacks(system) == []


def test_all_that_is_missing_is_named_at_once(system: Path) -> None:
    (system / "proc/filesystems").write_text("nodev\ttmpfs\n")
    (system / "proc/self/mounts").write_text("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n")
    (system / "dev/net/tun").unlink()
    missing = requirements.lacks(system, uid=1000, which=lambda _: None)
    assert missing == [
        "it takes root",
        "the kernel has no squashfs (modprobe squashfs)",
        "the kernel has no overlay (modprobe overlay)",
        "there is no /dev/net/tun",
        "no control groups of version 2 are mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)",
        "there is no program 'mount'",
        "there is no program 'cp'",
    ]


def test_who_is_not_root_hears_it_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failure, match="it takes root") as caught:
        requirements.require()
    assert caught.value.hint == "cluster up --driver qemu needs none of this"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        (CGROUP2, "/sys/fs/cgroup/unified"),
        ("cgroup2 /with\\040blank cgroup2 rw 0 0\n", "/with blank"),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n", None),
        ("", None),
    ],
)
def test_where_control_groups_are(mounts: str, expected: str | None) -> None:
    assert cgroup.root(mounts) == (None if expected is None else Path(expected))


def test_clusters_of_one_name_in_two_homes_have_control_groups_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "root", lambda: Path("/cg"))
    one, other = cgroup.of(Path("/a/default"), 1), cgroup.of(Path("/b/default"), 1)
    assert one != other
    assert one == cgroup.of(Path("/a/default"), 1)
    assert one.name.startswith("flotilla-default-")
    assert one.name.endswith("-node-1")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (Options(size=1, driver="namespaces", arch="arm64"), "kernel runs amd64 nodes only"),
        (Options(size=1, driver="namespaces", accel="kvm"), "need no accelerator"),
        (Options(size=1, driver="namespaces", connect=("qemu:///session",)), "only libvirt connects"),
    ],
)
def test_options_that_cannot_be_meant(options: Options, complaint: str) -> None:
    with pytest.raises(UsageFailure, match=complaint):
        options.validate()


# --- what is refused, and what tests need -----------------------------------------------------------------------------


def test_what_cannot_be_is_refused_by_name() -> None:
    driver = NamespaceDriver.__new__(NamespaceDriver)  # it answers from a table
    for kind, why in REFUSED.items():
        assert driver.refusal(kind) == refusal(kind)
        assert why in refusal(kind)
    assert driver.refusal(KillNode) is None


NOTHING: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("wanted", "needed", "lacking", "expected"),
    [
        ("auto", NOTHING, [], "namespaces"),
        ("auto", NOTHING, ["it takes root"], "qemu"),
        ("auto", frozenset({"clock"}), [], "qemu"),
        ("auto", None, [], "qemu"),
        ("qemu", NOTHING, [], "qemu"),
        ("libvirt", frozenset({"clock"}), [], "libvirt"),
        ("namespaces", NOTHING, [], "namespaces"),
        ("namespaces", None, [], "namespaces"),
    ],
)
def test_the_quickest_driver_that_is_honest(
    wanted: str, needed: frozenset[str] | None, lacking: list[str], expected: str
) -> None:
    assert needs.driver(wanted, needed, lambda: lacking, "test") == expected


def test_a_driver_that_would_not_be_honest_is_refused() -> None:
    with pytest.raises(UsageFailure, match=r"do not have what this test needs \(clock: a clock of its own\)"):
        needs.driver("namespaces", {"clock"}, list, "test")
    with pytest.raises(UsageFailure, match="there are auto, qemu, libvirt, namespaces"):
        needs.driver("vmware", NOTHING, list, "test")


# --- the boot, as far as it goes without an image ---------------------------------------------------------------------


def test_a_boot_that_fails_says_why_and_leaves_no_process(tmp_path: Path) -> None:
    """Its control group does not exist: the first thing that a new PID 1 does.

    Without root, the first thing of all fails.
    """
    described = Boot(*["/nowhere"] * len(Boot.__dataclass_fields__))
    file = tmp_path / "boot.json"
    file.write_text(json.dumps(vars(described)))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        command = [sys.executable, "-I", "-S", str(SCRIPT), str(file), str(theirs.fileno())]
        done = subprocess.run(
            command, pass_fds=[theirs.fileno()], capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
        theirs.close()
        parsed = [json.loads(packet) for packet in iter(lambda: ours.recv(1 << 14), b"")]
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    failures = [message["failed"] for message in parsed if "failed" in message]
    assert len(failures) == 1
    assert "/nowhere/cgroup.procs" in failures[0] or "unshare" in failures[0]


# --- terminals -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[int, Port, Connect]]:
    """The node's end of a terminal, the port, and how a host connects to it."""
    terminal = Terminal(raw=True)
    node = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY)
    port = Port(terminal)
    try:
        await port.listen(folder / "port")
        yield node, port, lambda: asyncio.open_unix_connection(str(folder / "port"))
    finally:
        port.close()
        terminal.close()
        os.close(node)


def read_all(descriptor: int, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        found += os.read(descriptor, count - len(found))
    return bytes(found)


async def scenario_whole(folder: Path) -> None:
    every = bytes(range(256)) * 4096
    async with served(folder) as (node, _, connect):
        reader, writer = await connect()
        reading = asyncio.create_task(asyncio.to_thread(read_all, node, len(every)))
        writer.write(every)
        assert await reading == every, "to the node"
        saying = asyncio.create_task(asyncio.to_thread(write_all, node, every))
        assert await reader.readexactly(len(every)) == every, "from the node"
        await saying
        writer.close()


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def test_every_byte_passes_a_port_both_ways(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(scenario_whole(tmp_path), DEADLINE_S))


async def scenario_hosts(folder: Path) -> None:
    async with served(folder) as (node, _, connect):
        early = b"before anyone came" * 10000
        await asyncio.to_thread(write_all, node, early)
        first, first_writer = await connect()
        second, second_writer = await connect()
        # The last of it may still be in the terminal when a host comes.
        assert early.endswith(await first.read()), "the first host is hung up"
        second_writer.write(b"now")
        assert await asyncio.to_thread(read_all, node, 3) == b"now"
        await asyncio.to_thread(write_all, node, b"heard")
        assert (early + b"heard").endswith(await second.readuntil(b"heard"))
        second_writer.close()
        first_writer.close()


def test_a_port_has_one_host_and_without_one_the_node_is_not_held_up(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(scenario_hosts(tmp_path), DEADLINE_S))


async def scenario_console(log: Path) -> None:
    terminal = Terminal(raw=False)
    node = os.open(terminal.path, os.O_RDWR | os.O_NOCTTY)
    console = Console(terminal, log)
    os.write(node, b"first\n")
    while b"first" not in log.read_bytes():
        await asyncio.sleep(0)
    os.write(node, b"last\n")
    assert select.select([terminal.ours], [], [], DEADLINE_S)[0]  # the kernel carries it over in its own time
    console.close()  # what is there is written still
    terminal.close()
    os.close(node)


def test_a_console_is_written_to_its_last_word_behind_what_was_there(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"of another boot\n")
    asyncio.run(asyncio.wait_for(scenario_console(log), DEADLINE_S))
    assert log.read_bytes() == b"of another boot\nfirst\r\nlast\r\n"


# --- the cable -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def plugged(folder: Path) -> AsyncIterator[tuple[socket.socket, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A cable between a card, of which we have the node's side (datagrams keep frames apart as a TAP device does), and
    a switch that we are.
    """
    node, card = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    node.setblocking(False)
    card.setblocking(False)
    switch: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    server = await asyncio.start_unix_server(lambda *streams: switch.put_nowait(streams), str(folder / "net"))
    cable = Cable(card.detach())
    await asyncio.get_running_loop().create_unix_connection(lambda: cable, str(folder / "net"))
    reader, writer = await switch.get()
    try:
        yield node, reader, writer
    finally:
        cable.unplug()
        writer.close()
        server.close()
        node.close()


def frame(number: int) -> bytes:
    return number.to_bytes(FRAME_BYTES_MIN, "big") + b"x" * (number % 1500)


COUNT = 3000


async def scenario_frames(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    async with plugged(folder) as (node, reader, writer):

        async def send() -> None:
            for number in range(COUNT):
                await loop.sock_sendall(node, frame(number))

        sending = asyncio.create_task(send())
        heard = bytearray()
        total = sum(len(with_header(frame(number))) for number in range(COUNT))
        while len(heard) < total:
            heard += await reader.read(1 << 16)
        await sending
        assert list(frames_of(bytes(heard))) == [frame(number) for number in range(COUNT)], "to the switch"

        run = b"".join(with_header(frame(number)) for number in range(50))
        for at in range(len(run)):  # in pieces of one byte
            writer.write(run[at : at + 1])
            await writer.drain()
        for number in range(50):
            assert await loop.sock_recv(node, 1 << 16) == frame(number), "from the switch"


def test_frames_pass_a_cable_whole_and_in_order(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(scenario_frames(tmp_path), DEADLINE_S))


async def scenario_slow_switch(folder: Path) -> None:
    """A switch that does not read: the card fills up, so that the node is held back, and nothing is lost."""
    async with plugged(folder) as (node, reader, _):
        sent = 0
        big = b"y" * 60000
        while True:
            try:
                node.send(sent.to_bytes(8, "big") + big)
                sent += 1
            except BlockingIOError:
                before = sent
                for _ in range(100):
                    await asyncio.sleep(0)  # what the cable can still take, it takes now
                try:
                    node.send(sent.to_bytes(8, "big") + big)
                    sent += 1
                except BlockingIOError:
                    if sent == before:
                        break
        for number in range(sent):
            length = int.from_bytes(await reader.readexactly(4), "big")
            assert (await reader.readexactly(length))[:8] == number.to_bytes(8, "big")


def test_a_switch_that_does_not_read_holds_the_node_back(tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(scenario_slow_switch(tmp_path), DEADLINE_S))

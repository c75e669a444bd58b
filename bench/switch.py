#!/usr/bin/env python3
"""What two emulated nodes say to each other in a second, through our switch and through others, and what the switch's
process takes for it.

Two guests of the node image, one processor each, emulated (TCG), send zeros over TCP, from a few lines of Python that
run instead of the image's systemd; their network cards are the nodes' (virtio, an MTU of 1500). Each case boots them
again, in turn, and every transfer is timed:

* **ours**: ``cluster/network/switch.py`` in a process of its own, ``-netdev stream``;
* **ours, recorded**: the same with a capture of both cards;
* **ours, 1 ms late**: the same with the pair degraded by a delay of 1 ms, so that every frame is looked at and waits;
* **vde_switch**: Debian's vde2, ``-netdev vde``;
* **multicast**: no switch at all, ``-netdev socket,mcast=``, where every frame goes to all.

CPU is that of the switch's process alone, for the bytes that were sent. Nothing else should run on the computer; the
load before is in the JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import machine, report, spread
from builder.core.tree import Tree, file
from builder.formats.cpio import archive
from cluster.faults.book import FaultBook
from cluster.machines import qemu
from cluster.model.impairment import Impairment
from cluster.model.machine import MACHINES, cluster_mac
from cluster.network.impairment import Faults, both_ways
from cluster.network.segment import Segment
from terminal import Failure

MODULES = ("net/core/failover", "drivers/net/net_failover", "drivers/net/virtio_net")
PORT = 5001
BOOT_S = 120.0
TRANSFER_S = 300.0
WARM_UP_MIB = 32
"""Sent before anything is timed: until then the emulators translate code."""
INIT = """\
#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t squashfs -o ro /dev/vda /sysroot
for module in @MODULES@; do insmod /sysroot/usr/lib/modules/*/kernel/$module.ko; done
ip link set lo up
ip link set eth0 up
ip address add 10.77.0.$((10 + @NUMBER@))/24 dev eth0
exec chroot /sysroot /usr/bin/python3 -u -c "$(cat /guest.py)" @NUMBER@ </dev/ttyS0
"""
GUEST = """\
import socket, sys
if sys.argv[1] == "1":
    print("guest-ready")
    piece = bytes(1 << 18)
    for line in sys.stdin:
        with socket.create_connection(("10.77.0.12", @PORT@)) as peer:
            print("transfer-begins")
            for _ in range(int(line) * 4):
                peer.sendall(piece)
            peer.shutdown(socket.SHUT_WR)
            peer.recv(1)
        print("transfer-ends")
server = socket.create_server(("", @PORT@))
print("guest-ready")
piece = bytearray(1 << 18)
while True:
    peer, _ = server.accept()
    with peer:
        while peer.recv_into(piece):
            pass
"""


@dataclass
class Case:
    """What was measured of one way to connect the guests: Mbit/s of each transfer, and CPU seconds of the switch per
    GiB.
    """

    name: str
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def main() -> int:
    """Measure and report; returns the exit code."""
    if sys.argv[1:2] == ["--serve"]:
        return asyncio.run(serve(Path(sys.argv[2]), sys.argv[3]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a folder with a built image (default: the checkout's build/qemu)")
    parser.add_argument("--mib", type=int, default=256, help="of one transfer (default: %(default)s)")
    parser.add_argument("--transfers", type=int, default=3, help="of one boot (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=1, help="how often each case boots (default: %(default)s)")
    parser.add_argument("--case", action="append", choices=list(NETWORKS), help="only this one (may be repeated)")
    arguments = parser.parse_args()
    image = arguments.image or Path(__file__).parents[1] / "build" / "qemu"
    if not (image / "vmlinuz").exists():
        raise SystemExit(f"{image}: no image; osbuild image, or --image")
    facts = machine()
    program = qemu.find()
    cases = {name: Case(name) for name in arguments.case or NETWORKS}
    for _ in range(arguments.repeat):
        for case in cases.values():
            measure(case, image, program.path, arguments.mib, arguments.transfers)
    ours = next(iter(cases.values()))
    rows = [
        [case.name, spread(case.rates), spread(case.cpu), ratio(case.rates, ours.rates), ratio(case.cpu, ours.cpu)]
        for case in cases.values()
    ]
    results = {case.name: {"mbit_per_s": case.rates, "cpu_s_per_gib": case.cpu} for case in cases.values()}
    facts |= {"qemu": program.version_text, "mib": arguments.mib, "cases": results}
    report(["network", "Mbit/s", "CPU s per GiB", f"Mbit/s, {ours.name} = 1", f"CPU, {ours.name} = 1"], rows, facts)
    return 0


def ratio(values: Sequence[float], base: Sequence[float]) -> str:
    """The medians' ratio; a dash without values, or if the base is nothing."""
    if not values or not base or not statistics.median(base):
        return "-"
    return f"{statistics.median(values) / statistics.median(base):.2f}"


def measure(case: Case, image: Path, program: Path, mib: int, transfers: int) -> None:
    """Boot the guests on one network and time the transfers."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        pid, options = stack.enter_context(NETWORKS[case.name](folder))
        receiver = stack.enter_context(Guest.booted(2, options[1], image, program, folder))
        sender = stack.enter_context(Guest.booted(1, options[0], image, program, folder))
        for guest in (receiver, sender):
            guest.wait_for("guest-ready", BOOT_S)
        sender.transfer(WARM_UP_MIB)
        for _ in range(transfers):
            before = cpu_seconds(pid)
            seconds = sender.transfer(mib)
            case.rates.append(round(mib * 2**20 * 8 / 1e6 / seconds, 1))
            if pid is not None:
                case.cpu.append(round((cpu_seconds(pid) - before) / (mib / 1024), 2))
            print(f"{case.name}: {case.rates[-1]} Mbit/s", file=sys.stderr)


def cpu_seconds(pid: int | None) -> float:
    """CPU seconds of a process so far, all its threads; 0 without one."""
    return 0.0 if pid is None else time.clock_gettime((~pid << 3) | 2)  # the clock of a process: linux/posix-timers.h


class Guest:
    """A guest that boots straight into the init above, with its serial port as our pipe."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def booted(cls, number: int, netdev: str, image: Path, program: Path, folder: Path) -> Iterator[Guest]:
        """Guest ``number`` with the network card that ``netdev`` (id ``net``) is behind; ended with the block."""
        init = INIT.replace("@NUMBER@", str(number)).replace("@MODULES@", " ".join(MODULES))
        inside = Tree([file("init", init, 0o755), file("guest.py", GUEST.replace("@PORT@", str(PORT)))])
        initrd = folder / f"initrd-{number}"
        # The kernel unpacks archives that follow each other one over the other: this init replaces the image's.
        initrd.write_bytes((image / "initrd.img").read_bytes() + b"".join(archive(inside)))
        command = [
            *(program, "-nodefaults", "-no-user-config", "-display", "none", *MACHINES["amd64"]),
            *("-accel", "tcg,tb-size=256", "-smp", "1", "-m", "256", "-kernel", image / "vmlinuz", "-initrd", initrd),
            *("-append", "console=ttyS0 quiet panic=-1 no_timer_check", "-no-reboot", "-serial", "stdio"),
            *("-drive", f"file={image / 'root.img'},format=raw,if=virtio,readonly=on"),
            *("-netdev", netdev, "-device", f"virtio-net-pci,netdev=net,mac={cluster_mac(number)}"),
        ]
        argv = [str(word) for word in command]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        try:
            yield cls(process)
        finally:
            process.kill()
            process.communicate()

    def wait_for(self, word: str, seconds: float) -> None:
        """Read the console until a line has ``word``. Raises ``SystemExit`` if it does not come."""
        assert self._process.stdout is not None
        deadline, said = time.monotonic() + seconds, []
        for line in self._process.stdout:
            said.append(line.decode(errors="replace").rstrip())
            if word in said[-1]:
                return
            if time.monotonic() > deadline:
                break
        raise SystemExit(f"the guest did not say {word!r}:\n" + "\n".join(said[-20:]))

    def transfer(self, mib: int) -> float:
        """Have the guest send so much; the seconds that it took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{mib}\n".encode())
        self.wait_for("transfer-begins", TRANSFER_S)
        begin = time.monotonic()
        self.wait_for("transfer-ends", TRANSFER_S)
        return time.monotonic() - begin


# The networks: the process to watch, and each guest's -netdev

Network = tuple[int | None, tuple[str, str]]


def _ours(folder: Path, how: str) -> Iterator[Network]:
    command = [sys.executable, "-m", "bench.switch", "--serve", str(folder), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            sides = [f"stream,id=net,server=off,addr.type=unix,addr.path={folder}/net-{number}" for number in (1, 2)]
            yield process.pid, (sides[0], sides[1])
        finally:
            process.kill()


@contextlib.contextmanager
def ours(folder: Path) -> Iterator[Network]:
    """Our switch with nothing wrong."""
    yield from _ours(folder, "whole")


@contextlib.contextmanager
def ours_recorded(folder: Path) -> Iterator[Network]:
    """Our switch, both cards recorded."""
    yield from _ours(folder, "recorded")


@contextlib.contextmanager
def ours_late(folder: Path) -> Iterator[Network]:
    """Our switch with a delay of 1 ms."""
    yield from _ours(folder, "late")


@contextlib.contextmanager
def vde(folder: Path) -> Iterator[Network]:
    """Debian's vde_switch."""
    program = shutil.which("vde_switch")
    if program is None:
        raise Failure("no vde_switch to compare with", hint="sudo apt-get install vde2")
    path = folder / "vde"
    with subprocess.Popen([program, "-s", str(path)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        try:
            while not (path / "ctl").exists():
                time.sleep(0.02)
            side = f"vde,id=net,sock={path}"
            yield process.pid, (side, side)
        finally:
            process.kill()


@contextlib.contextmanager
def multicast(folder: Path) -> Iterator[Network]:  # noqa: ARG001 - it needs none
    """UDP multicast on loopback."""
    side = f"socket,id=net,mcast=230.77.0.1:{20000 + os.getpid() % 20000},localaddr=127.0.0.1"
    yield None, (side, side)


NETWORKS = {
    "ours": ours,
    "ours, 1 ms late": ours_late,
    "ours, recorded": ours_recorded,
    "vde_switch": vde,
    "multicast": multicast,
}


async def serve(folder: Path, how: str) -> int:
    """Be our switch until killed."""
    segment = Segment({number: folder / f"net-{number}" for number in (1, 2)}, FaultBook(lambda *_: None))
    await segment.switch.start()
    if how == "recorded":
        for number in (1, 2):
            segment.capture(number, folder / f"{number}.pcap", bytes_max=2 << 30)
    if how == "late":
        segment.switch.faults = Faults().worsening(both_ways(1, 2), Impairment(delay_s=0.001))
    print(json.dumps({"serving": str(folder)}), flush=True)
    await asyncio.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

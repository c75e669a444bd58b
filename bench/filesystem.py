#!/usr/bin/env python3
"""Which filesystem the root should have: seconds to pack it, its size, and what a boot under emulation costs.

The tree of image/node.yaml is packed with each writer and option; then QEMU boots it, emulated (TCG), with an empty
state disk, until the console shows multi-user.target. CPU seconds are those of the QEMU process: they say what
decompression costs, also on a busy machine. Wall seconds do not mean much while other machines run, so this refuses to
boot then ('--no-boot' leaves boots out).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.report import machine, report, spread
from builder.core import data
from builder.core.store import Store
from builder.core.tree import Tree
from builder.debian import mirror
from builder.debian.lockfile import Lock
from builder.debian.packages import obtain
from builder.debian.tools import Tools
from builder.definition import definition
from builder.formats import cpio, filesystem
from builder.pipeline import assemble
from builder.pipeline.initrd import initrd
from builder.pipeline.workshop import Workshop

CANDIDATES: tuple[tuple[str, ...], ...] = (
    ("squashfs", "-comp", "lz4"),
    ("squashfs", "-comp", "lz4", "-b", "32K"),
    ("squashfs", "-comp", "gzip"),
    ("squashfs", "-comp", "zstd", "-Xcompression-level", "1"),
    ("squashfs", "-comp", "zstd", "-Xcompression-level", "3", "-b", "64K"),
    ("squashfs", "-comp", "zstd", "-Xcompression-level", "15", "-b", "256K"),
    ("squashfs", "-comp", "zstd", "-Xcompression-level", "19", "-b", "256K"),
    ("squashfs", "-comp", "zstd", "-Xcompression-level", "19", "-b", "1M"),
    ("squashfs", "-comp", "xz", "-Xbcj", "x86", "-b", "1M"),
    ("erofs",),
    ("erofs", "-zlz4"),
    ("erofs", "-zlz4hc,9", "-C65536"),
    ("erofs", "-zzstd,level=3", "-C65536"),
    ("erofs", "-zzstd,level=3", "-C65536", "-Efragments,dedupe"),
)

REACHED = b"multi-user.target"
BOOT_SECONDS_MAX = 180
TICKS = os.sysconf("SC_CLK_TCK")


class Result(NamedTuple):
    """What was measured of one candidate: seconds of each packing, the image's size, seconds of each boot."""

    what: str
    pack: list[float]
    bytes: int
    boot_wall: list[float]
    boot_cpu: list[float]

    def row(self) -> list[str]:
        """It as a row of the table."""
        spreads = [spread(values) for values in (self.pack, self.boot_wall, self.boot_cpu)]
        return [self.what, spreads[0], f"{self.bytes / 1e6:.0f}", *spreads[1:]]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="times that each is measured (default: 3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only candidates with TEXT in their options")
    parser.add_argument("--no-boot", action="store_true", help="measure packing only")
    parser.add_argument("--store", type=Path, metavar="DIR", help="where packages and tools are (default: the user's)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="a folder for the images (default: TMPDIR)")
    arguments = parser.parse_args()
    facts = machine()
    if not arguments.no_boot and (others := running_machines()):
        print(f"{others} QEMU processes are running: their seconds would be ours (--no-boot?)", file=sys.stderr)
        return 1
    found = []
    with tempfile.TemporaryDirectory(prefix="bench-filesystem-", dir=arguments.work) as name:
        work = Path(name)
        tree, epoch, tools = node(Store(arguments.store), work)
        for kind, *options in CANDIDATES:
            title = " ".join([kind, *options])
            if arguments.only not in title:
                continue
            packs, boots = [], []
            for _ in range(arguments.repeat):
                root = work / "root.img"
                root.unlink(missing_ok=True)
                os.sync()
                begin = time.monotonic()
                filesystem.pack(tree, kind, options, root, epoch, tools)
                packs.append(time.monotonic() - begin)
                if not arguments.no_boot:
                    boots.append(boot(work))
            found.append(
                Result(title, packs, root.stat().st_size, [each[0] for each in boots], [each[1] for each in boots])
            )
            print("  ".join(found[-1].row()), file=sys.stderr)
    rows = [each.row() for each in found]
    results = [each._asdict() for each in found]
    report(["filesystem and options", "pack s", "MB", "boot wall s", "boot CPU s"], rows, {**facts, "results": results})
    return 0


def node(store: Store, work: Path) -> tuple[Tree, int, Tools]:
    """The finished tree of a node and its epoch; its kernel, initrd and command line are put into ``work``."""
    path = data.image() / "node.yaml"
    what, lock, tools = definition.load(path), Lock.load(path.with_suffix(".lock")), Tools.ours(store)
    assert what.kernel is not None
    packages = obtain(lock, store, mirror.find)
    base = assemble.base(Workshop(what, lock, store, tools), packages)
    tree = assemble.finish(Workshop(what, lock, store, tools), base.copy(), packages)
    (work / "vmlinuz").write_bytes(assemble.kernel_image(packages))
    entries = initrd(base, what.kernel.initrd, data.image() / "initrd/init")
    (work / "initrd.img").write_bytes(b"".join(cpio.archive(entries)))
    (work / "cmdline").write_text(what.kernel.command_line)
    return tree, lock.epoch, tools


def boot(work: Path) -> tuple[float, float]:
    """Seconds from QEMU's start until the console shows the target, and the CPU seconds that QEMU spent on it."""
    console, state = work / "console.log", work / "state.img"
    console.unlink(missing_ok=True)
    state.unlink(missing_ok=True)
    with state.open("wb") as file:
        file.truncate(8 << 30)
    command = [
        *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", f"file:{console}"),
        *("-kernel", work / "vmlinuz", "-initrd", work / "initrd.img"),
        *("-append", (work / "cmdline").read_text()),
        *("-drive", f"if=none,id=root,file={work / 'root.img'},format=raw,readonly=on"),
        *("-device", "virtio-blk-pci,drive=root,serial=root"),
        *("-drive", f"if=none,id=state,file={state},format=raw,cache=unsafe"),
        *("-device", "virtio-blk-pci,drive=state,serial=state", "-device", "virtio-rng-pci"),
    ]
    begin = time.monotonic()
    with ended(subprocess.Popen(list(map(str, command)))) as process:
        while True:
            said = console.read_bytes() if console.exists() else b""
            wall = time.monotonic() - begin
            if REACHED in said:
                return wall, cpu_seconds(process.pid)
            if wall > BOOT_SECONDS_MAX or process.poll() is not None:
                sys.stderr.write(said[-3000:].decode("utf-8", "replace"))
                raise SystemExit(f"the console showed no {REACHED.decode()} in {wall:.0f} s")
            time.sleep(0.05)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, which does not outlive the block."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def running_machines() -> int:
    """How many QEMU system emulators run on this computer."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            count += path.read_text().startswith("qemu-system")
    return count


if __name__ == "__main__":
    raise SystemExit(main())

"""A machine as it is sold: it starts with its firmware, from whatever is plugged in."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

from cluster.client.ssh import Connection
from cluster.machines import probe, qemu
from cluster.model.accelerator import Accelerator
from cluster.model.layout import cache_root
from cluster.model.machine import EMULATED_PROCESSOR
from cluster.model.run import RunResult
from terminal import Failure
from tests.ports import free_ports

CODE: Final = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES: Final = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

MAC: Final = "52:54:00:12:34:56"
"""Of the network card."""

BOOT_S: Final = 30
"""From power-on to the login, with hardware's speed and firmware's leisure; the accelerator's factor comes on top."""
COMMAND_S: Final = 20
"""The same for a command."""
STATE_BYTES: Final = 256 << 20
"""Of a state disk of its own."""


@cache
def fastest() -> Accelerator:
    """What runs guests here."""
    return probe.remembered(qemu.find(), cache_root() / "accelerator.json")


def processor() -> str:
    """The one that a node of a cluster would have."""
    return EMULATED_PROCESSOR if fastest().name == "tcg" else "max"


class Machine:
    """A running machine. Its first serial line is written to a file, its ssh server has a port of this computer."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], port: int, key: Path) -> None:
        self._folder, self._process = folder, process
        self._ssh = Connection(port, key, folder / "known_hosts", (folder.name,), patience_s=BOOT_S * fastest().factor)

    @property
    def console(self) -> str:
        """What it has said so far."""
        path = self._folder / "console.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until the console shows ``pattern``. An AssertionError has the end of the console."""
        end = time.monotonic() + BOOT_S * fastest().factor
        while True:
            gone = self._process.poll() is not None  # read first: its last output is on the console by then
            if (found := re.search(pattern, self.console)) is not None:
                return found
            if gone or time.monotonic() > end:
                why = f"QEMU ended with {self._process.returncode}" if gone else "in time"
                words = (self._folder / "qemu.log").read_text("utf-8", "replace")
                raise AssertionError(f"no {pattern!r} on the console ({why}):\n{words}{self.console[-3000:]}")
            time.sleep(0.2)

    def wait_until_off(self) -> str:
        """Wait until it has switched itself off, or would start again. Returns all that it said."""
        try:
            self._process.wait(BOOT_S * fastest().factor)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs on:\n{self.console[-3000:]}") from None
        return self.console

    def run(self, command: str, stdin: BinaryIO | None = None) -> RunResult:
        """Run ``command`` as core, over ssh."""
        return self._ssh.run(command, COMMAND_S * fastest().factor, stdin)

    def check(self, command: str, stdin: BinaryIO | None = None) -> str:
        """The same; it must succeed. Returns what it printed."""
        result = self.run(command, stdin)
        assert result.rc == 0, f"{command!r} ended with {result.rc}:\n{result.out}{result.err}"
        return result.out

    def power_off(self) -> None:
        """As its owner would; all that it wrote is on its disks then."""
        with suppress(Failure):  # the connection may break before the answer
            self.run("sudo systemctl poweroff")
        self._ssh.close()
        self._process.wait(BOOT_S * fastest().factor)


@contextmanager
def machine(
    folder: Path, key: Path, devices: Sequence[str] = (), *, uefi: bool, network: Path | None = None
) -> Iterator[Machine]:
    """A machine with ``devices`` (words for QEMU), switched on; its plug is pulled when the block ends. ``folder`` is
    made for it.

    With ``network``, it starts from that: its card (``MAC``) is configured to fetch ``boot.ipxe`` of this folder.
    """
    folder.mkdir()
    (port,) = free_ports(1)
    firmware: list[str] = []
    if uefi:
        variables = folder / "variables.fd"
        shutil.copyfile(VARIABLES, variables)
        flash = "if=pflash,format=raw,file="
        firmware = ["-drive", f"readonly=on,{flash}{CODE}", "-drive", f"{flash}{variables}"]
    served = "" if network is None else f",tftp={network},bootfile=boot.ipxe"
    rom = "romfile=" if network is None else "bootindex=0"
    command = [
        *(str(qemu.find().path), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-M", "q35", "-accel", fastest().name, "-cpu", processor(), "-smp", "1", "-m", "1024"),
        *firmware,
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22{served}"),
        *("-device", f"virtio-net-pci,netdev=net,mac={MAC},{rom}", "-device", "virtio-rng-pci"),
        *("-serial", f"file:{folder / 'console.log'}"),
        *devices,
    ]
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    running = Machine(folder, process, port, key)
    try:
        yield running
    finally:
        process.kill()
        process.wait()


@contextmanager
def direct(
    image: Path, root: Path, command_line: str, work: Path, key: Path, more: Sequence[str] = (), name: str = "machine"
) -> Iterator[Machine]:
    """A machine whose kernel is given ``root`` and ``command_line``, and ``work/state``, which is empty unless it is
    there already, and the devices ``more``; ``name`` is of its own folder in ``work``. A panic ends it at once, not
    after 10 seconds.
    """
    state = work / "state"
    with state.open("ab") as file:
        file.truncate(STATE_BYTES)
    devices = [
        *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img")),
        *("-append", f"{command_line.strip()} panic=-1"),
        *drive("root", root, "virtio-blk-pci,serial=root", writable=False),
        *drive("state", state, "virtio-blk-pci,serial=state"),
        *more,
    ]
    with machine(work / name, key, devices, uefi=False) as running:
        yield running


def drive(name: str, path: Path, device: str, *, writable: bool = True) -> list[str]:
    """Words for QEMU: the raw file ``path`` as a ``device`` (with its options)."""
    mode = "cache=unsafe,discard=unmap" if writable else "readonly=on"
    return ["-drive", f"if=none,id={name},format=raw,file={path},{mode}", "-device", f"{device},drive={name}"]

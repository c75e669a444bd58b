"""Which accelerator really runs a guest here, proven by running one, and how much slower than hardware it is.

An openable ``/dev/kvm`` proves nothing: there are nested hypervisors where it creates a virtual machine that never runs
past its firmware. So a guest of one sector is run: it switches to 64-bit mode with paging, counts, and leaves by QEMU's
debug exit.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from cluster.machines.qemu import Qemu
from cluster.model.accelerator import Accelerator
from terminal import Failure, record

PROBE_DEADLINE_S = 5.0
"""Hardware runs the probe in 0.3 s, most of it firmware."""
PROBE_EMULATED_DEADLINE_S = 60.0
EXIT_CODE = (0x10 << 1) | 1
"""isa-debug-exit ends QEMU with twice the byte that the guest wrote, plus one; 33 is no code of QEMU's own."""
DISK_BYTES = 1 << 20
"""The firmware does not boot from a disk smaller than a cylinder."""
EMULATED_REFERENCE_S = 0.5
"""Processor seconds that the probe takes emulated on the machine that :data:`EMULATED_FACTOR` was measured on."""
EMULATED_FACTOR = 10.0
"""How much longer a node takes to boot emulated than with KVM, at :data:`EMULATED_REFERENCE_S`.

Waits are scaled by it.
"""
FACTOR_MIN, FACTOR_MAX = 6.0, 60.0

_CODE = bytes.fromhex(
    "fa"  # cli
    "31c0 8ed8 8ec0 8ed0"  # xor ax,ax; ds = es = ss = 0
    "bc007c fc"  # mov sp,0x7c00; cld
    "bf0010 b90018 f3ab"  # clear three pages from 0x1000: the page tables
    "c70600100320"  # level 4 at 0x1000 -> 0x2000
    "c70600200330"  # level 3 at 0x2000 -> 0x3000
    "c70600308300"  # level 2 at 0x3000 -> one page of 2 MiB, address 0, writable
    "66b800100000 0f22d8"  # cr3 = 0x1000
    "66b820000000 0f22e0"  # cr4 = PAE
    "66b9800000c0 0f32 0d0001 0f30"  # EFER.LME: long mode
    "0f0116807c"  # lgdt [0x7c80]
    "0f20c0 660d01000080 0f22c0"  # cr0: protection and paging
    "ea5c7c0800"  # jump to the next instruction, now 64-bit code
    "b900e1f505"  # mov ecx,100000000
    "ffc9 75fc"  # dec ecx; jnz back
    "b010 e6f4"  # out 0xf4,0x10: leave
    "f4 ebfd"  # hlt; jmp back
)
_SEGMENTS = bytes(8) + bytes.fromhex("00000000009a2000")  # a null and a 64-bit code descriptor, at 0x7c70
_SEGMENTS_POINTER = bytes.fromhex("0f00 707c0000")  # at 0x7c80
BOOT_SECTOR = _CODE.ljust(0x70, b"\0") + (_SEGMENTS + _SEGMENTS_POINTER).ljust(510 - 0x70, b"\0") + b"\x55\xaa"


def choose(qemu: Qemu, wanted: str = "auto") -> Accelerator:
    """The accelerator for this computer: KVM if a guest runs with it, else emulation.

    ``wanted`` "kvm" or "tcg" insists.

    Raises :class:`Failure` if what is wanted does not run a guest, or if ``qemu`` is too old for it.
    """
    reason = "requested"
    if wanted != "tcg":
        trouble = kvm_trouble(qemu)
        if trouble is None:
            qemu.require("kvm")
            return Accelerator("kvm", 1.0, "a guest ran with KVM")
        if wanted == "kvm":
            raise Failure(
                f"KVM does not work here: {trouble}", hint="--accel tcg emulates the nodes: slower, and needs no KVM"
            )
        reason = f"KVM does not work here: {trouble}"
    qemu.require("tcg")
    seconds = run_probe(qemu, "tcg", PROBE_EMULATED_DEADLINE_S)
    return Accelerator("tcg", emulated_factor(seconds), reason)


def kvm_trouble(qemu: Qemu) -> str | None:
    """Why KVM cannot be used, or None if a guest ran with it."""
    device = Path("/dev/kvm")
    if not device.exists():
        return "there is no /dev/kvm"
    if not os.access(device, os.R_OK | os.W_OK):
        return "no permission for /dev/kvm (the group kvm has it)"
    try:
        run_probe(qemu, "kvm", PROBE_DEADLINE_S)
    except Failure as failure:
        return failure.message
    return None


def run_probe(qemu: Qemu, accelerator: str, deadline_s: float) -> float:
    """Run the one-sector guest and return the processor seconds it took, which a busy computer does not stretch.

    Raises :class:`Failure` saying what happened instead.
    """
    with tempfile.NamedTemporaryFile(prefix="flotilla-probe-") as disk:
        disk.write(BOOT_SECTOR.ljust(DISK_BYTES, b"\0"))
        disk.flush()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            done = subprocess.run(
                probe_argv(qemu, accelerator, Path(disk.name)), capture_output=True, text=True, timeout=deadline_s
            )
        except subprocess.TimeoutExpired as error:
            raise Failure(f"a test guest was still silent after {deadline_s:.0f} s", where=str(qemu.path)) from error
        except OSError as error:
            raise Failure("QEMU cannot be run", where=str(qemu.path)) from error
    if done.returncode != EXIT_CODE:
        said = done.stderr.strip().splitlines()
        raise Failure(
            f"a test guest failed: {said[-1] if said else f'exit code {done.returncode}'}", where=str(qemu.path)
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def probe_argv(qemu: Qemu, accelerator: str, disk: Path) -> list[str]:
    """The command line of the probe: the machine and CPU that nodes get, one disk, and the debug exit."""
    argv = [str(qemu.path), "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-M", "q35", "-accel", accelerator, "-cpu", "max", "-m", "64"]
    drive = {"driver": "raw", "node-name": "probe", "file": {"driver": "file", "filename": str(disk)}}
    argv += ["-blockdev", json.dumps(drive), "-device", "ide-hd,drive=probe"]
    return [*argv, "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]


def emulated_factor(probe_seconds: float) -> float:
    """How many times longer an emulated node takes than one with hardware, where the probe took ``probe_seconds``."""
    return round(min(max(EMULATED_FACTOR * probe_seconds / EMULATED_REFERENCE_S, FACTOR_MIN), FACTOR_MAX), 1)


def remembered(qemu: Qemu, cache: Path, wanted: str = "auto") -> Accelerator:
    """:func:`choose`, run once per boot of this computer, QEMU and wish; the result is kept in the file ``cache``."""
    key = f"{wanted} {qemu.path} {qemu.version_text} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    try:
        kept = record.parse(cache.read_bytes())
        if kept["key"] == key:
            return record.build(Accelerator, kept["accelerator"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no answer yet, or one of another version of ours: ask again
    answer = choose(qemu, wanted)
    with suppress(OSError):  # then the next command asks again
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"key": key, "accelerator": asdict(answer)}))
    return answer

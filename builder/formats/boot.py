"""The unified kernel image (UKI), which firmware starts, and the EFI system partition (ESP) that holds it.

A UKI is kernel, initrd and command line in one EFI program, so that they are updated, and could be signed, as one.
systemd-boot chooses between the UKIs of an ESP. Specifications: UAPI "Unified Kernel Image" and "Boot Loader
Specification"; UEFI 13.3 for the ESP.
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.core.toolbox import Closure
from builder.debian.deb import Package
from terminal import Failure

_FOLDER: Final = "usr/lib/systemd/boot/efi/"
_EFI_NAMES: Final = {"amd64": "x64", "arm64": "aa64"}
_UKIFY: Final = "usr/lib/systemd/ukify"
_KEEPING_BYTECODE: Final = "import runpy, sys; sys.dont_write_bytecode = False; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
"""Runs a Python program of the closure and keeps its byte code.

Compiling the modules at each start takes longer than ukify's work.
"""

COMMAND_LINE_BYTES: Final = 2048
"""Size of a command line with its final NUL, as in the kernel of x86 and arm64 (COMMAND_LINE_SIZE)."""

# Offsets of the PE format: of the header's place in the file; from there, of what follows the COFF header, and of
# SizeOfInitializedData; in a row of the section table (Name, VirtualSize, VirtualAddress, SizeOfRawData,
# PointerToRawData), of VirtualSize.
_PE_HEADER: Final = 0x3C
_COFF_BYTES: Final = 24
_INITIALIZED_DATA: Final = 32
_SECTION: Final = struct.Struct("<8sIIII16x")
_SECTION_SIZE: Final = 8

LOADER_CONF: Final = "timeout 0\nconsole-mode keep\neditor no\n"
"""Configuration of systemd-boot: no menu unless a key is held, and no editing of the command line at the console."""


@dataclass(frozen=True)
class BootFiles:
    """systemd-boot and the stub that makes a kernel an EFI program, for one architecture in UEFI's name (``x64``)."""

    efi_name: str
    loader: bytes
    stub: bytes

    @classmethod
    def of(cls, packages: Sequence[Package], architecture: str) -> BootFiles:
        """Those that the packages bring. Raises :class:`Failure` if none does."""
        name = _EFI_NAMES[architecture]
        found = {entry.path: entry for package in packages for entry in package.below(_FOLDER)}
        files = []
        for path in (f"{_FOLDER}systemd-boot{name}.efi", f"{_FOLDER}linux{name}.efi.stub"):
            if path not in found:
                raise Failure(
                    "a disk needs systemd-boot",
                    where="/" + path,
                    hint="add systemd-boot-efi to the definition's packages",
                )
            files.append(found[path].content.read())
        return cls(name, *files)

    @property
    def removable(self) -> str:
        """The path where firmware looks on an unknown disk."""
        return f"EFI/BOOT/BOOT{self.efi_name.upper()}.EFI"


def unified_kernel(
    files: BootFiles,
    kernel: Path,
    initrds: Sequence[Path],
    os_release: bytes,
    output: Path,
    epoch: int,
    tools: Closure,
) -> None:
    """Write the UKI of these as the new file ``output``, with an empty command line of full size.

    The same input gives the same bytes.

    Raises :class:`builder.core.toolbox.ToolFailure` if ukify fails.
    """
    inputs = {"stub": files.stub, "os-release": os_release, "cmdline": b"-" * COMMAND_LINE_BYTES}
    # Byte code is kept by the path of its source: resolve links to the closure, so that it is always the same.
    tools = tools.resolved()
    with tempfile.TemporaryDirectory(dir=output.parent) as name:
        work = Path(name)
        for part, data in inputs.items():
            (work / part).write_bytes(data)
        tools.run(
            "python3",
            *("-X", f"pycache_prefix={tools.root / 'bytecode'}", "-c", _KEEPING_BYTECODE),
            *(str(tools.root / _UKIFY), "build", "--linux", str(kernel)),
            *(word for path in initrds for word in ("--initrd", str(path))),
            *("--cmdline", f"@{work / 'cmdline'}", "--os-release", f"@{work / 'os-release'}"),
            *("--stub", str(work / "stub"), "--efi-arch", files.efi_name),
            # Otherwise ukify unpacks the kernel to find its version, which nothing here reads.
            *("--uname", "0", "--output", str(output)),
            epoch=epoch,
        )


def set_command_line(uki: bytearray, command_line: str) -> None:
    """Replace the command line of the program ``uki`` by ``command_line``.

    Each change of the root has a new hash, and nothing else of its UKI changes.

    Raises :class:`Failure` if it is too long, or if ``uki`` has no section for one. Format: Microsoft's "PE Format",
    "Section Table".
    """
    text = command_line.encode()
    if len(text) >= COMMAND_LINE_BYTES:
        raise Failure(
            f"the kernel's command line has {len(text)} bytes; {COMMAND_LINE_BYTES - 1} are the most it takes",
            where=f"{command_line[:60]}...",
        )
    (header,) = struct.unpack_from("<I", uki, _PE_HEADER)
    count, optional = struct.unpack_from("<6xH12xH", uki, header)
    table = header + _COFF_BYTES + optional
    for row in range(table, table + count * _SECTION.size, _SECTION.size):
        name, size, _, room, place = _SECTION.unpack_from(uki, row)
        if name == b".cmdline" and room == COMMAND_LINE_BYTES:
            struct.pack_into("<I", uki, row + _SECTION_SIZE, len(text))
            (total,) = struct.unpack_from("<I", uki, header + _INITIALIZED_DATA)
            struct.pack_into("<I", uki, header + _INITIALIZED_DATA, total - size + len(text))
            uki[place : place + room] = text.ljust(room, b"\0")
            return
    raise Failure(
        "this unified kernel has no room for a command line", hint="ukify of another version? See image/tools.lock"
    )


def contents_digest(contents: Mapping[str, bytes | bytearray]) -> bytes:
    """The SHA-256 of files by their paths."""
    total = hashlib.sha256()
    for path, data in sorted(contents.items()):
        total.update(path.encode() + b"\0")
        total.update(data)
    return total.digest()


def system_partition(
    contents: Mapping[str, bytes | bytearray], size: int, output: Path, epoch: int, tools: Closure
) -> None:
    """Write a FAT file system of ``size`` bytes with ``contents`` (path to bytes) as the new, sparse file ``output``.

    FAT32 with one sector per cluster, since FAT32 must have at least 65525 clusters; smaller ones are FAT16. All times
    are ``epoch``, the serial number comes from the contents. Raises :class:`Failure` if they do not fit.
    """
    needed = sum(len(data) for data in contents.values())
    if needed > size - (size >> 5) - (1 << 20):
        raise Failure(
            f"the EFI system partition is too small: {needed / 1e6:.1f} MB do not fit into {size / 1e6:.1f} MB",
            hint="give it more room with 'disk: {esp: ...}' in the definition",
        )
    serial = contents_digest(contents).hex()[:8]
    with output.open("wb") as file:
        file.truncate(size)
    kind = "32" if size // 512 > 66_000 else "16"
    tools.run(
        "mkfs.vfat",
        "--invariant",
        "-F",
        kind,
        "-s",
        "1" if kind == "32" else "4",
        "-i",
        serial,
        "-n",
        "ESP",
        str(output),
    )
    folders = sorted({"/".join(path.split("/")[:end]) for path in contents for end in range(1, path.count("/") + 1)})
    if folders:
        tools.run("mmd", "-i", str(output), *(f"::{folder}" for folder in folders), epoch=epoch)
    for path, data in sorted(contents.items()):
        tools.run("mcopy", "-i", str(output), "-", f"::{path}", feed=data, epoch=epoch)

"""One image for CDs and USB sticks: ISO 9660 with boot entries for BIOS and UEFI, and a partition table.

    0        protective MBR and partition table, for firmware that boots from a USB disk   UEFI 5.3
    32 KiB   ISO 9660 with Rock Ridge names                                                 ECMA-119, RRIP
             El Torito: a loader for BIOS, a FAT file system for UEFI                       El Torito 1.0, UEFI 13.3.2.1
    end      the backup of the partition table

The table is in ISO 9660's system area. Its only partition is the FAT file system, at its place in the ISO. pycdlib
writes the file system, sfdisk the table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.core.toolbox import Closure
from builder.formats import disk
from media.isoclock import fixed_clock
from terminal import Failure

SECTOR: Final = 2048
_EFI: Final = 0xEF
# The table's first entries take 34 sectors of 512 bytes; ISO 9660 begins at the 64th.
_SYSTEM_AREA: Final = 64
_LOADER_SECTORS: Final = 4  # of 512 bytes: what a BIOS loads, by convention; the loader reads the rest of itself
_NAME_MAX: Final = 31


@dataclass(frozen=True)
class File:
    """The first ``size`` bytes of ``source``, as ``path`` of the ISO: ``flotilla/disk.json``."""

    path: str
    source: Path
    size: int

    @classmethod
    def whole(cls, path: str, source: Path) -> File:
        """All of ``source``."""
        return cls(path, source, source.stat().st_size)


@dataclass(frozen=True)
class Contents:
    """The contents of an ISO: ``efi`` is the path of the FAT file system for UEFI, ``bios`` that of any loader."""

    label: str
    files: Sequence[File]
    efi: str
    bios: str | None = None


def write(contents: Contents, identity: Sequence[bytes], output: Path, epoch: int, tools: Closure) -> None:
    """Write the new file ``output``. The same contents and ``identity`` give the same bytes.

    The identifiers of the partition table are derived from ``identity``.

    All times are ``epoch`` (seconds). Raises :class:`Failure` if two paths look the same to a reader without Rock
    Ridge, and :class:`builder.core.toolbox.ToolFailure` if sfdisk fails.
    """
    start, size = _file_system(contents, output, epoch)
    with output.open("r+b") as file:
        # Whole MiB, and one more: the backup of the table must not overwrite a file.
        file.truncate(-(-output.stat().st_size // disk.MIB) * disk.MIB + disk.MIB)
    place = f"start={start // disk.SECTOR}, size={-(-size // disk.SECTOR)}"
    script = [
        "label: gpt",
        f"label-id: {disk.derived('iso', *identity)}",
        "unit: sectors",
        f"first-lba: {_SYSTEM_AREA}",
        f'{place}, type={disk.ESP_TYPE}, uuid={disk.derived("iso esp", *identity)}, name="{contents.label}"',
    ]
    quietly = ("--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", "--wipe-partitions", "never")
    tools.run("sfdisk", *quietly, str(output), feed="\n".join([*script, ""]).encode())


def plain(path: str) -> str:
    """The name that a path has for readers without Rock Ridge (BIOS loaders): ``/BOOT/VMLINUZ.;1``.

    Raises :class:`Failure` if a part of it is longer than ISO 9660 allows.
    """
    *folders, name = path.split("/")
    stem, _, suffix = name.rpartition(".") if "." in name else (name, "", "")
    for part in (*folders, name):
        if not 0 < len(part) < _NAME_MAX:
            raise Failure(f"a name on a CD has at most {_NAME_MAX - 1} characters", where=path)
    return "/" + "/".join((*map(_letters, folders), f"{_letters(stem)}.{_letters(suffix)};1"))


def _letters(text: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in text).upper()


def _file_system(contents: Contents, output: Path, epoch: int) -> tuple[int, int]:
    """Write the ISO without a partition table; the place (bytes) and size of the FAT file system in it."""
    names: dict[str, str] = {}
    for file in contents.files:
        if (other := names.setdefault(plain(file.path), file.path)) != file.path:
            raise Failure(f"looks like {other} to a BIOS", where=file.path)
    import pycdlib  # few builds need it, and it takes longer to import than any module of ours

    with fixed_clock(epoch), contextlib.ExitStack() as opened:
        image = pycdlib.PyCdlib()
        image.new(interchange_level=3, vol_ident=contents.label, rock_ridge="1.09")
        folders = {file.path.rpartition("/")[0] for file in contents.files} - {""}
        for path in sorted({"/".join(p.split("/")[:end]) for p in folders for end in range(1, p.count("/") + 2)}):
            image.add_directory("/" + _folder(path), rr_name=path.rpartition("/")[2], file_mode=0o040555)
        for file in contents.files:
            # Files are read when the image is written.
            source = opened.enter_context(file.source.open("rb"))
            name = file.path.rpartition("/")[2]
            image.add_fp(source, file.size, plain(file.path), rr_name=name, file_mode=0o100444)
        if contents.bios is not None:
            image.add_eltorito(plain(contents.bios), boot_load_size=_LOADER_SECTORS, boot_info_table=True)
        # The load size has 16 bits: 32 MiB. UEFI takes 0 as "to the end of the medium"; the file system knows its own
        # size.
        image.add_eltorito(plain(contents.efi), boot_load_size=0, platform_id=_EFI, efi=True)
        image.write(str(output))
        record = image.get_record(iso_path=plain(contents.efi))
        place = record.extent_location() * SECTOR, record.get_data_length()
        image.close()
    return place


def _folder(path: str) -> str:
    return "/".join(map(_letters, path.split("/")))

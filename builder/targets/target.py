"""What a target is, and the finished pieces that it receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from builder.core.architecture import ArchitectureName
from builder.core.extent import Extent
from builder.core.toolbox import Closure
from builder.core.tree import Tree
from builder.core.verity import Verity
from builder.definition.definition import Container, Disk
from builder.formats import boot, disk, qcow2
from builder.formats.boot import LOADER_CONF, BootFiles

DISK_PARAMETERS = "flotilla.root=partition flotilla.state=partition"
"""Kernel parameters of a node on a disk of ours: root and state are partitions of it."""

DATASOURCES = "installed,nocloud"
"""Where such a node finds its user-data: on that disk, or on a seed volume."""


@dataclass(frozen=True)
class Parts:
    """The finished pieces of a node, as files on the host.

    ``root`` ends with its tree of hashes, ``drivers`` is an initrd to follow ``initrd`` where disks may not be virtio,
    and ``uki`` is kernel and both initrds as one EFI program without a command line; these two must not be moved or
    changed.

    ``consoles`` are the definition's; ``command_line`` is the definition's with the root hash, common to all targets.
    ``work`` is a folder for temporary files; ``epoch`` is the one time (seconds) that artifacts may have in them.
    """

    name: str
    version: str
    architecture: str
    kernel: Path
    initrd: Path
    drivers: Path
    uki: Path
    root: Path
    verity: Verity
    consoles: tuple[str, ...]
    command_line: str
    boot: BootFiles
    disk: Disk
    work: Path
    epoch: int
    tools: Closure

    def parameters(self, *further: str) -> str:
        """The kernel's command line with ``further`` parameters."""
        return " ".join((self.command_line, *further))

    @property
    def any_console(self) -> str:
        """Parameters for an unknown console, a screen or one of ``consoles``; the last one is also /dev/console."""
        return " ".join(f"console={device}" for device in ("tty0", *self.consoles))

    def unified_kernel(self, command_line: str) -> bytearray:
        """Kernel, both initrds and ``command_line`` as one EFI program."""
        program = bytearray(self.uki.stat().st_size)
        with self.uki.open("rb", buffering=0) as file:
            file.readinto(program)
        boot.set_command_line(program, command_line)
        return program

    @cached_property
    def installed(self) -> Installed:
        """The contents of a disk, made on first use."""
        return self.install(DATASOURCES)

    def install(self, datasources: str) -> Installed:
        """The contents of a disk whose node reads user-data from ``datasources`` (of ``cloudconfig apply``)."""
        uki = self.unified_kernel(
            self.parameters(self.any_console, DISK_PARAMETERS, f"flotilla.datasource={datasources}")
        )
        contents: dict[str, bytes | bytearray] = {
            self.boot.removable: self.boot.loader,
            "loader/loader.conf": LOADER_CONF.encode(),
            f"EFI/Linux/{self.name}-{self.version}-{self.verity.root_hash[:8]}.efi": uki,
        }
        digest = boot.contents_digest(contents)
        esp = self.work / f"esp-{digest.hex()[:8]}.img"
        boot.system_partition(contents, self.disk.esp, esp, self.epoch, self.tools)
        layout = disk.layout(self.disk, self.architecture, self.verity, digest)
        return Installed(layout, disk.extents(layout, esp, self.root, self.verity), self.tools)

    def raw_disk(self, output: Path) -> Path:
        """Write the disk of an installed node as the sparse file ``output``, and return that."""
        return self.installed.write(output)


@dataclass(frozen=True)
class Installed:
    """The partitions of an installed node's disk, and what is copied onto it."""

    layout: disk.Layout
    extents: tuple[Extent, ...]
    tools: Closure

    def write(self, output: Path, *, at_least: int = 0, multiple_of: int = 1) -> Path:
        """Write the disk as the sparse file ``output``, and return that.

        It has the size of the definition, or more where a platform requires ``at_least`` so many bytes or a
        ``multiple_of`` so many; the first boot adds the free space to the state.
        """
        size = -(-max(self.layout.size, at_least) // multiple_of) * multiple_of
        disk.write(replace(self.layout, size=size), self.extents, output, self.tools)
        return output

    def write_qcow2(self, output: Path, *, at_least: int = 0) -> None:
        """Write the disk as the file ``output`` in QEMU's format; ``at_least`` as :meth:`write` has it."""
        where = replace(self.layout, size=max(self.layout.size, at_least))
        table = output.with_name(f"{output.name}.table")
        disk.write_table(where, table, self.tools)
        qcow2.write(where.size, [Extent(table, 0, where.size, 0), *self.extents], output)
        table.unlink()


@dataclass(frozen=True)
class Contents:
    """The finished pieces of a container: the ``tree`` of its only layer, and its ``configuration`` for running.

    ``epoch`` is the one time (seconds) that artifacts may have in them.
    """

    name: str
    architecture: ArchitectureName
    tree: Tree
    configuration: Container
    epoch: int


@dataclass(frozen=True)
class Target:
    """A form in which a node is delivered.

    ``name`` is the value of ``--target``, ``summary`` is for its help; ``write`` puts the files to deliver into the
    empty folder that it receives. The same parts must give the same bytes.
    """

    name: str
    summary: str
    write: Callable[[Parts, Path], None]


@dataclass(frozen=True)
class ContainerTarget:
    """The same for what has no kernel: a definition with a ``container`` section."""

    name: str
    summary: str
    write: Callable[[Contents, Path], None]

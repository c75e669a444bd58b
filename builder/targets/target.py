"""What a target is, and the finished pieces that it gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from builder.core.architecture import ArchitectureName
from builder.core.extent import Extent
from builder.core.tree import Tree
from builder.core.verity import Verity
from builder.debian.tools import Tools
from builder.definition.definition import Container, Disk
from builder.formats import boot, disk, qcow2
from builder.formats.boot import LOADER_CONF, BootFiles

DISK_PARAMETERS = "flotilla.root=partition flotilla.state=partition"
"""Of the kernel of a node that lives on a disk of ours: root and state are partitions of it."""

DATASOURCES = "installed,nocloud"
"""Where such a node finds its user-data: on that disk, or on a seed volume."""


@dataclass(frozen=True)
class Parts:
    """The finished pieces of a node, as files on the host; ``root`` ends with its tree of hashes, ``drivers`` is an initrd to go after ``initrd``
    wherever disks may be other than virtio, and ``uki`` kernel and both initrds as one EFI program without a command line; these two are not to be moved
    or changed.

    ``consoles`` are the definition's; ``command_line``, too, with the root hash: what every target's has. ``work`` is a folder to make things in;
    ``epoch`` is the one time (seconds) that artifacts may have in them.
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
    tools: Tools

    def parameters(self, *further: str) -> str:
        """The kernel's command line with ``further`` parameters."""
        return " ".join((self.command_line, *further))

    @property
    def any_console(self) -> str:
        """Parameters for wherever nobody knows whether somebody looks at a screen or at one of ``consoles``; the last is also /dev/console."""
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
        """What goes onto a disk; made when first asked for."""
        return self.install(DATASOURCES)

    def install(self, datasources: str) -> Installed:
        """What goes onto a disk whose node looks for its user-data in ``datasources`` (of ``cloudconfig apply``, first to last)."""
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
    tools: Tools

    def write(self, output: Path, *, at_least: int = 0, multiple_of: int = 1) -> Path:
        """Write the disk as the sparse file ``output``, and return that.

        It is as large as the definition says, or larger where a platform wants ``at_least`` so many bytes or a ``multiple_of`` so many; the
        first boot gives what is free to the state.
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
    """The finished pieces of a container: the ``tree`` that is its one layer, and the ``configuration`` that it runs with.

    ``epoch`` is the one time (seconds) that artifacts may have in them.
    """

    name: str
    architecture: ArchitectureName
    tree: Tree
    configuration: Container
    epoch: int


@dataclass(frozen=True)
class Target:
    """A way to deliver a node. ``name`` is what ``--target`` takes, ``summary`` what its help says; ``write`` puts the files that people get
    into the empty folder that it is given. The same parts must give the same bytes."""

    name: str
    summary: str
    write: Callable[[Parts, Path], None]


@dataclass(frozen=True)
class ContainerTarget:
    """The same for what has no kernel: a definition with a ``container`` section."""

    name: str
    summary: str
    write: Callable[[Contents, Path], None]

"""The architectures that images are built for, and their names for things.

The programs that build are always those of :data:`HOST`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from terminal import Failure

ArchitectureName = Literal["amd64", "arm64"]
"""Debian's names."""

NAMES: Final[tuple[ArchitectureName, ...]] = get_args(ArchitectureName)
HOST: Final = "amd64"
"""What builds run on, and the default of what they build for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One architecture."""

    name: ArchitectureName
    kernel: str
    """Output of ``uname -m``."""
    elf_machine: int
    """``e_machine`` in the header of its programs (elf(5))."""
    triplet: str
    """Debian's multiarch folder, below ``usr/lib``."""
    loader: str
    """File name of glibc's dynamic loader."""
    loader_flags: int
    """The flags of its libraries in glibc's loader cache: FLAG_ELF_LIBC6 with the bits of the ABI."""
    docker: str
    """Its name in docker and Go."""
    folders: tuple[str, ...]
    """Top-level folders that are links into ``usr``."""


ARCHITECTURES: Final = {
    each.name: each
    for each in (
        Architecture(
            name="amd64",
            kernel="x86_64",
            elf_machine=62,
            triplet="x86_64-linux-gnu",
            loader="ld-linux-x86-64.so.2",
            loader_flags=0x0303,
            docker="amd64",
            folders=("bin", "sbin", "lib", "lib64"),
        ),
        Architecture(
            name="arm64",
            kernel="aarch64",
            elf_machine=183,
            triplet="aarch64-linux-gnu",
            loader="ld-linux-aarch64.so.1",
            loader_flags=0x0A03,
            docker="arm64",
            folders=("bin", "sbin", "lib"),
        ),
    )
}


def known(name: str, where: str | None = None) -> ArchitectureName:
    """``name``, if it is one of :data:`NAMES`. Otherwise raises :class:`Failure` at ``where``, naming these."""
    for each in NAMES:
        if each == name:
            return each
    raise Failure(f"there is no architecture {name!r}", where=where, hint=f"known: {', '.join(NAMES)}")


def lock_path(definition: Path, name: str) -> Path:
    """The path of a definition's lock: ``node.lock`` beside ``node.yaml``.

    ``node.arm64.lock`` for another architecture.
    """
    return definition.with_suffix(".lock" if name == HOST else f".{name}.lock")


def definition_path(lock: Path) -> tuple[Path, ArchitectureName]:
    """The definition that the lock at ``lock`` belongs to, and its architecture: :func:`lock_path` backwards."""
    plain = lock.with_suffix("")
    for name in NAMES:
        if name != HOST and plain.suffix == f".{name}":
            return plain.with_suffix(".yaml"), name
    return plain.with_suffix(".yaml"), HOST


def suffix(name: str) -> str:
    """The suffix of an output folder after its target's name: nothing, or ``-arm64``."""
    return "" if name == HOST else f"-{name}"

"""The architectures that images are built for, and what each calls things. The programs that build are always those of :data:`HOST`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from terminal import Failure

ArchitectureName = Literal["amd64", "arm64"]
"""Debian's names."""

NAMES: Final[tuple[ArchitectureName, ...]] = get_args(ArchitectureName)
HOST: Final = "amd64"
"""What builds run on, and what is built if nothing else is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """One architecture."""

    name: ArchitectureName
    kernel: str
    """What ``uname -m`` says."""
    elf_machine: int
    """``e_machine`` in the header of its programs (elf(5))."""
    triplet: str
    """Debian's multiarch folder, below ``usr/lib``."""
    loader: str
    """File name of glibc's dynamic loader."""
    loader_flags: int
    """What glibc's loader cache says of a library for it: FLAG_ELF_LIBC6 with the bits of the ABI."""
    docker: str
    """What docker, and Go, call it."""
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
    """``name``, if it is one of :data:`NAMES`. Raises :class:`Failure` at ``where`` naming these."""
    for each in NAMES:
        if each == name:
            return each
    raise Failure(f"there is no architecture {name!r}", where=where, hint=f"known: {', '.join(NAMES)}")


def lock_path(definition: Path, name: str) -> Path:
    """Where the lock of a definition lies: ``node.lock`` beside ``node.yaml``, and ``node.arm64.lock`` for another architecture than ours."""
    return definition.with_suffix(".lock" if name == HOST else f".{name}.lock")


def definition_path(lock: Path) -> tuple[Path, ArchitectureName]:
    """The definition that the lock at ``lock`` belongs to, and its architecture: :func:`lock_path` backwards."""
    plain = lock.with_suffix("")
    for name in NAMES:
        if name != HOST and plain.suffix == f".{name}":
            return plain.with_suffix(".yaml"), name
    return plain.with_suffix(".yaml"), HOST


def suffix(name: str) -> str:
    """What the output folder of a build is called by beside its target's name: nothing, or ``-arm64``."""
    return "" if name == HOST else f"-{name}"

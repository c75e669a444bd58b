"""The QEMU of this computer: where it is, which version, and whether that will do."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from terminal import Failure

PROGRAMS = {"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}
VARIABLES = {"amd64": "FLOTILLA_QEMU", "arm64": "FLOTILLA_QEMU_ARM64"}
"""The environment variable that names another program, by architecture of the nodes."""
VERSION_MIN_EMULATED = (10, 0)
"""QEMU 7.2's emulation crashed Debian 13's kernel 6.12.107 in 10 boots of 12; QEMU 10's in none of 6."""
VERSION_MIN = (7, 2)
"""The first with ``-netdev stream``, which the cluster's network is made of."""
INSTALL_HINTS = {
    "amd64": "./scripts/setup installs QEMU 10 or newer; FLOTILLA_QEMU=/path/to/qemu-system-x86_64 chooses another one",
    "arm64": "./scripts/setup --tests installs QEMU 10 or newer for it; "
    "FLOTILLA_QEMU_ARM64=/path/to/qemu-system-aarch64 chooses another one",
}
VERSION_DEADLINE_S = 20


@dataclass(frozen=True, slots=True)
class Qemu:
    """A QEMU program and its version (major, minor), for nodes of one architecture."""

    path: Path
    version: tuple[int, int]
    architecture: str = "amd64"
    build: str = ""
    """The version as the program prints it, with its packaging: "10.0.2 (Debian 1:10.0.2+ds-2)"."""

    @property
    def version_text(self) -> str:
        """The version as people write it."""
        return ".".join(map(str, self.version))

    def require(self, accelerator: str) -> None:
        """Raise :class:`Failure` if this version cannot be trusted with ``accelerator`` ("kvm" or "tcg")."""
        needed = VERSION_MIN_EMULATED if accelerator == "tcg" else VERSION_MIN
        if self.version < needed:
            how = (
                "without KVM, guests are emulated, which needs"
                if accelerator == "tcg"
                else "the cluster's network needs"
            )
            raise Failure(
                f"QEMU {self.version_text} is too old: {how} QEMU {'.'.join(map(str, needed))} or newer",
                where=str(self.path),
                hint=INSTALL_HINTS[self.architecture],
            )


def find(environment: Mapping[str, str] | None = None, architecture: str = "amd64") -> Qemu:
    """The QEMU for nodes of ``architecture``: the one in :data:`VARIABLES`, else the one on the PATH.

    Raises :class:`Failure` if missing or broken.
    """
    env = os.environ if environment is None else environment
    hint = INSTALL_HINTS[architecture]
    wanted = env.get(VARIABLES[architecture]) or PROGRAMS[architecture]
    found = shutil.which(wanted, path=env.get("PATH"))
    if found is None:
        raise Failure(f"QEMU is missing: no program {wanted}", hint=hint)
    try:
        text = _version_text(found, Path(found).stat().st_mtime_ns)
    except (OSError, subprocess.SubprocessError) as error:
        raise Failure("QEMU does not print its version", where=found, hint=hint) from error
    version = parse_version(text, found, hint)
    return Qemu(Path(found), version, architecture, text.partition("version ")[2].splitlines()[0])


@functools.cache
def _version_text(program: str, _changed_ns: int) -> str:
    """The output of ``--version``; it runs once, even if several of our modules need it."""
    done = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=True, timeout=VERSION_DEADLINE_S
    )
    return done.stdout


def parse_version(text: str, where: str, hint: str = INSTALL_HINTS["amd64"]) -> tuple[int, int]:
    """(major, minor) from the output of ``--version``: "QEMU emulator version 10.0.2 (Debian ...)".

    Raises :class:`Failure`.
    """
    match = re.search(r"version (\d+)\.(\d+)", text)
    if match is None:
        raise Failure(f"this is not QEMU: it calls itself {text.strip()[:60]!r}", where=where, hint=hint)
    return int(match[1]), int(match[2])

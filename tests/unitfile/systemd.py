"""The systemd of the image, to compare with: unpacked from the packages of ``image/node.lock``, run by its own loader."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from builder.core import data
from builder.core.architecture import ARCHITECTURES, HOST
from builder.core.store import Store
from builder.debian import mirror
from builder.debian.lockfile import Lock
from builder.debian.tools import Tools

# systemd's own packages, and the libraries that its programs are linked with.
_PACKAGES = (
    "systemd libsystemd-shared libsystemd0 libc6 libcap2 libseccomp2 libselinux1 libpam0g libaudit1 libcap-ng0 libmount1 libblkid1 "
    "libkmod2 libcrypt1 libssl3t64 libacl1 libpcre2-8-0 libzstd1 liblzma5 libapparmor1 zlib1g libgcc-s1 libuuid1"
)
_LINE = re.compile(r"(?:.*/)?([^/:\s]+):([0-9]+): (.*)")
_REFUSED = re.compile(r"Unit (\S+) (?:has a bad unit file setting|failed to load|not found)")


class Verdict(NamedTuple):
    """What systemd says of one unit: messages by line, and whether it refuses to load it."""

    lines: Mapping[int, Sequence[str]]
    refused: bool


@dataclass(frozen=True)
class Systemd:
    """The programs of one unpacked systemd; ``folder`` is for unit files."""

    root: Path
    folder: Path

    def run(self, program: str, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``program`` (a path in the tree) with nothing of the host's environment."""
        about = ARCHITECTURES[HOST]
        libraries = self.root / "usr/lib" / about.triplet
        loader: list[str | Path] = [
            libraries / about.loader,
            "--inhibit-cache",
            "--library-path",
            f"{libraries}:{libraries}/systemd",
        ]
        return subprocess.run(
            [*loader, "--argv0", program.rpartition("/")[2], self.root / program, *arguments],
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC", **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def verify(self, units: Mapping[str, str]) -> dict[str, Verdict]:
        """What ``systemd-analyze verify`` says of ``units``, a text by name."""
        for name, text in units.items():
            (self.folder / name).write_text(text, encoding="utf-8")
        done = self.run(
            "usr/bin/systemd-analyze",
            *("verify", "--man=no", "--generators=no"),
            *(self.folder / name for name in units),
            # Some of what it ignores it only mentions when it debugs.
            SYSTEMD_LOG_LEVEL="debug",
            SYSTEMD_UNIT_PATH=f"{self.folder}:{self.root}/usr/lib/systemd/system",
        )
        lines: dict[str, dict[int, list[str]]] = {}
        refused = set()
        for said in done.stderr.splitlines():
            if match := _LINE.fullmatch(said):
                lines.setdefault(match[1], {}).setdefault(int(match[2]), []).append(match[3])
            elif match := _REFUSED.match(said):
                refused.add(match[1])
        for name in units:
            (self.folder / name).unlink()
        return {name: Verdict(lines.get(name, {}), name in refused) for name in units}


def unpacked(folder: Path) -> Systemd:
    """The image's systemd, fetched once into the user's store (as any build would); its units lie in ``folder``."""
    lock = Lock.load(data.image() / "node.lock")
    packages = tuple(each for each in lock.packages if each.name in _PACKAGES.split())
    return Systemd(Tools.open(replace(lock, packages=packages), Store(), mirror.find).root, folder)


if __name__ == "__main__":
    sys.stdout.write(unpacked(Path()).run(*sys.argv[1:]).stdout)

#!/usr/bin/env python3
"""How long a build takes, against mmdebstrap and mksquashfs on the same packages, on the same disk, in the same run.

All packages are downloaded before any clock starts, for both sides: ours lie in the store, mmdebstrap's in a local archive that holds the
versions of image/node.lock, and besides what dpkg and the maintainer scripts want (ours never run, so the lock leaves those out).

* **osbuild, nothing unpacked**: 'osbuild image' as a process, with downloads and tools in the store and nothing else.
* **osbuild, one overlay file changed**, **osbuild, nothing changed**: the same again.
* **mmdebstrap**: --variant=custom, the fastest that runs maintainer scripts, into a folder; then mksquashfs of that folder with our options.
  It makes no initrd that our nodes could use, but runs update-initramfs, as the kernel's package asks; that part is shown alone, too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from report import machine, spread, tell

from builder import data, definition, mirror
from builder.fetch import fetch
from builder.lockfile import Lock, LockedPackage
from builder.resolve import Request, Want, resolve
from builder.store import Store
from builder.tools import Tools

# Debian's Essential packages: dpkg takes them for granted, so no dependency brings them.
ESSENTIAL = (
    *("base-files", "base-passwd", "bash", "bsdutils", "coreutils", "dash", "debianutils", "diffutils", "dpkg"),
    *("findutils", "grep", "gzip", "hostname", "init-system-helpers", "libc-bin", "login", "ncurses-base"),
    *("ncurses-bin", "perl-base", "sed", "sysvinit-utils", "tar", "util-linux"),
)


class Taken(NamedTuple):
    """Seconds of a command: on the wall, and of all its processes on all processors, which a busy machine stretches less."""

    wall: float
    cpu: float


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="times that each is measured (default: 3)")
    parser.add_argument("--store", type=Path, metavar="DIR", help="where downloads and tools are (default: the user's)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="a folder for all results (default: TMPDIR)")
    arguments = parser.parse_args()
    facts = machine()
    store = Store(arguments.store)
    tools = Tools.ours(store)
    with tempfile.TemporaryDirectory(prefix="bench-build-", dir=arguments.work) as name:
        work = Path(name)
        image = work / "image"
        shutil.copytree(data.image(), image)
        lock = Lock.load(image / "node.lock")
        fetch(lock.packages, store, mirror.find)
        archive = work / "archive"
        packages = conventional(image / "node.yaml", lock, tools, work / "apt")
        write_archive(archive, packages, fetch(packages, store, mirror.find))
        install("mmdebstrap")

        seconds: dict[str, list[Taken]] = {}
        sizes: dict[str, int] = {}
        for number in range(arguments.repeat):
            for title, taken in ours(work, image, store, number).items():
                seconds.setdefault(title, []).append(taken)
            sizes["osbuild"] = (work / "out/root.img").stat().st_size
            for title, taken in theirs(work, archive, packages, image / "node.yaml", tools, lock.epoch).items():
                seconds.setdefault(title, []).append(taken)
            sizes["mmdebstrap"] = (work / "theirs.img").stat().st_size
    rows = [[title, *(spread(values) for values in zip(*taken, strict=True))] for title, taken in seconds.items()]
    counts = {"osbuild": len(lock.packages), "mmdebstrap": len(packages)}
    versions = {"mmdebstrap": said("mmdebstrap", "--version"), "apt": said("apt-get", "--version").split("(")[0]}
    tell(
        ["what", "wall s: median (min-max)", "CPU s"],
        rows,
        {**facts, "seconds": seconds, "packages": counts, "root_bytes": sizes, "versions": versions},
    )
    return 0


def ours(work: Path, image: Path, store: Store, number: int) -> dict[str, Taken]:
    """Seconds of our three cases, with a store that has downloads and tools only."""
    fresh = work / "store"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(work / "out", ignore_errors=True)
    fresh.mkdir()
    for kind in ("downloads", "tools"):
        (fresh / kind).symlink_to(store.path(kind, ""))
    found = {"osbuild, nothing unpacked": osbuild(work, image, fresh)}
    (image / "overlay/etc/bench").write_text(f"{number}\n")
    found["osbuild, one overlay file changed"] = osbuild(work, image, fresh)
    found["osbuild, nothing changed"] = osbuild(work, image, fresh)
    return found


def osbuild(work: Path, image: Path, store: Path) -> Taken:
    """Seconds of one 'osbuild image'."""
    program = [sys.executable, "-c", "from builder.cli import main; raise SystemExit(main())"]
    options = ["--definition", image / "node.yaml", "--store", store, "--output", work / "out", "--quiet"]
    return timed([*program, "image", *options])


def theirs(
    work: Path, archive: Path, packages: Sequence[LockedPackage], path: Path, tools: Tools, epoch: int
) -> dict[str, Taken]:
    """Seconds of mmdebstrap, of mksquashfs after it, of both, and of update-initramfs alone."""
    tree, root = work / "tree", work / "theirs.img"
    root.unlink(missing_ok=True)
    if tree.exists():
        remove(tree)
    mode = "root" if os.geteuid() == 0 else "unshare"
    names = ",".join(package.name for package in packages)
    source = f"deb [trusted=yes] copy:{archive} ./"
    options = [f"--mode={mode}", "--variant=custom", "--format=directory", f"--include={names}", "--quiet"]
    made = timed(["mmdebstrap", *options, "unstable", tree, source])
    fast = definition.load(path).root
    assert fast is not None
    squash = [*tools.command("mksquashfs"), tree, root, "-noappend", "-quiet", "-no-progress", "-mkfs-time", str(epoch)]
    packed = timed([*squash, *fast.fast])
    (tree / "proc/cpuinfo").touch()  # mkinitramfs looks for /proc
    initramfs = timed(["chroot", tree, "update-initramfs", "-u"]) if os.geteuid() == 0 else Taken(0, 0)
    return {
        "mmdebstrap + mksquashfs": Taken(made.wall + packed.wall, made.cpu + packed.cpu),
        "  of it mmdebstrap": made,
        "  of it mksquashfs": packed,
        "  (update-initramfs alone)": initramfs,
    }


def conventional(path: Path, lock: Lock, tools: Tools, state: Path) -> list[LockedPackage]:
    """The packages of ``lock``, in its versions, and what else dpkg needs to install them: nothing is assumed to be there."""
    what = definition.load(path)
    request = Request.of(what)
    wants = {want.name: want for want in [*map(Want, ESSENTIAL), *request.packages]}
    whole = resolve(
        replace(request, packages=tuple(wants.values()), assume=()),
        programs=tools.apt(),
        mirror=mirror.find(),
        state=state,
    )
    return sorted(
        {**{each.name: each for each in whole.packages}, **{each.name: each for each in lock.packages}}.values(),
        key=lambda package: package.name,
    )


def write_archive(root: Path, packages: Sequence[LockedPackage], files: dict[str, Path]) -> None:
    """An archive without suites (see sources.list(5)) in ``root``, of links to ``files``."""
    root.mkdir()
    stanzas = []
    for package in packages:
        name = f"{package.name}_{package.version.replace(':', '%3a')}_{package.architecture}.deb"
        (root / name).symlink_to(files[package.name].absolute())
        control = said("dpkg-deb", "--field", str(root / name))
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        stanzas.append(f"{control}\nFilename: ./{name}\nSize: {package.size}\nSHA256: {digest}\n")
    (root / "Packages").write_text("\n".join(stanzas))


def install(program: str) -> None:
    """Install Debian's package of that name if the program is not there."""
    if shutil.which(program) is None:
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        print(f"installing {program}", file=sys.stderr)
        subprocess.run([*sudo, "apt-get", "install", "-y", program], check=True, stdout=sys.stderr)


def remove(tree: Path) -> None:
    """Remove what mmdebstrap made; its owners are numbers of a user namespace when we are not root."""
    if os.geteuid() == 0:
        shutil.rmtree(tree)
    else:
        subprocess.run(["unshare", "--map-auto", "--map-root-user", "rm", "-rf", tree], check=True)


def timed(command: Sequence[object]) -> Taken:
    """What the command takes. Raises ``CalledProcessError`` if it fails; its words go to stderr then."""
    os.sync()  # what was written before is not this command's to wait for
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    taken = Taken(time.monotonic() - begin, cpu)
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-3000:] + done.stderr[-3000:])
        done.check_returncode()
    return taken


def said(*command: str) -> str:
    """What the command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main())

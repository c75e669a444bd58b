"""What bench/build.py measures us against: mmdebstrap with mksquashfs, and mkosi, both from Debian packages, both with
the node's packages.

Both get their packages from one archive on the local disk: those of image/node.lock in the very same versions, what
dpkg and the maintainer scripts want besides (image/comparison.lock), and what mkosi puts into the initrd that it makes.

mkosi is the one of the suite that the node is made of, whatever the host is: mmdebstrap installs it with all it depends
on into a folder, which becomes its tools tree. It only runs with the host's Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.timed import Taken, said, timed
from builder.check import mmdebstrap
from builder.core import data, inputs
from builder.core.store import Store
from builder.debian import mirror
from builder.debian.fetch import fetch
from builder.debian.lockfile import Lock
from builder.debian.packages import obtain
from builder.debian.tools import Tools
from builder.definition import definition
from builder.lock.resolve import Request, Want, resolve

# What mkosi 25's own configuration of an initrd asks for on Debian 13, and its boot loader.
INITRD = (
    *("bash", "btrfs-progs", "dmsetup", "dosfstools", "e2fsprogs", "erofs-utils", "kmod", "less", "libcryptsetup12"),
    *("libfido2-1", "libtss2-esys-3.0.2-0t64", "libtss2-mu-4.0.1-0t64", "libtss2-rc0t64", "libtss2-tcti-device0t64"),
    *("lvm2", "p11-kit", "systemd", "systemd-boot", "systemd-cryptsetup", "systemd-repart", "udev", "util-linux"),
)


@dataclass(frozen=True)
class Mmdebstrap:
    """mmdebstrap into a folder, the fastest way that runs maintainer scripts; then mksquashfs of it with our options."""

    folder: Path
    archive: Path
    lock: Lock
    tools: Tools
    options: Sequence[str]

    def build(self) -> dict[str, Taken]:
        """Both after each other, each alone, and what of it update-initramfs takes, since our nodes could not use what
        that makes.
        """
        tree, root = self.folder / "tree", self.folder / "root.img"
        root.unlink(missing_ok=True)
        if tree.exists():
            remove(tree)
        made = timed(mmdebstrap.command(self.archive, self.lock.packages, tree))
        squash = [*self.tools.command("mksquashfs"), tree, root, "-noappend", "-quiet", "-no-progress"]
        packed = timed([*squash, "-mkfs-time", self.lock.epoch, *self.options])
        found = {
            "nothing built yet": Taken(made.wall + packed.wall, made.cpu + packed.cpu),
            "  of it mmdebstrap": made,
            "  of it mksquashfs": packed,
        }
        if os.geteuid() == 0:
            (tree / "proc/cpuinfo").touch()  # mkinitramfs looks for /proc
            found["  (update-initramfs alone)"] = timed(["chroot", tree, "update-initramfs", "-u"])
        return found


@dataclass(frozen=True)
class Mkosi:
    """mkosi with a disk image, bootable with systemd-boot, a UKI and its own initrd: what it does unless configured
    otherwise.
    """

    folder: Path
    tree: Path

    def cold(self) -> Taken:
        """All again, packages at hand."""
        shutil.rmtree(self.folder / "out")
        (self.folder / "out").mkdir()
        return self._run("--incremental=no", "build")

    def fill(self) -> None:
        """What its first incremental build keeps for the next."""
        self._run("--incremental=yes", "--force", "build")

    def changed(self, path: str, line: str) -> Taken:
        """An incremental build with ``line`` appended to one of the image's extra files."""
        with (self.folder / "extra" / path).open("a") as file:
            file.write(line)
        return self._run("--incremental=yes", "--force", "build")

    def unchanged(self) -> Taken:
        """Built again. It sees that there is an output, and does not ask whether anything changed."""
        return self._run("--incremental=yes", "build")

    @property
    def bytes(self) -> int:
        """What the disk image takes of the host's disk."""
        return (self.folder / "out/node.raw").stat().st_blocks * 512

    @property
    def version(self) -> str:
        """As it says."""
        return said(*self._words("--version"))

    def _words(self, *arguments: str) -> list[str]:
        path = f"PYTHONPATH={self.tree}/usr/lib/python3/dist-packages"
        return ["env", path, sys.executable, "-P", "-m", "mkosi", "--directory", str(self.folder), *arguments]

    def _run(self, *arguments: str) -> Taken:
        return timed(self._words(*arguments))


def prepare(work: Path, store: Store, tools: Tools) -> tuple[Mmdebstrap, Mkosi]:
    """Everything that no clock runs for: packages fetched, the archive written, mkosi installed and configured."""
    image = data.image()
    what = definition.load(image / "node.yaml")
    assert what.root is not None
    node = mmdebstrap.together(Lock.load(image / "node.lock"), Lock.load(image / "comparison.lock"))
    archive = work / "archive"
    write_archive(archive, mmdebstrap.together(node, resolved(INITRD, tools, work / "apt-initrd")), store)
    (work / "mmdebstrap").mkdir()
    (work / "mkosi").mkdir()
    rival = Mkosi(work / "mkosi", work / "mkosi-tree")
    write_archive(work / "mkosi-archive", lock := resolved(["mkosi"], tools, work / "apt-mkosi"), store)
    mmdebstrap.run(mmdebstrap.command(work / "mkosi-archive", lock.packages, rival.tree))
    configure(rival, what, archive)
    return Mmdebstrap(work / "mmdebstrap", archive, node, tools, what.root.fast), rival


def configure(rival: Mkosi, what: definition.Definition, archive: Path) -> None:
    """Write mkosi's configuration: the node's packages, and our overlay, units and code as extra files."""
    for name in ("cache", "packages", "out", "extra", "sandbox/etc/apt/sources.list.d"):
        (rival.folder / name).mkdir(parents=True)
    # mkosi takes these sources instead of its own; LocalMirror only makes the folder visible to apt.
    (rival.folder / "sandbox/etc/apt/sources.list.d/mkosi.sources").write_text(
        f"Types: deb\nURIs: file:{archive}\nSuites: ./\nTrusted: yes\n"
    )
    entries = [entry for folder in what.overlays() for entry in inputs.folder_entries(folder, "")]
    entries += [*inputs.folder_entries(data.units() / "system", "usr/lib/systemd/system/")]
    entries += [*inputs.node_code(what.node_code)]
    for entry in entries:
        path = rival.folder / "extra" / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.target:
            path.symlink_to(entry.target)
        else:
            path.write_bytes(entry.content.read())
            path.chmod(entry.mode)
    sections: dict[str, list[str]] = {
        "Distribution": ["Distribution=debian", f"Release={what.suites[0].suite}", f"LocalMirror=file://{archive}"],
        "Output": ["Format=disk", "ImageId=node", "OutputDirectory=out"],
        "Build": [
            f"ToolsTree={rival.tree}",
            "CacheDirectory=cache",
            "PackageCacheDirectory=packages",
            "SandboxTrees=sandbox",
        ],
        "Content": ["Bootable=yes", "ExtraTrees=extra", *(f"Packages={name}" for name, _ in what.wants())],
    }
    text = "".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items())
    (rival.folder / "mkosi.conf").write_text(text)


def resolved(names: Sequence[str], tools: Tools, state: Path) -> Lock:
    """Today's versions of ``names`` and of all that these, dpkg and maintainer scripts need."""
    request = Request.of(definition.load(data.image() / "comparison.yaml"))
    known = {want.name for want in request.packages}
    wants = (*request.packages, *(Want(name) for name in names if name not in known))
    return resolve(replace(request, packages=wants), programs=tools.apt(), mirror=mirror.find(), state=state)


def write_archive(folder: Path, lock: Lock, store: Store) -> None:
    """An archive of all of ``lock``."""
    mmdebstrap.write_archive(
        folder, lock.packages, fetch(lock.packages, store, mirror.find), obtain(lock, store, mirror.find)
    )


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

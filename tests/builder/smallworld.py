"""A world small enough to build in a test: a mirror with made-up packages, a definition with its lock, and a store that
has the real tools.

mirror/debian/pool/*.deb     base (what every tree needs), tool (a program with odd owners and times), node (a kernel and what a node has)
image/small.yaml, .lock      a container of base and tool
image/node.yaml, .lock       an image of all three
image/*.arm64.lock           the same for arm64, of packages that differ in their libraries
store/                       empty, but for a link to the closure
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from builder.cli import run
from builder.core.architecture import ARCHITECTURES, Architecture, lock_path
from builder.core.store import Store
from builder.core.tree import Kind
from builder.debian import mirror
from builder.debian.lockfile import Lock, LockedPackage
from builder.debian.packages import obtain
from builder.debian.tools import Tools
from builder.definition import definition
from builder.lock.resolve import Request
from tests.builder.debmaker import deb, member
from tests.builder.finish.test_ldconfig import shared_library

ROOT = Path(__file__).parents[2]
EPOCH = 1_700_000_000
DAY = 86_400

SMALL = """\
version: 1
name: small
suites: [{suite: test}]
packages: [base, tool]
directories: {data: 0700 daemon}
overlay: overlay
container: {repository: test/small, cmd: [tool]}
"""

NODE = """\
version: 1
name: node
suites: [{suite: test}]
packages: [base, tool, node]
kernel: {modules: {}, initrd: [], command_line: quiet}
architectures:
  amd64: {kernel: {consoles: [ttyS0]}}
  arm64: {kernel: {consoles: [ttyAMA0]}, links: {etc/board: virt}}
identity: {name: Smallworld, version: "1"}
overlay: overlay
root: {type: squashfs, fast: [-comp, lz4], release: [-comp, zstd]}
disk: {esp: 16MiB, root: 4MiB, verity: 1MiB, state: 1MiB}
"""

MINE = """\
version: 1
name: mine
suites: [{suite: one}, {suite: one-security}]
packages: [tool]
container: {repository: test/mine}
"""
"""What tests of locks lock, out of an archive of their own."""

REPORTS = {"files.jsonl", "manifest.json", "sbom.spdx.json", "sizes.html"}
"""The files that every build's folder has beside its artifacts proper, and that are the same each time (its timings are
not).
"""

Members = Sequence[tuple[tarfile.TarInfo, bytes]]


def folders(*paths: str, mtime: int = EPOCH) -> Members:
    """Directory members, each with its parents before it."""
    every = sorted({"/".join(path.split("/")[:end]) for path in paths for end in range(1, path.count("/") + 2)})
    return [member(f"./{path}", type=tarfile.DIRTYPE, mode=0o755, mtime=mtime) for path in every]


BASE: Members = [
    *folders("usr/share/base-passwd", "etc"),
    member(
        "./usr/share/base-passwd/passwd.master",
        b"root:*:0:0:root:/root:/bin/sh\ndaemon:*:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n",
    ),
    member("./usr/share/base-passwd/group.master", b"root:*:0:\ndaemon:*:1:\nshadow:*:42:\nmail:*:8:\nutmp:*:43:\n"),
]

TOOL: Members = [
    # Newer than the epoch, which no time in an image may be.
    *folders("usr/bin", "usr/share/tool", mtime=EPOCH + DAY),
    member("./usr/bin/tool", b"#!/bin/sh\necho tool\n", mode=0o2755, gid=42, mtime=EPOCH + DAY),
    member("./usr/share/tool/data", bytes(range(256)) * 600, mtime=EPOCH - DAY),
    member("./usr/share/tool/Größe.crt", b"a name beyond ASCII\n"),
    member("./usr/share/tool/link", type=tarfile.SYMTYPE, linkname="data"),
]


def _pam(word: str) -> bytes:
    """A template of pam-auth-update's, as libpam-runtime has them."""
    return (
        f'# here are the per-package modules (the "Primary" block)\n${word}_primary\n'
        f"# here's the fallback if no module succeeds\n{word}\trequisite\tpam_deny.so\n"
        f'{word}\trequired\tpam_permit.so\n# and here are more per-package modules (the "Additional" block)\n${word}_additional\n# end of pam-auth-update config\n'
    ).encode()


def library(name: str, architecture: Architecture) -> Members:
    """A shared library of this name, at its place."""
    folder = f"usr/lib/{architecture.triplet}"
    data = shared_library(f"{name}.so.1", architecture.elf_machine)
    return [*folders(folder), member(f"./{folder}/{name}.so.1", data)]


NODE_ONLY: Members = [
    *folders(
        "boot",
        "usr/sbin",
        "usr/lib/modules/6.0-test",
        "usr/lib/systemd/system",
        "usr/share/pam",
        "usr/share/debianutils",
    ),
    member("./boot/vmlinuz-6.0-test", b"a kernel"),
    member("./usr/bin/busybox", b"\x7fELF busybox", mode=0o755),
    member("./usr/sbin/dmsetup", b"\x7fELF dmsetup", mode=0o755),
    member("./usr/lib/modules/6.0-test/modules.builtin", b"kernel/fs/squashfs/squashfs.ko\n"),
    member("./usr/lib/os-release", b"ID=debian\n"),
    member("./usr/lib/systemd/system/multi-user.target", b"[Unit]\nDescription=All\n"),
    member("./usr/share/debianutils/shells", b"/bin/sh\n"),
    *(
        member(f"./usr/lib/x86_64-linux-gnu/security/{name}.so", b"")
        for name in ("pam_deny", "pam_permit", "pam_unix", "pam_systemd")
    ),
    *(
        member(f"./usr/share/pam/common-{name}", _pam(word))
        for name, word in (
            ("account", "account"),
            ("auth", "auth"),
            ("password", "password"),
            ("session", "session"),
            ("session-noninteractive", "session"),
        )
    ),
    member(
        "./usr/share/ca-certificates/test/one.crt",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ),
]


@functools.cache
def systemd_boot(architecture: str) -> Members:
    """The boot loader and the stub of the node's own lock, fetched once into the user's store (as any build would)."""
    lock = Lock.load(lock_path(ROOT / "image/node.yaml", architecture))
    ours = replace(lock, packages=tuple(each for each in lock.packages if each.name == "systemd-boot-efi"))
    (package,) = obtain(ours, Store(), mirror.find)
    files = [entry for entry in package.entries if entry.kind is Kind.FILE and "/boot/efi/" in entry.path]
    return [*folders("usr/lib/systemd/boot/efi"), *(member(f"./{each.path}", each.content.read()) for each in files)]


class Fields(TypedDict, total=False):
    """What may be wrong of a package in a lock."""

    version: str
    sha256: str
    size: int


class Running:
    """A command that was started, with what it says so far."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str], umask: int, cwd: str | None) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by wait
        self._process = subprocess.Popen(
            argv, env=environment, umask=umask, cwd=cwd, stdout=self._words, stderr=self._words
        )

    def said(self) -> str:
        """Its standard output and error together."""
        return self._text if self._words.closed else os.pread(self._words.fileno(), 1 << 20, 0).decode()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit code; it is killed if it has not ended after ``seconds``."""
        try:
            return self._process.wait(seconds)
        finally:
            self._process.kill()
            self._process.wait()
            self._text = self.said()
            self._words.close()


class World:
    """See the module's text. ``run`` is the command, with the store and the mirror of this world."""

    def __init__(self, root: Path, closure: Tools) -> None:
        self.root = root
        self.mirror, self.store, self.output = root / "mirror", root / "store", root / "out/result"
        self.pool = self.mirror / "debian/pool"
        self.pool.mkdir(parents=True)
        (self.store / "tools").mkdir(parents=True)
        (self.store / "tools" / closure.root.name).symlink_to(closure.root)
        self.overlay = root / "image/overlay"
        (self.overlay / "etc").mkdir(parents=True)
        (self.overlay / "etc/issue").write_text("a small world\n")
        members = {"base": BASE, "tool": TOOL, "node": [*NODE_ONLY, *systemd_boot("amd64")]}
        self.locked = {name: self._package(name, members[name]) for name in members}
        arm64 = {
            "base": BASE,
            "tool": [*TOOL, *library("libtool", ARCHITECTURES["arm64"])],
            "node": [*NODE_ONLY, *systemd_boot("arm64")],
        }
        self.foreign = {name: self._package(name, arm64[name], "arm64") for name in arm64}
        self.small = self.define("small", SMALL, ["base", "tool"])
        self.node = self.define("node", NODE, ["base", "node", "tool"])

    def _package(self, name: str, members: Members, architecture: str = "amd64") -> LockedPackage:
        file = f"{name}.deb" if architecture == "amd64" else f"{name}_{architecture}.deb"
        paragraph = f"Package: {name}\nVersion: 1.0\nArchitecture: {architecture}\n"
        sha256 = deb(self.pool / file, members, name, paragraph=paragraph)
        size = (self.pool / file).stat().st_size
        return LockedPackage(name, "1.0", architecture, "debian", "test", f"pool/{file}", sha256, size, name, "1.0")

    def define(self, name: str, text: str, packages: Sequence[str]) -> Path:
        """Write a definition and the locks that answer it."""
        path = self.root / "image" / f"{name}.yaml"
        path.write_text(text)
        for architecture, locked in (("amd64", self.locked), ("arm64", self.foreign)):
            request = Request.of(definition.load(path, architecture))
            chosen = tuple(locked[package] for package in packages if package in locked)
            lock = Lock(architecture, EPOCH, request.fingerprint, (), chosen)
            lock_path(path, architecture).write_text(lock.dump())
        return path

    def replace(self, name: str, members: Members) -> None:
        """Have another package ``name`` in the mirror and in the small definition's lock."""
        package = self._package(name, members)
        self.relock(self.small, name, sha256=package.sha256, size=package.size)

    def relock(self, path: Path, name: str, **fields: Unpack[Fields]) -> None:
        """Change ``fields`` of the package ``name`` in the lock of the definition at ``path``."""
        lock = Lock.load(path.with_suffix(".lock"))
        packages = [replace(package, **fields) if package.name == name else package for package in lock.packages]
        path.with_suffix(".lock").write_text(replace(lock, packages=tuple(packages)).dump())

    def open_store(self) -> Store:
        """The store, opened once more, as another process would."""
        return Store(self.store)

    def arguments(self, *words: str | Path, output: Path | None = None) -> list[str]:
        """The whole command line for ``osbuild words...`` in this world."""
        options = [
            *("--store", self.store),
            *("--mirror", f"file://{self.mirror}"),
            *("--output", output or self.output),
        ]
        return [str(word) for word in [*words, *options]]

    def container(self, *words: str, output: Path | None = None) -> int:
        """``osbuild container`` for the small definition; returns the exit code. Raises what it raises."""
        return run(self.arguments("container", self.small, *words, output=output))

    def image(self, *words: str, output: Path | None = None) -> int:
        """``osbuild image`` for the node's definition; returns the exit code."""
        return run(self.arguments("image", "--definition", self.node, *words, output=output))

    def start(
        self,
        *words: str | Path,
        output: Path | None = None,
        environment: dict[str, str] | None = None,
        umask: int = -1,
        cwd: str | None = None,
        through: Sequence[str] = (),
    ) -> Running:
        """The same as a process of its own, with what ``environment`` adds to ours, started by the command ``through``."""
        argv = [*through, sys.executable, "-c", "from builder.cli import main; raise SystemExit(main())"]
        surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        return Running([*argv, *self.arguments(*words, output=output)], surroundings, umask, cwd)

    def leftovers(self) -> list[str]:
        """Whatever a build left behind in the store's ``tmp``, in the output, or beside it."""
        places = [self.store / "tmp", self.root / "out", self.output]
        found = [path for place in places if place.is_dir() for path in place.iterdir()]
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in found
            if path.parent.name == "tmp" or path.name.startswith(".")
        )

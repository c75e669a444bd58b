"""The tools closure: the programs that build an image, from the image's own distribution, on whatever host this is.

The packages of ``image/tools.lock`` are fetched and unpacked by the same code as an image's, into ``tools/<id>`` of the
store. Each program has a launcher there that starts it through the closure's own dynamic loader and libraries, so that
the same lock runs the same code on every host, and the host needs only ``/bin/sh``. Nothing is installed, nothing needs
root, and the folder may be moved.
"""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from builder.core import data
from builder.core.architecture import ARCHITECTURES, HOST, known
from builder.core.store import Store, identify
from builder.core.toolbox import ToolFailure
from builder.core.tree import Entry, Kind, Tree
from builder.debian import mirror as mirrors
from builder.debian.apt import Programs
from builder.debian.lockfile import Lock
from builder.debian.mirror import Mirror
from builder.debian.packages import obtain
from terminal import Step, untimed

VERSION: Final = 2
"""Version of the unpacked form and its launchers; part of the closure's id."""

_LEFT_OUT: Final = ("usr/share/doc/", "usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/")

_FOLDERS: Final = ("usr/bin", "usr/sbin")
_METHODS: Final = "usr/lib/apt/methods"
# apt's own method for sqv has the host's /usr/bin/sqv built in; without it apt uses gpgv, whose path is a setting.
_METHODS_LEFT_OUT: Final = ("sqv",)

# Elf64_Ehdr and Elf64_Phdr of elf(5), as far as they are read here.
_ELF_HEADER: Final = struct.Struct("<4sBB10xHHIQQQIHHH")
_PT_INTERP: Final = 3


@dataclass(frozen=True)
class Tools:
    """An unpacked closure in the folder ``root``: a :class:`builder.core.toolbox.Closure`."""

    root: Path
    architecture: str = HOST

    @classmethod
    def open(
        cls,
        lock: Lock,
        store: Store,
        mirror: Callable[[], Mirror],
        *,
        detail: Callable[[str], None] = lambda _: None,
        step: Step = untimed,
    ) -> Tools:
        """The closure of ``lock``: from the store, or fetched and unpacked now.

        Raises :class:`terminal.Failure` if this computer cannot run them, and as :func:`builder.debian.packages.obtain` does.
        """
        require_host(lock.architecture, os.uname().machine)
        name = closure_id(lock)
        if not store.has("tools", name):
            packages = obtain(lock, store, mirror, detail, step)
            tree = merge(entry for package in packages for entry in package.entries)
            with step("writing the closure"), store.making("tools", name) as work:
                write_tree(tree, work)
                write_launchers(work, lock.architecture)
        return cls(store.path("tools", name), lock.architecture)

    @classmethod
    def ours(
        cls,
        store: Store | None = None,
        mirror: Callable[[], Mirror] = mirrors.find,
        *,
        detail: Callable[[str], None] = lambda _: None,
        step: Step = untimed,
    ) -> Tools:
        """The closure of ``image/tools.lock`` in ``store`` (the user's by default), else from the host's mirror."""
        return cls.open(our_lock(), store or Store(), mirror, detail=detail, step=step)

    def path(self, name: str) -> Path:
        """The launcher of the program ``name``: one executable file, whose folder can be put into a ``PATH``.

        Raises :class:`ToolFailure` if the closure has no such program.
        """
        path = self.root / "launch" / name
        if "/" in name or not path.exists():
            raise ToolFailure(
                f"the tools closure has no program '{name}'",
                where=str(self.root),
                hint="add its package to image/tools.yaml and run 'osbuild lock image/tools.yaml'",
            )
        return path

    def resolved(self) -> Tools:
        """The same closure, by a path without links."""
        return replace(self, root=self.root.resolve())

    def programs(self) -> list[str]:
        """The names of all programs, sorted."""
        return sorted(path.name for path in (self.root / "launch").iterdir())

    def command(self, name: str) -> list[str]:
        """The first arguments of a command line that runs ``name``. Raises as :meth:`path`."""
        return [str(self.path(name))]

    def environment(self, name: str) -> dict[str, str]:  # noqa: ARG002 - the same for all, today
        """The complete environment to run a tool in: no language, no time zone, nothing that affects its output."""
        return {"PATH": str(self.root / "launch"), "HOME": "/nonexistent", "LC_ALL": "C", "TZ": "UTC"}

    def run(
        self,
        name: str,
        *arguments: str,
        cwd: Path | None = None,
        feed: bytes | bytearray = b"",
        epoch: int | None = None,
    ) -> bytes:
        """Run ``name``: see :meth:`builder.core.toolbox.Closure.run`."""
        command = [*self.command(name), *arguments]
        environment = self.environment(name)
        if epoch is not None:
            environment["SOURCE_DATE_EPOCH"] = str(epoch)
        done = subprocess.run(command, cwd=cwd, input=feed, env=environment, capture_output=True, check=False)
        if done.returncode != 0:
            raise failed([name, *arguments], done.returncode, done.stderr or done.stdout)
        return done.stdout

    def apt(self) -> Programs:
        """How :mod:`builder.debian.apt` starts the closure's apt."""
        keyrings = self.root / "usr/share/keyrings"
        # Debian 13's keyring package calls it .pgp, older ones .gpg.
        names = [keyrings / f"debian-archive-keyring{suffix}" for suffix in (".pgp", ".gpg")]
        keyring = next((path for path in names if path.exists()), None)
        if keyring is None:
            raise ToolFailure("the tools closure has no keyring of the Debian archive", where=str(keyrings))
        return Programs(
            (str(self.path("apt-get")),),
            self.root / "methods",
            keyring,
            settings={
                "Apt::Key::gpgvcommand": str(self.path("gpgv")),
                "Dir::Bin::solvers::": str(self.root / "usr/lib/apt/solvers"),
                "Dir::Bin::planners::": str(self.root / "usr/lib/apt/planners"),
            },
        )


def our_lock() -> Lock:
    """The lock of our own closure, ``image/tools.lock``. Raises :class:`builder.debian.lockfile.LockFailure`."""
    return Lock.load(data.image() / "tools.lock")


def closure_id(lock: Lock) -> str:
    """The name that the closure of ``lock`` has in a store."""
    return identify("tools", VERSION, lock.id)


def failed(command: Sequence[str], code: int, said: bytes) -> ToolFailure:
    """The failure of a tool: its command, its exit code, the end of its output."""
    tail = said.decode("utf-8", errors="replace").strip().splitlines()[-5:]
    ended = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return ToolFailure("\n  ".join([f"'{shlex.join(command)[:200]}' {ended}", *tail]))


def require_host(architecture: str, machine: str) -> None:
    """Raise :class:`ToolFailure` unless ``architecture`` runs on the computer ``machine`` (``uname -m``)."""
    if machine != ARCHITECTURES[known(architecture)].kernel:
        raise ToolFailure(
            f"the programs that build are for {architecture}, and this computer is {machine}",
            hint=f"build on a computer that is {architecture}; what is built there may be for another one: --arch",
        )


def merge(entries: Iterable[Entry]) -> Tree:
    """All that the packages bring, without documentation. Raises :class:`builder.core.tree.PathConflict`."""
    return Tree(entry for entry in entries if not f"{entry.path}/".startswith(_LEFT_OUT))


def write_tree(tree: Tree, root: Path) -> None:
    """Write ``tree`` as ordinary files below the empty folder ``root``.

    Absolute links are made relative, so that none leads to a file of the host. Owners and special bits are not kept:
    these are programs to run, not a system. Nothing is written through a link, since a tree has no path below one.
    """
    for entry in tree:
        path = root / entry.path
        if entry.kind is Kind.DIRECTORY:
            path.mkdir(mode=0o755)
        elif entry.kind is Kind.SYMLINK:
            path.symlink_to(inner_target(entry.path, entry.target))
        else:
            path.write_bytes(entry.content.read())
            path.chmod(0o755 if entry.mode & 0o100 else 0o644)


def inner_target(path: str, target: str) -> str:
    """The link text at ``path`` that leads where ``target`` leads if the tree's root is ``/``, never above it."""
    parts = [] if target.startswith("/") else path.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "../" * path.count("/") + "/".join(parts) or "."


def write_launchers(root: Path, architecture: str) -> None:
    """Write ``launch/<program>`` for each program of the closure in ``root``, ``methods/<name>`` for apt's methods."""
    for folder, sources, skipped in (("launch", _FOLDERS, ()), ("methods", (_METHODS,), _METHODS_LEFT_OUT)):
        (root / folder).mkdir()
        for program in _programs(root, sources):
            launcher = root / folder / program.name
            if program.name not in skipped and not launcher.exists():
                launcher.write_text(
                    launcher_text(program.relative_to(root).as_posix(), architecture, is_dynamic(program))
                )
                launcher.chmod(0o755)


def _programs(root: Path, folders: Iterable[str]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((root / folder).glob("*")):
            # A link may lead to what another package, not in the closure, would bring.
            if path.is_file() and os.access(path, os.X_OK) and is_elf(path):
                yield path


def launcher_text(program: str, architecture: str, dynamic: bool) -> str:
    """The shell script that runs ``program`` (a path in the closure), relative to the script's own place.

    It uses ``exec``, so that the process is the program.

    ``--inhibit-cache`` keeps the loader away from the host's ``ld.so.cache``; ``--argv0`` is for programs that depend
    on the name they were called by (kmod, apt's methods).
    """
    about = ARCHITECTURES[known(architecture)]
    libraries = f"usr/lib/{about.triplet}"
    lines = [
        "#!/bin/sh",
        "root=${0%/*}/..",
        "unset LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT PYTHONHOME PYTHONPATH",
        # OpenSSL's settings and modules would be the host's.
        "export OPENSSL_CONF=/dev/null",
        f'export OPENSSL_MODULES="$root/{libraries}/ossl-modules"',
    ]
    name = program.rsplit("/", 1)[-1]
    if dynamic:
        loader = f'"$root/{libraries}/{about.loader}" --inhibit-cache --library-path "$root/{libraries}"'
        # Python looks for its library beside the path that it was called by, and must not leave byte code in the store.
        # The others expect their bare name.
        python = name.startswith("python")
        called, options = (f'"$root/{program}"', " -B") if python else (shlex.quote(name), "")
        lines.append(f'exec {loader} --argv0 {called} "$root/{program}"{options} "$@"')
    else:
        lines.append(f'exec "$root/{program}" "$@"')
    return "\n".join(lines) + "\n"


def is_elf(path: Path) -> bool:
    """Is this file a program for the machine, not a script?"""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def is_dynamic(path: Path) -> bool:
    """Does this ELF program need a dynamic loader? A static one runs as it is; the kernel refuses a broken one."""
    with path.open("rb") as file:
        head = file.read(_ELF_HEADER.size)
        if len(head) < _ELF_HEADER.size:
            return False
        _, width, _, _, _, _, _, offset, _, _, _, size, count = _ELF_HEADER.unpack(head)
        if width != 2 or offset >= path.stat().st_size:  # seek(2) refuses some of those
            return False
        file.seek(offset)
        table = file.read(size * count)
    starts = range(0, len(table) - 3, size) if size >= 4 else range(0)
    return any(struct.unpack_from("<I", table, start)[0] == _PT_INTERP for start in starts)

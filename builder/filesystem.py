"""Packing a tree into a read-only filesystem, by streaming it as a tar into the writer: owners never need root."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from builder.tools import Tools
from builder.tree import Entry, Kind, Tree
from terminal import Failure

VERSION: Final = 1

_TYPES: Final = {Kind.FILE: tarfile.REGTYPE, Kind.DIRECTORY: tarfile.DIRTYPE, Kind.SYMLINK: tarfile.SYMTYPE}


def tar_stream(entries: Iterator[Entry], epoch: int) -> Iterator[bytes]:
    """A POSIX tar of ``entries`` in their order; no time is later than ``epoch`` (seconds), so equal trees give equal bytes."""
    for entry in entries:
        info = tarfile.TarInfo(entry.path)
        info.type = _TYPES[entry.kind]
        info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
        info.mtime = min(entry.mtime, epoch) or epoch
        info.linkname, info.size = entry.target, entry.size
        info.pax_headers = {
            f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape") for name, value in entry.xattrs.items()
        }
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if entry.size:
            yield entry.content.read()
            yield b"\0" * (-entry.size % 512)
    yield b"\0" * 1024


def pack(tree: Tree, kind: str, options: Sequence[str], output: Path, epoch: int, tools: Tools) -> None:
    """Write ``tree`` as a filesystem of ``kind`` (squashfs or erofs) with the writer's ``options`` into the new file ``output``.

    Raises :class:`Failure` with the writer's last words if it fails.
    """
    if kind == "squashfs":
        arguments = [str(output), "-tar", "-noappend", "-quiet", "-no-progress", "-mkfs-time", str(epoch), *options]
        command = [*tools.command("mksquashfs"), "-", *arguments]
    else:
        # The identifier comes from the caller's content, never from chance: all zero here, the kernel does not ask.
        arguments = ["--tar=f", "--quiet", "-T", str(epoch), "-U", "clear", *options, str(output)]
        command = [*tools.command("mkfs.erofs"), *arguments]
    feed(command, tar_stream(iter(tree), epoch), f"packing the root as {kind}")


def feed(command: Sequence[str], data: Iterator[bytes], doing: str) -> None:
    """Run ``command`` with ``data`` on its standard input.

    Raises :class:`Failure` with exit code and the last lines of its output.
    """
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said) as process:
            assert process.stdin is not None
            try:
                with process.stdin as stdin:
                    for chunk in data:
                        stdin.write(chunk)
            except BrokenPipeError:
                pass  # It ended early; its exit code and words tell why.
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            said.seek(0)
            tail = said.read().decode(errors="replace").strip().splitlines()[-5:]
            raise Failure(
                f"{doing} failed with exit code {process.returncode}: " + " / ".join(tail),
                where=command[-1],
                hint="is the disk full? 'df -h' tells",
            )

"""Packing a tree into a read-only filesystem, by streaming it as a tar into the writer: owners never need root."""

from __future__ import annotations

import errno
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Final

from builder.core.store import disk_full
from builder.core.toolbox import Toolbox
from builder.core.tree import Content, Entry, Kind, Slice, Tree
from terminal import Failure, held_back

_TYPES: Final = {Kind.FILE: tarfile.REGTYPE, Kind.DIRECTORY: tarfile.DIRTYPE, Kind.SYMLINK: tarfile.SYMTYPE}


def tar_stream(entries: Iterator[Entry], epoch: int) -> Iterator[bytes]:
    """A POSIX tar of the root (``./``, 0755, root's) and ``entries`` in their order.

    Times are those of :func:`modified`.
    """
    return (part if isinstance(part, bytes) else part.read() for part in _tar_parts(entries, epoch))


def _tar_parts(entries: Iterator[Entry], epoch: int) -> Iterator[bytes | Content]:
    yield from _member(Entry(".", Kind.DIRECTORY), epoch)
    for entry in entries:
        yield from _member(entry, epoch)
    yield b"\0" * 1024


def modified(entry: Entry, epoch: int) -> int:
    """The time of ``entry`` in an image, in seconds.

    None is later than ``epoch``, so equal trees give equal bytes. All directories have the time ``epoch``: several
    packages share a directory, so no package determines its time, and systemd compares that of /usr with the image's
    ``.updated``.
    """
    return epoch if entry.kind is Kind.DIRECTORY else min(entry.mtime, epoch) or epoch


def _member(entry: Entry, epoch: int) -> Iterator[bytes | Content]:
    info = tarfile.TarInfo(entry.path)
    info.type = _TYPES[entry.kind]
    info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
    info.mtime = modified(entry, epoch)
    info.linkname, info.size = entry.target, entry.size
    info.pax_headers = {
        f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape") for name, value in entry.xattrs.items()
    }
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if entry.size:
        yield entry.content
        yield b"\0" * (-entry.size % 512)


def pack(tree: Tree, kind: str, options: Sequence[str], output: Path, epoch: int, tools: Toolbox) -> None:
    """Write ``tree`` as the new filesystem ``output`` of ``kind`` (squashfs or erofs) with the writer's ``options``.

    Raises :class:`Failure` with the writer's last output if it fails.
    """
    if kind == "squashfs":
        name = "mksquashfs"
        # The tar's own root is ignored: without these the root would be 0777, with the current time.
        root = ["-root-mode", "755", "-root-uid", "0", "-root-gid", "0", "-root-time", str(epoch)]
        # By default it queues up to a quarter of the memory, and the first touch of each page costs time; the bytes
        # are the same.
        room = ["-mem", "256M"]
        always = ["-tar", "-noappend", "-quiet", "-no-progress", "-mkfs-time", str(epoch), *root, *room]
        arguments = ["-", str(output), *always, *options]
    else:
        name = "mkfs.erofs"
        # No identifier: it would be random, and the kernel does not need it.
        arguments = ["--tar=f", "--quiet", "-T", str(epoch), "-U", "clear", *options, str(output)]
    feed([*tools.command(name), *arguments], tools.environment(name), _tar_parts(iter(tree), epoch), output)


def feed(command: Sequence[str], environment: Mapping[str, str], data: Iterator[bytes | Content], output: Path) -> None:
    """Run ``command``, which writes ``output``, with ``data`` on its standard input, in exactly this ``environment``.

    Raises :class:`Failure` with exit code and the last lines of its output. The process never outlives this call.
    """
    with tempfile.TemporaryFile() as said, ExitStack() as stack:
        with held_back():
            # In a session of its own, so that Ctrl-C in a terminal reaches us alone, and we end it.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment, start_new_session=True
            )
            stack.callback(_end, process)
        assert process.stdin is not None
        try:
            _send(data, process.stdin)
            process.stdin.close()
        except BrokenPipeError:
            pass  # It ended early; its exit code and output show why.
        if process.wait() != 0:
            said.seek(0)
            raise _failed(Path(command[0]).name, process.returncode, said.read().decode(errors="replace"), output)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()  # nothing, if it has ended
    process.wait()
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()


def _send(data: Iterator[bytes | Content], pipe: IO[bytes]) -> None:
    """Write ``data`` to ``pipe``; the kernel copies contents of the store, which halves the work while packing."""
    with ExitStack() as stack:
        opened: dict[Path, int] = {}
        for part in data:
            if isinstance(part, Slice):
                if part.path not in opened:
                    opened[part.path] = stack.enter_context(part.path.open("rb")).fileno()
                pipe.flush()
                part.send(opened[part.path], pipe.fileno())
            else:
                pipe.write(part if isinstance(part, bytes) else part.read())


def _failed(name: str, code: int, said: str, output: Path) -> Failure:
    if any(os.strerror(number) in said for number in (errno.ENOSPC, errno.EDQUOT)):
        return disk_full(output.parent)
    words = said.strip().splitlines()
    if len(words) > 8:
        words[3:-4] = ["..."]  # a list of options, for example; the error is before or after it
    ended = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return Failure(
        "\n  ".join([f"{name} {ended}", *words]),
        where=str(output),
        hint="if its output is about an option: options come from 'root' in the definition",
    )

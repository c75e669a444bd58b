"""Decompressing by the closure's xz, whose liblzma takes little more than half the time of Python's on older hosts.

Python's is used for small packages, where starting a program takes longer than the work, and for the packages of the
closure itself.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from typing import IO, Final

from builder.core.inflate import XZ_MEMORY_MAX
from builder.core.toolbox import Toolbox

WORTHWHILE: Final = 1 << 18
"""Bytes of a compressed stream from which on a separate program is faster."""

_MEMORY: Final = f"--memlimit-decompress={XZ_MEMORY_MAX}"


class XzError(ValueError):
    """The stream is damaged, truncated or too long; the text is xz's."""


def decompress(source: IO[bytes], target: IO[bytes], limit: int, toolbox: Toolbox) -> None:
    """Unpack the xz stream at the position of the file ``source`` into the empty file ``target``.

    Writes at most ``limit`` bytes.

    What follows the stream is ignored. The position of ``source`` is undefined afterwards. Raises :class:`XzError`, and
    ``OSError`` for a full disk.
    """
    os.lseek(source.fileno(), source.tell(), os.SEEK_SET)  # Python's own position, since it has read ahead
    process = subprocess.Popen(
        [*toolbox.command("xz"), "--decompress", "--stdout", "--single-stream", "--threads=1", _MEMORY],
        env=toolbox.environment("xz"),
        stdin=source,
        stdout=target,
        stderr=subprocess.PIPE,
    )
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with process:
        if most == resource.RLIM_INFINITY or most > limit:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        _, said = process.communicate()
    if process.returncode == -signal.SIGXFSZ:
        raise XzError(f"it unpacks to more than {limit} bytes")
    if process.returncode != 0:
        words = said.decode(errors="replace").strip()
        for number in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(number) in words:
                raise OSError(number, words)
        raise XzError(words or f"xz ended with code {process.returncode}")

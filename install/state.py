"""The file system of the state partition, with the user-data that the node finds there at its first boot.

The partition is formatted here only if there is user-data for it; else the node's first boot does that. In both cases
the first boot grows the file system to the partition, and fills it with the packages' contents of /var.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from terminal import Failure

USER_DATA: Final = "lib/flotilla/user-data"
"""In the state partition; on the node this is /var/lib/flotilla/user-data, which the datasource ``installed`` reads."""

# As in image/initrd/init; the journal and the tables need no zeros, since the disk has been cleared.
_OPTIONS: Final = ("-t", "ext4", "-L", "state", "-E", "lazy_itable_init=1,lazy_journal_init=1")


def make(user_data: bytes, size: int, work: Path, program: str = "/usr/sbin/mke2fs") -> Path:
    """Make a file system of ``size`` bytes as a sparse file in the folder ``work``, which must be private.

    ``program`` is mke2fs(8). Raises Failure if it fails.
    """
    tree = work / "var"
    place = tree / USER_DATA
    place.parent.mkdir(parents=True)
    for folder in (tree, *list(place.parents)[: len(Path(USER_DATA).parts) - 1]):
        folder.chmod(0o755)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(user_data)
    image = work / "state.img"
    with image.open("wb") as file:
        file.truncate(size)
    command = [program, "-q", "-F", *_OPTIONS, "-d", str(tree), str(image)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip()
        raise Failure(f"mke2fs ended with code {done.returncode}: {words}", hint="nothing was changed")
    return image

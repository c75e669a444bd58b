"""What lies in an archive, as Python's own reader finds it."""

from __future__ import annotations

import tarfile


def contents(archive: tarfile.TarFile) -> dict[str, bytes]:
    """The bytes of each member by its name. AssertionError if one is no file."""
    found: dict[str, bytes] = {}
    for member in archive:
        file = archive.extractfile(member)
        assert file is not None, f"{member.name} is no file"
        found[member.name] = file.read()
    return found

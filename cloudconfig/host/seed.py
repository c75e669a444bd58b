"""NoCloud seed volumes: an ISO 9660 image labelled ``cidata`` with the files ``user-data`` and ``meta-data``.

Format: cloud-init's NoCloud datasource, which all hypervisor tools write. Joliet and Rock Ridge hold the exact names.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import pycdlib

from media.isoclock import fixed_clock

LABEL = "cidata"
# The clock of every volume: two runs with the same input give the same bytes. 1980 is the oldest year that all readers
# like.
EPOCH = 315532800


def make(path: str | Path, user_data: bytes | str, meta_data: bytes | str) -> None:
    """Write a seed volume to ``path``: mode 0600 (user-data may hold secrets), all at once or not at all."""
    path = Path(path)
    image = volume({"meta-data": meta_data, "user-data": user_data})
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(image)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def meta_data(instance_id: str, hostname: str) -> str:
    """The text of ``meta-data`` (YAML; JSON strings are YAML strings)."""
    import json

    return f"instance-id: {json.dumps(instance_id)}\nlocal-hostname: {json.dumps(hostname)}\n"


def volume(files: dict[str, bytes | str]) -> bytes:
    """An ISO image with ``files`` in its root: equal input, equal bytes."""
    with fixed_clock(EPOCH):
        iso = pycdlib.PyCdlib()
        iso.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
        for index, name in enumerate(sorted(files)):
            content = files[name]
            data = content.encode() if isinstance(content, str) else content
            # The plain ISO name is only a place holder: readers see the other two.
            iso.add_fp(
                io.BytesIO(data), len(data), f"/F{index}.;1", rr_name=name, joliet_path=f"/{name}", file_mode=0o100400
            )
        out = io.BytesIO()
        iso.write_fp(out)
        iso.close()
    return out.getvalue()

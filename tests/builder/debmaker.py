"""Makes ``.deb`` files to order, good and hostile, for tests."""

from __future__ import annotations

import functools
import hashlib
import io
import lzma
import tarfile
from collections.abc import Iterable
from pathlib import Path


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """A tar member; ``fields`` are attributes of ``TarInfo`` (type, mode, uid, linkname, ...)."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """An uncompressed tar."""
    buffer, members = io.BytesIO(), list(members)
    # As dpkg-deb writes it, with the bytes of a name as they are; only extended attributes need the newer form.
    form = tarfile.PAX_FORMAT if any(info.pax_headers for info, _ in members) else tarfile.GNU_FORMAT
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def ar(members: Iterable[tuple[str, bytes]]) -> bytes:
    """A Unix ar archive."""
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


@functools.lru_cache(64)
def _xz(data: bytes) -> bytes:
    """``data``, compressed: most worlds are made of the same packages."""
    return lzma.compress(data)


def deb(
    path: Path,
    members: Iterable[tuple[tarfile.TarInfo, bytes]],
    name: str = "example",
    scripts: dict[str, str] | None = None,
    paragraph: str = "",
) -> str:
    """Write a package called ``name`` that holds ``members``, with the control ``paragraph`` if not a plain one;
    returns its sha256.
    """
    paragraph = paragraph or f"Package: {name}\nVersion: 1.0\nArchitecture: amd64\n"
    control = [member("./control", paragraph.encode())]
    control += [member(f"./{script}", text.encode()) for script, text in (scripts or {}).items()]
    raw = ar(
        [
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", _xz(tar(control))),
            ("data.tar.xz", _xz(tar(members))),
        ]
    )
    path.write_bytes(raw)
    return hashlib.sha256(raw).hexdigest()

"""``write_files[].source``, read: where a file comes from, and its hash."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from cloudconfig.text import schema
from cloudconfig.text.reader import Fields, Reader
from cloudconfig.text.schema import Download

UNIT = "cloudconfig-fetch.service"
LIST = "/run/cloudconfig/downloads.json"
_URI = re.compile(r"https?://[^\s/?#@]+(/[^\s]*)?")
_HASH = re.compile(r"[0-9a-fA-F]{64}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")


def read(reader: Reader, fields: Fields, path: str) -> Download | None:
    """The ``source`` of an entry of write_files; None after an error. Path, mode and owner are the caller's."""
    at, node = fields["source"]
    source = reader.struct(node, at, schema.SOURCE)
    uri = reader.required(source, "uri", at, node)
    digest = reader.text(source, "sha256").removeprefix("sha256:").removeprefix("sha256-")
    for other in ("content", "encoding"):
        if other in fields:
            reader.error(fields[other][1], f"{path}.{other}", "the file has a source already", f"leave {other} away")
    if uri and not _URI.fullmatch(uri):
        reader.error(source["uri"][1], f"{at}.uri", "not a URL (http or https, no name and password in it)")
        return None
    if "sha256" not in source:
        reader.error(
            node, at, "has no sha256: the download could not be verified", "add the output of: curl -L URI | sha256sum"
        )
        return None
    if not _HASH.fullmatch(digest):
        reader.error(source["sha256"][1], f"{at}.sha256", "not a SHA-256 in hexadecimal (64 digits)")
        return None
    headers: list[tuple[str, str]] = []
    if "headers" in source:
        names = reader.struct(source["headers"][1], f"{at}.headers", _AnyHeader())
        for key in names:
            headers.append((key.replace("_", "-"), reader.text(names, key)))
            if any(ord(char) < 0x20 or ord(char) > 0x7E for char in headers[-1][1]):
                reader.error(names[key][1], names[key][0], "has a character that no header has")
    return Download("", uri, digest.lower(), tuple(headers), 0o644, "root:root", path)


class _AnyHeader:
    """The names that a header may have, as the collection of known keys for a reader."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(_HEADER.fullmatch(name.replace("_", "-")))

    def __iter__(self) -> Any:
        return iter(("Authorization", "Accept"))

    def __len__(self) -> int:
        return 1


def as_json(downloads: Sequence[Download]) -> str:
    """The list that the unit reads; it may hold secrets (headers)."""
    return json.dumps([download._asdict() for download in downloads], sort_keys=True)


def unit() -> str:
    """The unit that fetches; what needs the files orders itself after it."""
    return (
        "[Unit]\nDescription=Fetch files of user-data (write_files with a source)\nAfter=systemd-networkd.service "
        "systemd-resolved.service\n\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/cloudconfig fetch\nTimeoutStartSec=15min\n"
    )

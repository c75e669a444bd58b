"""``write_files[].source``: files that come over the network, checked by their hash, before they show at their path.

Read on both halves; fetched on the node by the unit ``cloudconfig-fetch.service``, which waits for a network and which units that need the file name in
``After=``. A file that is there with the right hash is not fetched again.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from cloudconfig import accounts, schema
from cloudconfig.reader import Fields, Reader
from cloudconfig.rooted import Root, Staging
from cloudconfig.schema import Download
from terminal import Failure

UNIT = "cloudconfig-fetch.service"
LIST = "/run/cloudconfig/downloads.json"
SIZE_MAX = 64 << 20
DEADLINE_S = 600.0
ANSWER_S = 20.0
PAUSE_S = (0.5, 15.0)
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
            node, at, "has no sha256: what comes unchecked is anybody's", "add the output of: curl -L URI | sha256sum"
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
    """The names that a header may have, as the collection of known keys that a reader asks."""

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
        "[Unit]\nDescription=Fetch files of user-data (write_files with a source)\nAfter=systemd-networkd.service systemd-resolved.service\n\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/cloudconfig fetch\nTimeoutStartSec=15min\n"
    )


def fetch(
    root: Root,
    *,
    load: Callable[[Download, float], bytes] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Bring all files of the list under ``root``, each by itself. Returns what could not be had, by key path; no value is in it."""
    text = root.read(LIST, 1 << 22)
    if text is None:
        return []
    wanted = [Download(**{**item, "headers": tuple(map(tuple, item["headers"]))}) for item in json.loads(text)]
    end = clock() + DEADLINE_S
    troubles: list[str] = []
    for download in wanted:
        try:
            _one(root, download, load or _load, end, clock, sleep)
        except Failure as failure:
            troubles.append(f"{download.at}: {failure.message}")
    return troubles


def _one(
    root: Root,
    wanted: Download,
    load: Callable[[Download, float], bytes],
    end: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> None:
    content = root.read(wanted.path, SIZE_MAX)
    if content is None or hashlib.sha256(content).hexdigest() != wanted.sha256:
        pause, longest = PAUSE_S
        while True:
            try:
                content = load(wanted, max(ANSWER_S, end - clock()))
                break
            except OSError as error:
                if clock() + pause > end:
                    raise Failure(f"no answer after {DEADLINE_S:g} s: {error}") from error
            sleep(pause)
            pause = min(2 * pause, longest)
        if hashlib.sha256(content).hexdigest() != wanted.sha256:
            raise Failure("what came has another hash, and is thrown away")
    uid, gid = accounts.read(root).owner(wanted.owner)
    with Staging(root) as staging:
        staging.file(wanted.path, content, wanted.mode, uid, gid)
        staging.commit()


def _load(wanted: Download, left_s: float) -> bytes:
    """The content behind a URI, within ``left_s`` seconds. Raises OSError if it may come later, Failure if not."""
    import http.client
    import urllib.error
    import urllib.request

    end = time.monotonic() + left_s
    request = urllib.request.Request(wanted.uri, headers={"User-Agent": "flotilla-cloudconfig"})  # noqa: S310 - http(s) by read()
    for name, value in wanted.headers:
        request.add_unredirected_header(name, value)  # a password is for the one whom it was written down for
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as response:  # noqa: S310
            pieces: list[bytes] = []
            size = 0
            while chunk := response.read1(1 << 20):
                pieces.append(chunk)
                size += len(chunk)
                if size > SIZE_MAX:
                    raise Failure(f"larger than {SIZE_MAX >> 20} MiB")
                if time.monotonic() > end:
                    raise TimeoutError("it did not end")
            return b"".join(pieces)
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code not in (404, 408, 425, 429):
            raise Failure(f"HTTP status {error.code}") from None
        raise OSError(f"HTTP status {error.code}") from None
    except http.client.HTTPException as error:
        raise OSError(type(error).__name__) from None

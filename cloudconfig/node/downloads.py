"""``write_files[].source``: files from the network, whose hash is checked before they appear at their path.

Parsed on host and node; fetched on the node by the unit ``cloudconfig-fetch.service``, which waits for a network and
which units that need the file name in ``After=``. A file that exists with the right hash is not fetched again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from cloudconfig.node import accounts
from cloudconfig.node.rooted import Root, Staging
from cloudconfig.text.schema import Download
from cloudconfig.text.source import LIST
from terminal import Failure, record

SIZE_MAX = 64 << 20
DEADLINE_S = 600.0
ANSWER_S = 20.0
PAUSE_S = (0.5, 15.0)


def fetch(
    root: Root,
    *,
    load: Callable[[Download, float], bytes] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Download all files of the list to ``root``, each independently.

    Returns what could not be had, by key path; no value is in it."""
    text = root.read(LIST, 1 << 22)
    if text is None:
        return []
    wanted = [Download(**{**item, "headers": tuple(map(tuple, item["headers"]))}) for item in record.parse(text)]
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
            raise Failure("the download has another hash and was removed")
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
    # S310: http(s) by read().
    request = urllib.request.Request(wanted.uri, headers={"User-Agent": "flotilla-cloudconfig"})  # noqa: S310
    for name, value in wanted.headers:
        request.add_unredirected_header(name, value)  # a password is only for the server that it is meant for
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

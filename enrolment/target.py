"""Which issuer a node asks: what user-data says of it, checked. Pure, and cheap to import."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from terminal import Failure

PORT: Final = 7380
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}\Z")


class Target(NamedTuple):
    """Where the issuer is, and who: its authority's SHA-256 (of the DER), 64 hexadecimal digits."""

    url: str
    fingerprint: str


def checked(url: str, fingerprint: str) -> Target:
    """``https://HOST[:PORT]``, and a fingerprint, with or without colons. Raises Failure."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or not host or parts.scheme != "https" or parts.username or parts.path.strip("/") or parts.query:
        raise Failure("not the URL of an issuer", where=url[:200], hint=f"write https://HOST:{PORT}")
    found = fingerprint.replace(":", "").lower()
    if not _FINGERPRINT.match(found):
        raise Failure(
            "not a fingerprint", where=fingerprint[:200], hint="64 hexadecimal digits, as 'trust serve' prints"
        )
    at = f"[{host}]" if ":" in host else host
    return Target(f"https://{at}:{port or PORT}", found)

"""The format of a text by its first line, by cloud-init's rules; with name and next step of unsupported ones.

The formats that are read are in :mod:`cloudconfig.text.userdata`. This module recognises others that users send to
machines, by intent or by mistake, so that the message says what the text is instead of what it is not.
"""

from __future__ import annotations

import binascii
import re
from typing import NamedTuple

from cloudconfig.text.finding import nearest

CLOUD_CONFIG = "#cloud-config"
BOOTHOOK = "#cloud-boothook"
JINJA = "## template: jinja"
JINJA_LINE = re.compile(r"\A##[ \t]*template:[ \t]*jinja[ \t]*(?:\n|$)", re.IGNORECASE)
HINT = "the first line is '#cloud-config', or '#!' and an interpreter; or send MIME multipart"
_HEAD = 64 << 10  # of a text of another kind, as much is looked at
_BASE64_HEAD = 64

_ARCHIVE = "send its entries as the parts of a MIME multipart"
_WRITE = "write it as #cloud-config: docs/cloudconfig.md has the keys"


class Stranger(NamedTuple):
    """A text that is not read: what it is (or why that is unknown), the line that shows it, and the next step."""

    message: str
    line: int
    hint: str


# First lines of cloud-init that are not read: what it is, next step. The longer of two with one beginning comes first.
_FIRST_LINES = (
    ("#cloud-config-archive", "a cloud-config-archive", _ARCHIVE),
    ("#cloud-config-jsonp", "a JSON patch of a cloud-config", "apply the patch first, and send the result"),
    ("#include-once", "a list of URLs to include", "fetch them, and send their contents as MIME multipart"),
    ("#include", "a list of URLs to include", "fetch them, and send their contents as MIME multipart"),
    ("#part-handler", "a part handler: Python code for cloud-init itself", "send what it would make of its parts"),
    ("#upstart-job", "a job of upstart", "write it as a unit: coreos.units"),
    ("#ps1", "a PowerShell script, for Windows", "a node runs scripts that begin with #! and an interpreter it has"),
)
# The same as MIME types.
TYPES = {
    "text/cloud-config-archive": 0,
    "text/cloud-config-jsonp": 1,
    "text/x-include-once-url": 2,
    "text/x-include-url": 3,
    "text/part-handler": 4,
    "text/upstart-job": 5,
}
_MAGIC = (
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"BZh", "compressed with bzip2"),
    (b"PK\x03\x04", "a ZIP archive"),
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_YAML_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*[ \t]*:(?:[ \t]|$)")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}$")
_KNOWN_BEGINNINGS = (b"#", b"\x1f\x8b", b"Content-Type:", b"MIME-Version:", b"{")


def binary(data: bytes) -> Stranger | None:
    """What binary ``data`` is, if it is something that people send; None if it is not."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return Stranger(f"this is {name}", 0, "gzip is the only compression that is read")
    if data.startswith(_UTF16):
        return Stranger("this is UTF-16", 0, "save it as UTF-8")
    return None


def of_type(media_type: str) -> Stranger | None:
    """What a MIME part of a type of cloud-init's is that is not read; None for all other types."""
    if media_type not in TYPES:
        return None
    _first, name, hint = _FIRST_LINES[TYPES[media_type]]
    return Stranger(f"{name} is not read here", 1, hint)


def stranger(text: str) -> Stranger:
    """What a text is that has none of the first lines we read."""
    head = text[:_HEAD]
    stripped = head.lstrip()
    line = head[: len(head) - len(stripped)].count("\n") + 1
    first = stripped.partition("\n")[0].rstrip()
    for beginning, name, hint in _FIRST_LINES:
        if first.startswith(beginning):
            return Stranger(f"{name} ({beginning}) is not read here", line, hint)
    lower = stripped[:256].lower()
    if lower.startswith(("<!doctype html", "<html", "<?xml")):
        return Stranger(
            "this is a web page, not user-data", line, "a server's error message, perhaps: look at it, and fetch again"
        )
    if lower.startswith(("<powershell", "<script", "rem cmd")):
        return Stranger(
            "this is a script for Windows", line, "a node runs scripts that begin with #! and an interpreter"
        )
    if stripped.startswith("{"):
        return _json(stripped, line)
    if re.search(r"^variant:", head, re.MULTILINE) and re.search(r"^version:", head, re.MULTILINE):
        return Stranger("this is a Butane config", line, _WRITE)
    if _wrapped(stripped):
        return Stranger(
            "this is base64 of user-data, as a whole",
            line,
            "decode it once: base64 -d; tools of clouds encode by themselves",
        )
    return _headless(head, first, line)


def _json(stripped: str, line: int) -> Stranger:
    if re.search(r'"ignition"\s*:', stripped):
        return Stranger("this is an Ignition config", line, _WRITE)
    return Stranger("user-data of no known kind: it is JSON", line, "JSON is YAML: put '#cloud-config' above it")


def _headless(head: str, first: str, line: int) -> Stranger:
    """No known kind at all: report what the first line may have been meant for."""
    what = "user-data of no known kind"
    found = re.search(r"^#cloud-config[ \t]*$", head, re.MULTILINE)
    if found:
        at = head.count("\n", 0, found.start()) + 1
        return Stranger(f"{what}: '#cloud-config' must be the first line", at, "move it up")
    word = "#" + first.lstrip("# \t").rstrip(": \t").lower()
    if first.startswith("#") and nearest(word, (CLOUD_CONFIG, BOOTHOOK)):
        return Stranger(f"{what}: the first line is nearly one", line, "write exactly: #cloud-config")
    if re.fullmatch(r"##?\s*template\s*:.*", first, re.IGNORECASE):
        return Stranger(f"{what}: jinja is the only template", line, f"write exactly: {JINJA}")
    if first == "---" or _YAML_KEY.match(first):
        return Stranger(f"{what}: it has no header", line, "put '#cloud-config' above it, as the first line")
    return Stranger(what, line, HINT)


def _wrapped(stripped: str) -> bool:
    """Whether it is base64, and user-data is in it."""
    line = stripped.partition("\n")[0].strip()
    if not _BASE64.match(line):
        return False
    head = line[:_BASE64_HEAD]
    try:
        data = binascii.a2b_base64(head[: len(head) // 4 * 4])
    except binascii.Error:
        return False
    return data.startswith(_KNOWN_BEGINNINGS)

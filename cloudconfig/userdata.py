"""User-data bytes -> parts: cloud-configs and scripts, out of plain text, gzip or MIME multipart.

Formats: the first line ``#cloud-config`` or ``#!``; gzip (RFC 1952) of any of these; MIME multipart (RFC 2046) with parts
text/cloud-config and text/x-shellscript, as cloud-init and coreos-cloudinit read them.
"""

from __future__ import annotations

from typing import NamedTuple

from terminal import Failure

# What gzip may blow up to. Equal to the cap of a YAML text: more could not be used.
INFLATED_MAX = 1 << 20
PARTS_MAX = 64
NESTING_MAX = 4

CLOUD_CONFIG = "cloud-config"
SCRIPT = "script"

_HINT = "the first line is '#cloud-config', or '#!' and an interpreter; or send MIME multipart"


class Part(NamedTuple):
    """One piece: ``kind`` is CLOUD_CONFIG or SCRIPT, ``name`` tells MIME parts apart (empty if there is only one)."""

    kind: str
    text: str
    name: str = ""


class UserDataError(Failure):
    """User-data that is none of the formats; ``text`` is what could be decoded, for those who look for keys in ruins."""

    def __init__(self, message: str, *, hint: str | None = None, text: str = "") -> None:
        super().__init__(message, hint=hint)
        self.text = text


def read(data: bytes) -> tuple[Part, ...]:
    """The parts of ``data``, none if it is empty. Raises UserDataError."""
    parts = tuple(_read(data, "", 0))
    if len(parts) == 1:
        return (parts[0]._replace(name=""),)
    return parts


def inflate(data: bytes) -> bytes:
    """Undo gzip, up to INFLATED_MAX bytes. Raises UserDataError when it is broken or blows up to more."""
    import zlib

    machine = zlib.decompressobj(wbits=31)
    try:
        out = machine.decompress(data, INFLATED_MAX + 1)
    except zlib.error as error:
        raise UserDataError("broken gzip data") from error
    if len(out) > INFLATED_MAX:
        raise UserDataError(f"gzip data inflates to more than {INFLATED_MAX >> 20} MiB")
    if not machine.eof:
        raise UserDataError("gzip data ends early")
    return out


def _read(data: bytes, name: str, nesting: int) -> list[Part]:
    if nesting > NESTING_MAX:
        raise UserDataError(f"user-data is packed more than {NESTING_MAX} times")
    if data.startswith(b"\x1f\x8b"):
        return _read(inflate(data), name, nesting + 1)
    if len(data) > INFLATED_MAX:
        raise UserDataError(f"user-data is larger than {INFLATED_MAX >> 20} MiB")
    text = _decode(data)
    if not text.strip():
        return []
    if text.startswith("#!"):
        return [Part(SCRIPT, text, name)]
    first = text.partition("\n")[0].rstrip()
    if first == "#cloud-config":
        return [Part(CLOUD_CONFIG, text, name)]
    if _looks_like_mime(text):
        return _multipart(data, nesting)
    raise UserDataError("user-data of no known kind", hint=_HINT, text=text)


def _decode(data: bytes) -> str:
    """UTF-8, without byte order mark, with Unix line ends."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserDataError(
            f"not UTF-8 in line {line}",
            hint="save it as UTF-8; binary content of files goes as encoding: b64",
            text=data.decode("utf-8", "replace"),
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _looks_like_mime(text: str) -> bool:
    head = text[:4096].lower()
    return head.startswith(("mime-version:", "content-type: multipart")) or "\nmime-version:" in head


def _multipart(data: bytes, nesting: int) -> list[Part]:
    import email
    from email.message import Message

    # The parser of the standard library recurses into each nested multipart.
    if data.lower().count(b"multipart/") > PARTS_MAX:
        raise UserDataError(f"more than {PARTS_MAX} MIME multiparts")
    message: Message = email.message_from_bytes(data)
    if not message.is_multipart():
        raise UserDataError("MIME user-data without parts", hint=_HINT)
    parts: list[Part] = []
    for index, piece in enumerate(message.walk()):
        if piece.is_multipart():
            continue
        if index > PARTS_MAX:
            raise UserDataError(f"more than {PARTS_MAX} MIME parts")
        payload = piece.get_payload(decode=True)
        if isinstance(payload, bytes):
            parts.extend(_read(payload, f"part {index}", nesting + 1))
    return parts

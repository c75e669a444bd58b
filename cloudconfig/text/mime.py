"""MIME messages -> leaf parts, strictly: damage is an error with its line, where mail readers guess and drop.

Formats: RFC 5322 header fields, RFC 2045 Content-Type and Content-Transfer-Encoding, RFC 2046 multipart (also
message/rfc822). The parser of the standard library is not used: it silently repairs damage, recurses, and is quadratic
in places. This one takes one pass, and charges every part to a :class:`Budget`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from terminal import Failure

PARTS_MAX = 64
DECODED_MAX = 4 << 20
"""Bytes of all that is decoded on the way, of all parts and layers together: four times what one text may have."""
HEADERS_MAX = 8 << 10
BOUNDARY_MAX = 70  # RFC 2046, 5.1.1
DEFAULT_TYPE = "text/plain"

_FIELD = re.compile(rb"([!-9;-~]{1,64})[ \t]*:[ \t]*(.*)", re.DOTALL)
_TYPE = re.compile(r"[ \t]*([a-z0-9!#$&^_.+-]{1,64}/[a-z0-9!#$&^_.+-]{1,64})[ \t]*(?:;|$)", re.IGNORECASE)
_PARAMETER = re.compile(
    r'[ \t]*;[ \t]*([a-z0-9-]{1,32})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))', re.IGNORECASE
)
_QP = re.compile(rb"(?:[^=]|=[0-9A-Fa-f]{2}|=[ \t]*(?:\r?\n|\Z))*+")
_BLANKS_AT_END = re.compile(rb"(?<![ \t])[ \t]++(?=\r?\n|\Z)")
_PLAIN_ENCODINGS = ("", "7bit", "8bit", "binary")
_HINT_HEADERS = "a blank line goes between the headers of a part and its text"
_HINT_BASE64 = "encode the part again; it may have been cut or edited"


class MimeError(Failure):
    """A damaged message: ``line`` counts from 1 in it, ``part`` is the number of the part (0: the message itself).

    ``mild``: nothing that a mail reader would show is lost.
    """

    def __init__(self, message: str, line: int, part: int = 0, *, hint: str | None = None, mild: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.line = line
        self.part = part
        self.mild = mild


class BudgetError(Failure):
    """More than a :class:`Budget` has."""


class Budget:
    """What one user-data may use up, in parts and in decoded bytes, however they are packed into each other."""

    def __init__(self, parts: int = PARTS_MAX, decoded: int = DECODED_MAX) -> None:
        self.parts = parts
        self.decoded = decoded

    def part(self) -> None:
        """One more part. Raises BudgetError."""
        self.parts -= 1
        if self.parts < 0:
            raise BudgetError(f"more than {PARTS_MAX} parts in MIME multiparts", hint="join parts of one kind")

    def decode(self, size: int) -> None:
        """``size`` more bytes. Raises BudgetError."""
        self.decoded -= size
        if self.decoded < 0:
            raise BudgetError(
                f"the parts unpack to more than {DECODED_MAX >> 20} MiB",
                hint="give large files by reference, not inline",
            )


class Entity(NamedTuple):
    """Header fields by lower-case name, the raw body, and the line of the message that the body begins in."""

    fields: Mapping[str, str]
    body: bytes
    line: int

    @property
    def type(self) -> str:
        """The media type in lower case, ``text/plain`` if none is given or it is no type (RFC 2045, 5.2)."""
        found = _TYPE.match(self.fields.get("content-type", ""))
        return found[1].lower() if found else DEFAULT_TYPE

    def parameter(self, name: str) -> str:
        """A parameter of Content-Type, empty if missing."""
        value = self.fields.get("content-type", "")
        at = len(value.partition(";")[0])
        while found := _PARAMETER.match(value, at):
            if found[1].lower() == name:
                return re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
            at = found.end()
        return ""

    @property
    def container(self) -> bool:
        """Whether the body is made of entities."""
        return self.type.startswith("multipart/") or self.type == "message/rfc822"


def looks_like_one(data: bytes) -> bool:
    """Whether ``data`` begins with header fields, and MIME's are among them."""
    head = data.lstrip(b"\r\n")[:4096]
    if not _FIELD.match(head.partition(b"\n")[0]):
        return False
    block = b"\n" + re.split(rb"\n\r?\n", head, maxsplit=1)[0].lower()
    return b"\nmime-version:" in block or b"\ncontent-type:" in block


def entity(data: bytes, line: int = 1, part: int = 0) -> Entity:
    """Split header fields from the body. Raises MimeError: a line that is no field, no blank line after the last."""
    fields: dict[str, str] = {}
    name = ""
    start = 0
    if part == 0:  # a message, not a part of one: here documents begin with blank lines
        start = len(data) - len(data.lstrip(b"\r\n"))
        line += data.count(b"\n", 0, start)
    while True:
        end = data.find(b"\n", start)
        if end < 0:
            raise MimeError("the headers end early, there is no text", line, part, hint=_HINT_HEADERS)
        raw = data[start:end].removesuffix(b"\r")
        start = end + 1
        if start > HEADERS_MAX:
            raise MimeError(f"headers of more than {HEADERS_MAX >> 10} KiB", line, part, hint=_HINT_HEADERS)
        line += 1
        if not raw.strip():
            return Entity(fields, data[start:], line)
        if raw[:1] in b" \t" and name:
            fields[name] += " " + raw.strip().decode("utf-8", "replace")
            continue
        found = _FIELD.fullmatch(raw)
        if not found:
            raise MimeError("this line is no header", line - 1, part, hint=_HINT_HEADERS)
        name = found[1].decode("ascii").lower()
        if name in fields and name.startswith("content-"):
            raise MimeError(f"the header {name} stands here twice", line - 1, part)
        fields.setdefault(name, found[2].strip().decode("utf-8", "replace"))


def pieces(whole: Entity) -> Iterator[tuple[int, int, bytes]]:
    """The direct parts of a container as (number from 1, line in the message, raw bytes).

    Parts come before the error of what follows them, so that a message that was cut still gives those that arrived
    whole. Raises MimeError.
    """
    if whole.fields.get("content-transfer-encoding", "").lower() not in _PLAIN_ENCODINGS:
        raise MimeError("a multipart must not be encoded as a whole", whole.line, hint="encode its parts")
    if not whole.type.startswith("multipart/"):
        yield 1, whole.line, whole.body
        return
    boundary = whole.parameter("boundary").rstrip()
    if not boundary:
        raise MimeError(
            "user-data without parts: its Content-Type names no boundary", 1, hint='multipart/mixed; boundary="X"'
        )
    if len(boundary) > BOUNDARY_MAX:
        raise MimeError(f"a boundary of more than {BOUNDARY_MAX} characters", 1)
    delimiter = re.compile(rb"^--" + re.escape(boundary.encode()) + rb"(--)?[ \t]*\r?(?:\n|\Z)", re.MULTILINE)
    body, line, at, number, start = whole.body, whole.line, 0, 0, 0
    closed = late = 0
    begin = line
    for count, found in enumerate(delimiter.finditer(body)):
        if count > 2 * PARTS_MAX:
            raise MimeError(f"more than {2 * PARTS_MAX} boundaries", line)
        line += body.count(b"\n", at, found.start())
        at = found.start()
        if number and not closed:
            yield number, begin, _without_line_end(body[start : found.start()])
        late = late or (closed and line)
        closed = line if found[1] is not None else 0
        number += not closed
        start = found.end()
        begin = line + 1
    if not number:
        raise MimeError(
            "its boundary occurs nowhere, so there are no parts", whole.line, hint="the lines between parts: --X"
        )
    if not closed:
        yield number, begin, body[start:]
        raise MimeError(
            "the closing boundary is missing: the end of the message is lost",
            line + body.count(b"\n", at),
            number,
            hint="send it again; the last line is --X--",
        )
    if late:
        raise MimeError("a part after the closing boundary", late, hint="put it before the line --X--")
    if body[start:].strip():
        raise MimeError("text after the closing boundary is no part, ignored", begin, hint="put it before", mild=True)


def decoded(leaf: Entity, part: int = 0) -> bytes:
    """The body without its transfer encoding. Raises MimeError if it is not in the encoding that the header names."""
    encoding = leaf.fields.get("content-transfer-encoding", "").strip().lower()
    if encoding in _PLAIN_ENCODINGS:
        return leaf.body
    if encoding == "base64":
        try:
            return binascii.a2b_base64(b"".join(leaf.body.split()), strict_mode=True)
        except binascii.Error:
            raise MimeError("not base64, though its header says so", leaf.line, part, hint=_HINT_BASE64) from None
    if encoding == "quoted-printable":
        good = _QP.match(leaf.body)
        end = good.end() if good else 0
        if end < len(leaf.body):
            line = leaf.line + leaf.body.count(b"\n", 0, end)
            raise MimeError(
                "not quoted-printable: '=' and no two hexadecimal digits", line, part, hint="write =3D for '='"
            )
        return binascii.a2b_qp(_BLANKS_AT_END.sub(b"", leaf.body))
    raise MimeError("unknown Content-Transfer-Encoding", leaf.line, part, hint="base64, quoted-printable, 8bit or 7bit")


def _without_line_end(data: bytes) -> bytes:
    """The line end before a delimiter belongs to the delimiter (RFC 2046, 5.1.1)."""
    return data.removesuffix(b"\n").removesuffix(b"\r")

"""User-data bytes -> parts: cloud-configs and scripts from plain text, gzip or MIME; and what is wrong with the rest.

Formats: by the first line (``#cloud-config``, ``#!``, ``#cloud-boothook``, ``## template: jinja``); gzip (RFC 1952) of
any of these; MIME (:mod:`cloudconfig.text.mime`), where Content-Type comes first and the first line decides for types
without a meaning (text/plain, application/octet-stream), as in cloud-init. Nested ones share one budget of depth, parts
and bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cloudconfig.text import formats, mime
from cloudconfig.text.finding import ERROR, WARNING, Finding
from cloudconfig.text.mime import Budget, BudgetError, Entity, MimeError
from terminal import Failure

# What gzip may blow up to. Equal to the cap of a YAML text: more could not be used.
INFLATED_MAX = 1 << 20
NESTING_MAX = 4
MEMBERS_MAX = 1024

CLOUD_CONFIG = "cloud-config"
SCRIPT = "script"

# When a script runs.
INSTANCE = "instance"  # once for an instance
BOOT = "boot"  # at each boot
HOOK = "hook"  # at each boot, before everything else that user-data starts
ONCE = "once"  # once on this state disk, whatever instance it is

_SCRIPTS = {
    "text/x-shellscript": INSTANCE,
    "text/x-shellscript-per-instance": INSTANCE,
    "text/x-shellscript-per-boot": BOOT,
    "text/x-shellscript-per-once": ONCE,
    "text/cloud-boothook": HOOK,
}
_GZIP = b"\x1f\x8b"
_GZIP_NAMES = "gzip gzip-compressed gzipped x-compress x-compressed x-gunzip x-gzip x-gzip-compressed"
_GZIP_TYPES = frozenset(f"application/{name}" for name in _GZIP_NAMES.split())
# Types without a meaning: the first line decides.
_OPEN_TYPES = frozenset(("", "text/plain", "text/x-not-multipart", "application/octet-stream")) | _GZIP_TYPES
_CONFIG_TYPE, _JINJA_TYPE = "text/cloud-config", "text/jinja2"
_CHARSETS = {
    **dict.fromkeys(("", "utf-8", "utf8", "us-ascii", "ascii"), ""),
    **dict.fromkeys(("iso-8859-1", "latin1", "latin-1"), "iso-8859-1"),
    "iso-8859-15": "iso-8859-15",
    "windows-1252": "windows-1252",
    "utf-16": "utf-16",
}
_CHUNK = 4096


class Part(NamedTuple):
    """One piece: ``kind`` is CLOUD_CONFIG or SCRIPT, ``name`` distinguishes MIME parts (empty if there is only one),
    ``when`` a script runs, and ``merge`` is the part's Merge-Type header."""

    kind: str
    text: str
    name: str = ""
    when: str = INSTANCE
    merge: str = ""


class Contents(NamedTuple):
    """All that could be read.

    With an error among the findings, ``ruins`` are texts of what could not, to look for keys in."""

    parts: tuple[Part, ...]
    findings: tuple[Finding, ...] = ()
    ruins: tuple[str, ...] = ()


class UserDataError(Failure):
    """Data that is none of the formats.

    ``line`` of it is where (0: no place), ``text`` what could be decoded nevertheless."""

    def __init__(self, message: str, *, line: int = 0, hint: str | None = None, text: str = "") -> None:
        super().__init__(message, hint=hint)
        self.line = line
        self.text = text


def read(data: bytes, instance: Callable[[], Mapping[str, object]] | None = None) -> Contents:
    """The parts of ``data``, none if it is empty, and findings; nothing is raised for what is wrong with it.

    ``instance`` gives the instance data that jinja templates are rendered with; None where it is not known (not on the
    node).
    """
    reader = _Reader(instance)
    try:
        reader.read(data, Entity({}, b"", 1), "", 0)
    except BudgetError as error:
        reader.findings.append(Finding(ERROR, "", 0, 0, error.message, error.hint or ""))
    parts = reader.parts
    if len(parts) == 1 and not reader.findings:
        parts = [parts[0]._replace(name="")]
    return Contents(tuple(parts), tuple(reader.findings), tuple(reader.ruins))


def inflate(data: bytes, most: int = INFLATED_MAX) -> bytes:
    """Undo gzip, all members of it, up to ``most`` bytes. Raises UserDataError when it is broken or blows up to more.

    As gzip(1): members follow each other, zero bytes may follow the last; anything else after it is damage.
    """
    import zlib

    out = bytearray()
    at = members = 0
    while True:
        machine = zlib.decompressobj(wbits=31)
        members += 1
        if members > MEMBERS_MAX:
            raise UserDataError(f"gzip data of more than {MEMBERS_MAX} members", text=_lenient(out))
        while not machine.eof:
            # In pieces: a decompressor copies what follows a member, and there may be many members.
            chunk = machine.unconsumed_tail or data[at : at + _CHUNK]
            if not machine.unconsumed_tail:
                at += len(chunk)
            if not chunk:
                raise UserDataError(
                    "gzip data ends early", hint="it was cut on its way: send it again", text=_lenient(out)
                )
            try:
                out += machine.decompress(chunk, most + 1 - len(out))
            except zlib.error as error:
                which = f"broken gzip data in member {members}" if members > 1 else "broken gzip data"
                raise UserDataError(which, hint="test it: gzip -t", text=_lenient(out)) from error
            if len(out) > most:
                raise UserDataError(f"gzip data inflates to more than {INFLATED_MAX >> 20} MiB", text=_lenient(out))
        at -= len(machine.unused_data)
        if data.startswith(_GZIP, at):
            continue
        if data.count(0, at) < len(data) - at:
            hint = "gzip files may follow each other, nothing else may"
            raise UserDataError("junk after the gzip data", hint=hint, text=_lenient(out))
        return bytes(out)


class _Reader:
    """Walks through the layers; ``parts``, ``findings`` and ``ruins`` grow on the way."""

    def __init__(self, instance: Callable[[], Mapping[str, object]] | None) -> None:
        self.parts: list[Part] = []
        self.findings: list[Finding] = []
        self.ruins: list[str] = []
        self._instance = instance
        self._budget = Budget()

    def read(self, data: bytes, leaf: Entity, name: str, depth: int) -> None:
        """``data`` is decoded; ``leaf`` has the headers it came with."""
        try:
            self._read(data, leaf, name, depth)
        except UserDataError as error:
            column = 1 if error.line else 0
            self.findings.append(Finding(ERROR, "", error.line, column, error.message, error.hint or "", name))
            self.ruins.append(error.text)

    def _read(self, data: bytes, leaf: Entity, name: str, depth: int) -> None:
        media_type = leaf.type if leaf.fields else ""
        if depth > NESTING_MAX:
            raise UserDataError(f"user-data is packed more than {NESTING_MAX} times", hint="once is enough")
        if data.startswith(_GZIP):
            inflated = inflate(data)
            self._budget.decode(len(inflated))
            return self.read(inflated, _unwrapped(leaf), name, depth + 1)
        if media_type in _GZIP_TYPES and data.strip():
            raise UserDataError("not gzip, though its type says so", hint="text/plain is right, or compress it")
        if len(data) > INFLATED_MAX:
            raise UserDataError(
                f"user-data is larger than {INFLATED_MAX >> 20} MiB",
                hint="give large files by reference, not inline",
                text=_lenient(data[:INFLATED_MAX]),
            )
        if media_type in _OPEN_TYPES and mime.looks_like_one(data):
            return self._message(data, name, depth)
        odd = formats.binary(data)
        if odd:
            raise UserDataError(odd.message, hint=odd.hint)
        return self._text(self._decode(data, leaf), media_type, Part("", "", name, merge=_merge_type(leaf)), depth)

    def _message(self, data: bytes, name: str, depth: int) -> None:
        try:
            whole = mime.entity(data)
            if not whole.container:
                return self._leaf(whole, name, depth)
        except MimeError as error:
            return self._damage(error, name, data)
        return self._container(whole, name, depth)

    def _container(self, whole: Entity, name: str, depth: int) -> None:
        done = len(self.parts) + len(self.findings)
        try:
            for number, line, raw in mime.pieces(whole):
                self._budget.part()
                inner = f"{name}.{number}" if name else f"part {number}"
                try:
                    self._piece(mime.entity(raw, line, number), inner, depth, number)
                except MimeError as error:
                    self._damage(error, name, raw)
        except MimeError as error:
            # Parts that have been read are no ruins.
            self._damage(error, name, whole.body if len(self.parts) + len(self.findings) == done else b"")

    def _piece(self, piece: Entity, name: str, depth: int, number: int) -> None:
        if not piece.container:
            self._leaf(piece, name, depth, number)
        elif depth + 1 > NESTING_MAX:
            raise MimeError(f"user-data is packed more than {NESTING_MAX} times", piece.line, number)
        elif piece.type == "message/rfc822":
            self._message(piece.body, name, depth + 1)
        else:
            self._container(piece, name, depth + 1)

    def _leaf(self, leaf: Entity, name: str, depth: int, number: int = 0) -> None:
        data = mime.decoded(leaf, number)
        self._budget.decode(len(data))
        self.read(data, leaf, name, depth + 1)

    def _damage(self, error: MimeError, container: str, ruin: bytes) -> None:
        """What is wrong with a message, at its line, with the number of its part.

        ``ruin`` is what was not read for it."""
        if ruin:
            self.ruins.append(_lenient(ruin))
        number = f"part {error.part}: " if error.part else ""
        severity = WARNING if error.mild else ERROR
        self.findings.append(
            Finding(severity, "", error.line, 1, f"MIME {number}{error.message}", error.hint or "", container)
        )

    def _decode(self, data: bytes, leaf: Entity) -> str:
        charset = leaf.parameter("charset").lower()
        if charset not in _CHARSETS:
            raise UserDataError("unknown charset", hint="send it as UTF-8", text=_lenient(data))
        if not _CHARSETS[charset]:
            return decode(data)
        try:
            return _unix(data.decode(_CHARSETS[charset]))
        except UnicodeDecodeError:
            raise UserDataError(f"not {charset}, though its header says so", text=_lenient(data)) from None

    def _text(self, text: str, media_type: str, part: Part, depth: int) -> None:
        """One text: its type decides if it has a meaning, else its first line."""
        if not text.strip():
            return
        if formats.JINJA_LINE.match(text):
            self._template(text, media_type, part, depth)
        elif media_type == _CONFIG_TYPE:
            self.parts.append(part._replace(kind=CLOUD_CONFIG, text=text))
        elif media_type in _SCRIPTS and media_type != "text/x-shellscript":
            self._script(text, part, _SCRIPTS[media_type])
        elif media_type in _OPEN_TYPES or media_type in (_JINJA_TYPE, "text/x-shellscript"):
            self._by_first_line(text, part)
        else:
            self._other(text, media_type, part)

    def _by_first_line(self, text: str, part: Part) -> None:
        first = text.partition("\n")[0].rstrip()
        if text.startswith("#!"):
            self.parts.append(part._replace(kind=SCRIPT, text=text))
        elif first == formats.CLOUD_CONFIG:
            self.parts.append(part._replace(kind=CLOUD_CONFIG, text=text))
        elif first == formats.BOOTHOOK:
            self._script(text, part, HOOK)
        else:
            odd = formats.stranger(text)
            raise UserDataError(odd.message, line=odd.line, hint=odd.hint, text=text)

    def _script(self, text: str, part: Part, when: str) -> None:
        """A script of a type that sets when it runs; ``#cloud-boothook`` may precede it."""
        line = 1
        if text.partition("\n")[0].rstrip() == formats.BOOTHOOK:
            text, line = text.partition("\n")[2], 2
        if not text.startswith("#!"):
            raise UserDataError("a script without an interpreter", line=line, hint="it begins with #!/bin/sh")
        self.parts.append(part._replace(kind=SCRIPT, text=text, when=when))

    def _template(self, text: str, media_type: str, part: Part, depth: int) -> None:
        from cloudconfig.text import jinja  # only a template pays for it

        try:
            rendered = jinja.expand(text, self._instance() if self._instance else None)
        except jinja.TemplateError as error:
            self.findings.append(
                Finding(ERROR, "", error.line, error.column, error.message, error.hint or "", part.name)
            )
            self.ruins.append(text)
            return
        if depth >= NESTING_MAX:
            raise UserDataError(f"user-data is packed more than {NESTING_MAX} times", hint="once is enough", text=text)
        if rendered is None:
            self.findings.append(Finding(WARNING, "", 1, 1, jinja.UNRENDERED, jinja.UNRENDERED_HINT, part.name))
            return
        self._budget.decode(len(rendered))
        self._text(rendered, media_type, part, depth + 1)

    def _other(self, text: str, media_type: str, part: Part) -> None:
        """A type that is not read. cloud-init's own lose something that was meant: errors.

        Others are passed over, as in mail."""
        odd = formats.of_type(media_type)
        if odd:
            raise UserDataError(odd.message, line=odd.line, hint=odd.hint, text=text)
        known = f"read are {_CONFIG_TYPE}, {_JINJA_TYPE}, {', '.join(sorted(_SCRIPTS))}"
        self.findings.append(
            Finding(WARNING, "", 1, 1, f"{part.name} of the unknown type {media_type}, skipped", known, part.name)
        )


def decode(data: bytes) -> str:
    """UTF-8, without byte order mark, with Unix line ends. Raises UserDataError."""
    try:
        return _unix(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserDataError(
            f"not UTF-8 in line {line}",
            line=line,
            hint="save it as UTF-8; binary content of files goes as encoding: b64",
            text=_lenient(data),
        ) from None


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _lenient(data: bytes | bytearray) -> str:
    return _unix(data.decode("utf-8", "replace"))


def _unwrapped(leaf: Entity) -> Entity:
    """The headers of unpacked contents: the type gzip does not describe them."""
    if leaf.type not in _GZIP_TYPES:
        return leaf
    return leaf._replace(fields={name: value for name, value in leaf.fields.items() if name != "content-type"})


def _merge_type(leaf: Entity) -> str:
    return leaf.fields.get("merge-type") or leaf.fields.get("x-merge-type") or ""

"""Cloud-config text -> frozen values, findings, and the line of every key.

Nothing raises: a text that cannot be used comes back with findings of severity error. Spelling: hyphens in our keys are
underscores (``drop-ins`` is ``drop_ins``); both at once are a repetition.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from cloudconfig import schema, yamltree
from cloudconfig.finding import ERROR, WARNING, Capped, Finding, nearest
from cloudconfig.schema import BOOL, FLOAT, INT, CloudConfig, DropIn, Unit, User, WriteFile
from cloudconfig.userdata import UserDataError, inflate
from cloudconfig.yamltree import Node, Scalar

HINTS_MAX = 50  # finding the nearest word takes time
UNPACKED_MAX = 4 << 20
"""Bytes that all compressed files of one user-data may have, unpacked."""
# YAML 1.1 words; a quoted "true" counts too, since templates quote.
_BOOLS = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"[-+]?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")
_OCTAL = re.compile(r"0?o?[0-7]{3,4}")


class Mark(NamedTuple):
    """Where a key's value stands, from 1; ``block``: it is a ``|`` block, its text starts on the next line."""

    line: int
    column: int
    block: bool


class Document(NamedTuple):
    """One parsed cloud-config: the values, all findings so far, marks by key path, and how many values its YAML has."""

    config: CloudConfig
    findings: tuple[Finding, ...]
    marks: Mapping[str, Mark]
    nodes: int = 0


class Room:
    """How many bytes may still be unpacked."""

    def __init__(self, left: int) -> None:
        self.left = left


Fields = dict[str, tuple[str, Node]]


def parse(text: str) -> Document:
    """Read a cloud-config."""
    return parse_all([text])[0]


def parse_all(texts: Iterable[str]) -> list[Document]:
    """Read the cloud-configs of one user-data, which share one budget of values and of what their files unpack to."""
    left, room = yamltree.NODES_MAX, Room(UNPACKED_MAX)
    documents: list[Document] = []
    for text in texts:
        documents.append(of_tree(yamltree.read(text, left), room))
        left -= documents[-1].nodes
    return documents


def of_tree(tree: yamltree.Tree, room: Room | None = None) -> Document:
    """The cloud-config that a YAML tree is."""
    reader = _Reader(room or Room(UNPACKED_MAX))
    config = reader.config(tree.root) if tree.root is not None else CloudConfig()
    return Document(config, (*tree.findings, *reader.findings), reader.marks, tree.nodes)


class _Reader:
    """Walks the tree; ``findings`` and ``marks`` grow on the way."""

    def __init__(self, room: Room) -> None:
        self.findings: list[Finding] = Capped()
        self._room = room
        self.marks: dict[str, Mark] = {}

    # --- the sections

    def config(self, root: Node) -> CloudConfig:
        top = self._struct(root, "", schema.TOP, schema.TOP_LATER)
        coreos = self._section(top, "coreos", schema.COREOS, schema.COREOS_LATER)
        update = self._section(coreos, "update", schema.UPDATE)
        if update:
            path, node = next(iter(update.values()))
            self._warn(node, path, "accepted, but updates do nothing on this image yet")
        return CloudConfig(
            hostname=self._text(top, "hostname"),
            ssh_authorized_keys=self._words(top, "ssh_authorized_keys"),
            users=tuple(
                self._user(node, path)
                for path, node in self._items(top, "users")
                if not (
                    isinstance(node, Scalar) and node.text == "default"
                )  # cloud-init's word for core, which is there
            ),
            write_files=tuple(self._write_file(node, path) for path, node in self._items(top, "write_files")),
            manage_etc_hosts=self._text(top, "manage_etc_hosts"),
            etcd=self._etcd(coreos),
            fleet=self._options(self._section(coreos, "fleet", tuple(schema.FLEET)), schema.FLEET),
            units=tuple(self._unit(node, path) for path, node in self._items(coreos, "units")),
            reboot_strategy=self._choice(update, "reboot_strategy", schema.REBOOT_STRATEGIES),
        )

    def _etcd(self, coreos: Fields) -> tuple[tuple[str, str], ...]:
        if "etcd" in coreos and "etcd2" in coreos:
            path, node = coreos["etcd"]
            self._error(node, path, "etcd and etcd2 are one service here", "merge the two into coreos.etcd2")
        name = "etcd2" if "etcd2" in coreos else "etcd"
        fields = self._section(coreos, name, (*schema.ETCD, *schema.ETCD_0_4))
        for key, (path, node) in list(fields.items()):
            if key in schema.ETCD_0_4:
                new = schema.ETCD_0_4[key]
                self._warn(node, path, "an option of etcd 0.4, left out", f"use {new}" if new else "remove it")
                del fields[key]
            elif key in schema.ETCD_GONE:
                self._warn(node, path, "etcd 3.5 ignores it", f"use {schema.ETCD_GONE[key]}")
        return self._options(fields, schema.ETCD)

    def _options(self, fields: Fields, kinds: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Options of a service as environment text; a key without value is not set, false, 0 and "" are."""
        found: list[tuple[str, str]] = []
        for key in fields:
            value: object | None
            if kinds[key] == BOOL:
                flag = self._bool(fields, key)
                value = None if flag is None else ("true" if flag else "false")
            elif kinds[key] in (INT, FLOAT):
                value = self._number(fields, key, kinds[key])
            else:
                value = self._scalar(fields, key)
            if value is not None:
                found.append((key, str(value)))
        return tuple(found)

    def _unit(self, node: Node, path: str) -> Unit:
        fields = self._struct(node, path, schema.UNIT)
        drop_ins = []
        for inner_path, inner in self._items(fields, "drop_ins"):
            drop_in = self._struct(inner, inner_path, schema.DROP_IN)
            name, content = self._required(drop_in, "name", inner_path, inner), self._scalar(drop_in, "content")
            if content is None and isinstance(inner, yamltree.Mapping):
                self._error(inner, inner_path, "a drop-in needs content")
            drop_ins.append(DropIn(name, content or "", inner_path))
        return Unit(
            name=self._required(fields, "name", path, node),
            content=self._text(fields, "content") or None,
            enable=self._bool(fields, "enable") or False,
            runtime=self._bool(fields, "runtime") or False,
            mask=self._bool(fields, "mask") or False,
            command=self._choice(fields, "command", schema.COMMANDS),
            drop_ins=tuple(drop_ins),
            at=path,
        )

    def _write_file(self, node: Node, path: str) -> WriteFile:
        fields = self._struct(node, path, schema.WRITE_FILE)
        append = self._bool(fields, "append") or False
        return WriteFile(
            path=self._required(fields, "path", path, node),
            content=self._content(fields),
            mode=None if append and "permissions" not in fields else self._mode(fields),
            owner=self._text(fields, "owner") or ("" if append else "root:root"),
            at=path,
            append=append,
        )

    def _user(self, node: Node, path: str) -> User:
        fields = self._struct(node, path, schema.USER, schema.USER_LATER)
        return User(
            name=self._required(fields, "name", path, node),
            passwd=self._text(fields, "passwd"),
            groups=self._groups(fields),
            primary_group=self._text(fields, "primary_group"),
            shell=self._text(fields, "shell"),
            homedir=self._text(fields, "homedir"),
            gecos=self._text(fields, "gecos"),
            system=self._bool(fields, "system") or False,
            no_create_home=self._bool(fields, "no_create_home") or False,
            no_user_group=self._bool(fields, "no_user_group") or False,
            no_log_init=self._bool(fields, "no_log_init") or False,
            ssh_authorized_keys=self._words(fields, "ssh_authorized_keys"),
            at=path,
        )

    # --- shapes

    def _struct(self, node: Node, path: str, known: Collection[str], later: Collection[str] = ()) -> Fields:
        """A mapping's known, set fields; all else becomes findings."""
        if isinstance(node, Scalar) and node.null:
            return {}
        if not isinstance(node, yamltree.Mapping):
            self._error(node, path, f"must be a mapping of keys to values, is {_kind(node)}")
            return {}
        fields: Fields = {}
        for key, value in node.pairs:
            name = key.text.replace("-", "_")
            inner = f"{path}.{name}" if path else name
            if name in known:
                if name in fields:
                    self._error(key, inner, "stands here twice, with a hyphen and with an underscore")
                    continue
                block = isinstance(value, Scalar) and value.block
                self.marks[inner] = Mark(value.line, value.column, block)
                if not (isinstance(value, Scalar) and value.null):
                    fields[name] = (inner, value)
            elif name in later:
                self._warn(key, inner, "not supported on this image yet, ignored")
            else:
                near = "" if len(self.findings) > HINTS_MAX else nearest(name, sorted(known))
                hint = near or f"known here: {', '.join(sorted(known))}"
                self._warn(key, inner[:200], "unknown key, ignored", hint)
        self.marks[path] = Mark(node.line, node.column, False)
        return fields

    def _section(self, fields: Fields, key: str, known: Collection[str], later: Collection[str] = ()) -> Fields:
        return self._struct(fields[key][1], fields[key][0], known, later) if key in fields else {}

    def _items(self, fields: Fields, key: str) -> list[tuple[str, Node]]:
        if key not in fields:
            return []
        path, node = fields[key]
        if not isinstance(node, yamltree.Sequence):
            self._error(node, path, f"must be a list, is {_kind(node)}", "put a '- ' before each entry")
            return []
        return [(f"{path}[{index}]", item) for index, item in enumerate(node.items)]

    def _scalar(self, fields: Fields, key: str) -> str | None:
        """The text of a leaf, None if it is not set (an empty quoted text is)."""
        if key not in fields:
            return None
        path, node = fields[key]
        if not isinstance(node, Scalar) or node.binary:
            self._error(node, path, f"must be text, is {_kind(node)}")
            return None
        return node.text

    def _text(self, fields: Fields, key: str) -> str:
        return self._scalar(fields, key) or ""

    def _required(self, fields: Fields, key: str, path: str, node: Node) -> str:
        value = self._text(fields, key)
        if not value and key not in fields and isinstance(node, yamltree.Mapping):
            self._error(node, path, f"has no {key}")
        elif not value and key in fields and isinstance(fields[key][1], Scalar):
            self._error(fields[key][1], fields[key][0], "is empty")
        elif isinstance(node, Scalar) and node.null:
            self._error(node, path, "is empty")
        return value

    def _words(self, fields: Fields, key: str) -> tuple[str, ...]:
        words: list[str] = []
        for path, node in self._items(fields, key):
            if isinstance(node, Scalar) and not node.binary and not node.null and node.text.strip():
                self.marks[path] = Mark(node.line, node.column, node.block)
                words.append(node.text.strip())
            else:
                self._error(node, path, f"must be text, is {_kind(node)}")
        return tuple(words)

    def _groups(self, fields: Fields) -> tuple[str, ...]:
        """A list, or cloud-init's text of names with commas."""
        if "groups" in fields and isinstance(fields["groups"][1], Scalar):
            return tuple(name for part in self._text(fields, "groups").split(",") if (name := part.strip()))
        return self._words(fields, "groups")

    def _bool(self, fields: Fields, key: str) -> bool | None:
        text = self._scalar(fields, key)
        if text is None:
            return None
        if text.lower() not in _BOOLS:
            self._error(fields[key][1], fields[key][0], "must be true or false")
            return None
        return _BOOLS[text.lower()]

    def _number(self, fields: Fields, key: str, kind: str) -> str | None:
        text = self._scalar(fields, key)
        if text is None:
            return None
        if not (_INT if kind == INT else _FLOAT).fullmatch(text):
            # 1:30 is a base-60 number to YAML 1.1, 0x10 a hexadecimal one; services read neither.
            self._error(fields[key][1], fields[key][0], f"must be a decimal {kind}")
            return None
        return str(int(text)) if kind == INT else text.removeprefix("+")

    def _choice(self, fields: Fields, key: str, choices: Collection[str]) -> str:
        text = self._text(fields, key)
        if key in fields and text not in choices and isinstance(fields[key][1], Scalar):
            hint = nearest(text, sorted(choices)) or f"one of: {', '.join(sorted(choices))}"
            self._error(fields[key][1], fields[key][0], "is none of the known words", hint)
            return ""
        return text

    def _mode(self, fields: Fields) -> int:
        text = self._scalar(fields, "permissions")
        if text is None:
            return 0o644
        if not _OCTAL.fullmatch(text):
            self._error(
                fields["permissions"][1],
                fields["permissions"][0],
                "must be three or four octal digits",
                "for example: permissions: '0644'",
            )
            return 0o600
        if text in ("420", "511"):
            path, node = fields["permissions"]
            self._warn(
                node,
                path,
                f"{text} is read as octal 0{text}",
                f"decimal {text} is 0{int(text):o}: write '0{int(text):o}'",
            )
        return int(text.replace("o", ""), 8)

    def _content(self, fields: Fields) -> bytes:
        encoding = self._text(fields, "encoding")
        steps = schema.ENCODINGS.get(encoding.lower())
        if steps is None:
            path, node = fields["encoding"]
            self._error(
                node, path, "unknown encoding", f"one of: {', '.join(name for name in schema.ENCODINGS if name)}"
            )
            return b""
        if "content" not in fields:
            return b""
        path, node = fields["content"]
        if not isinstance(node, Scalar):
            self._error(node, path, f"must be text, is {_kind(node)}")
            return b""
        data = node.text.encode()
        if node.binary:
            steps = ("b64", *steps)
        for step in steps:
            try:
                data = _base64(data) if step == "b64" else self._inflate(data)
            except (ValueError, UserDataError) as error:
                what = error.message if isinstance(error, UserDataError) else "not base64"
                self._error(node, path, what)
                return b""
        return data

    def _inflate(self, data: bytes) -> bytes:
        data = inflate(data)
        self._room.left -= len(data)
        if self._room.left < 0:
            raise UserDataError(f"the files unpack to more than {UNPACKED_MAX >> 20} MiB together")
        return data

    # --- findings

    def _error(self, node: Node, path: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding(ERROR, path, node.line, node.column, message, hint))

    def _warn(self, node: Node, path: str, message: str, hint: str = "") -> None:
        self.findings.append(Finding(WARNING, path, node.line, node.column, message, hint))


def _base64(data: bytes) -> bytes:
    """Undo base64, white space allowed. Raises ValueError."""
    import binascii

    return binascii.a2b_base64(b"".join(data.split()), strict_mode=True)


def _kind(node: Node) -> str:
    if isinstance(node, yamltree.Sequence):
        return "a list"
    if isinstance(node, yamltree.Mapping):
        return "a mapping"
    if node.binary:
        return "binary"
    return "empty" if node.null or not node.text.strip() else "text"

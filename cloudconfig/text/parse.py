"""Cloud-config text -> frozen values, findings, and the line of every key.

Nothing raises: a text that cannot be used returns findings of severity error. Spelling: hyphens in our keys are
underscores (``drop-ins`` is ``drop_ins``); both in one mapping are a repetition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cloudconfig.text import everyday, refused, schema, yamltree
from cloudconfig.text.finding import Finding
from cloudconfig.text.reader import Fields, Mark, Reader, kind
from cloudconfig.text.schema import (
    BOOL,
    FLOAT,
    INT,
    CloudConfig,
    Download,
    DropIn,
    Firewall,
    Need,
    Password,
    Unit,
    User,
    WriteFile,
)
from cloudconfig.text.userdata import UserDataError, inflate
from cloudconfig.text.yamltree import Node, Scalar

UNPACKED_MAX = 4 << 20
"""Bytes that all compressed files of one user-data may have, unpacked."""
_OCTAL = re.compile(r"0?o?[0-7]{3,4}")


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


def essentials_of(root: Node) -> CloudConfig:
    """Host name, SSH keys and accounts of a cloud-config, read independently of its other keys."""
    return _Reader(Room(0)).essentials(root)


class _Reader(Reader):
    """Walks the tree; ``findings`` and ``marks`` grow on the way, and what entries of lists become besides."""

    def __init__(self, room: Room) -> None:
        super().__init__()
        self._room = room
        self._downloads: list[Download] = []
        self._files: list[WriteFile] = []
        self._passwords: list[Password] = []
        self._needs: list[Need] = []

    def config(self, root: Node) -> CloudConfig:
        top = self.struct(root, "", (*schema.TOP, *refused.INSTEAD), schema.TOP_LATER)
        coreos = self.section(top, "coreos", schema.COREOS, schema.COREOS_LATER)
        update = self.section(coreos, "update", schema.UPDATE)
        if update:
            path, node = next(iter(update.values()))
            self.warn(node, path, "accepted, but updates do nothing on this image yet")
        others = everyday.read(self, top)
        mine = self._essentials(top, others.fqdn)
        return others._replace(
            hostname=mine.hostname,
            ssh_authorized_keys=mine.ssh_authorized_keys,
            users=mine.users,
            passwords=(*self._passwords, *others.passwords),
            write_files=(*self._write_files(top), *self._files, *others.write_files),
            downloads=tuple(self._downloads),
            manage_etc_hosts=self._etc_hosts(top),
            etcd=self._etcd(coreos),
            fleet=self._options(self.section(coreos, "fleet", tuple(schema.FLEET)), schema.FLEET),
            units=(*(self._unit(node, path) for path, node in self.items(coreos, "units")), *others.units),
            reboot_strategy=self.choice(update, "reboot_strategy", schema.REBOOT_STRATEGIES),
            firewall=self._firewall(top),
            needs=(*everyday.needs_of(self, root), *self._needs, *others.needs),
        )

    def essentials(self, root: Node) -> CloudConfig:
        top = self.struct(root, "", schema.TOP, schema.TOP_LATER)
        return self._essentials(top, self.text(top, "fqdn"))

    def _essentials(self, top: Fields, fqdn: str) -> CloudConfig:
        # cloud-init's name for core, which exists anyway, is no account of that name.
        users = [
            self._user(node, path)
            for path, node in self.items(top, "users")
            if not (isinstance(node, Scalar) and node.text == "default")
        ]
        hostname = self._hostname(top, fqdn)
        return CloudConfig(
            hostname=hostname, ssh_authorized_keys=self.words(top, "ssh_authorized_keys"), users=tuple(users)
        )

    def _hostname(self, top: Fields, fqdn: str) -> str:
        """The machine's name: ``hostname``, else the first label of ``fqdn``, or all of it if that is preferred."""
        if self.bool(top, "preserve_hostname"):
            self.warn(
                top["preserve_hostname"][1], "preserve_hostname", "a name of user-data or meta-data counts at each boot"
            )
        if fqdn and self.bool(top, "prefer_fqdn_over_hostname"):
            return fqdn
        return self.text(top, "hostname") or fqdn.partition(".")[0]

    def _firewall(self, top: Fields) -> tuple[Firewall, ...]:
        if "firewall" not in top:
            return ()
        from cloudconfig.text import doors

        return doors.read(self, top)

    def _etc_hosts(self, top: Fields) -> str:
        """CoreOS's value is localhost.

        cloud-init's true and template mean a file of the distribution's, which we do not have."""
        word = self.text(top, "manage_etc_hosts")
        if word.lower() in ("true", "yes", "on", "template"):
            return "localhost"
        if word.lower() in ("false", "no", "off"):
            return ""
        if word and word != "localhost":
            path, node = top["manage_etc_hosts"]
            self.error(node, path, "is none of the known words", "one of: true, localhost, false")
            return ""
        return word

    def _write_files(self, top: Fields) -> list[WriteFile]:
        """Files with content; those with a source go to the downloads."""
        return [file for path, node in self.items(top, "write_files") if (file := self._write_file(node, path))]

    def _etcd(self, coreos: Fields) -> tuple[tuple[str, str], ...]:
        if "etcd" in coreos and "etcd2" in coreos:
            path, node = coreos["etcd"]
            self.error(node, path, "etcd and etcd2 are one service here", "merge the two into coreos.etcd2")
        name = "etcd2" if "etcd2" in coreos else "etcd"
        fields = self.section(coreos, name, (*schema.ETCD, *schema.ETCD_0_4))
        for key, (path, node) in list(fields.items()):
            if key in schema.ETCD_0_4:
                new = schema.ETCD_0_4[key]
                self.warn(node, path, "an option of etcd 0.4, left out", f"use {new}" if new else "remove it")
                del fields[key]
            elif key in schema.ETCD_GONE:
                self.warn(node, path, "etcd 3.5 ignores it", f"use {schema.ETCD_GONE[key]}")
        return self._options(fields, schema.ETCD)

    def _options(self, fields: Fields, kinds: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Options of a service as environment text; a key without value is not set, false, 0 and "" are."""
        found: list[tuple[str, str]] = []
        for key in fields:
            value: object | None
            if kinds[key] == BOOL:
                flag = self.bool(fields, key)
                value = None if flag is None else ("true" if flag else "false")
            elif kinds[key] in (INT, FLOAT):
                value = self.number(fields, key, kinds[key])
            else:
                value = self.scalar(fields, key)
            if value is not None:
                found.append((key, str(value)))
        return tuple(found)

    def _unit(self, node: Node, path: str) -> Unit:
        fields = self.struct(node, path, schema.UNIT)
        drop_ins = []
        for inner_path, inner in self.items(fields, "drop_ins"):
            drop_in = self.struct(inner, inner_path, schema.DROP_IN)
            name, content = self.required(drop_in, "name", inner_path, inner), self.scalar(drop_in, "content")
            if content is None and isinstance(inner, yamltree.Mapping):
                self.error(inner, inner_path, "a drop-in needs content")
            drop_ins.append(DropIn(name, content or "", inner_path))
        return Unit(
            name=self.required(fields, "name", path, node),
            content=self.text(fields, "content") or None,
            enable=self.bool(fields, "enable") or False,
            runtime=self.bool(fields, "runtime") or False,
            mask=self.bool(fields, "mask") or False,
            command=self.choice(fields, "command", schema.COMMANDS),
            drop_ins=tuple(drop_ins),
            at=path,
        )

    def _write_file(self, node: Node, path: str) -> WriteFile | None:
        fields = self.struct(node, path, schema.WRITE_FILE)
        append = self.bool(fields, "append") or False
        # Accounts are made before files in any case.
        self.bool(fields, "defer")
        name = self.required(fields, "path", path, node)
        owner = self.text(fields, "owner")
        if "source" in fields:
            from cloudconfig.text import source  # only for those who have one

            download = source.read(self, fields, path)
            if append:
                self.error(
                    fields["append"][1], f"{path}.append", "what has a source is a whole file", "leave append away"
                )
            if download is not None:
                self._downloads.append(
                    download._replace(path=name, mode=self._mode(fields), owner=owner or "root:root")
                )
            return None
        return WriteFile(
            path=name,
            content=self._content(fields),
            mode=None if append and "permissions" not in fields else self._mode(fields),
            owner=owner or ("" if append else "root:root"),
            at=path,
            append=append,
        )

    def _user(self, node: Node, path: str) -> User:
        fields = self.struct(node, path, (*schema.USER, "ssh_import_id"), schema.USER_LATER)
        name = self.required(fields, "name", path, node)
        rest = everyday.user(self, fields, name, path)
        self._files += rest.files
        self._passwords += rest.passwords
        if "ssh_import_id" in fields:
            self._needs.append(Need("refused", "ssh_import_id", f"{path}.ssh_import_id"))
        return User(
            name=name,
            passwd=self.text(fields, "passwd") or self.text(fields, "hashed_passwd"),
            groups=self._groups(fields),
            primary_group=self.text(fields, "primary_group"),
            shell=self.text(fields, "shell"),
            homedir=self.text(fields, "homedir"),
            gecos=self.text(fields, "gecos"),
            system=self.bool(fields, "system") or False,
            no_create_home=self.bool(fields, "no_create_home") or False,
            no_user_group=self.bool(fields, "no_user_group") or False,
            no_log_init=self.bool(fields, "no_log_init") or False,
            ssh_authorized_keys=self.words(fields, "ssh_authorized_keys"),
            at=path,
            uid=self.number(fields, "uid", INT) or "",
            expiredate=self.text(fields, "expiredate"),
            inactive=self.number(fields, "inactive", INT) or "",
            lock_passwd=self.bool(fields, "lock_passwd") or False,
        )

    def _groups(self, fields: Fields) -> tuple[str, ...]:
        """A list, or cloud-init's text of names with commas."""
        if "groups" in fields and isinstance(fields["groups"][1], Scalar):
            return tuple(name for part in self.text(fields, "groups").split(",") if (name := part.strip()))
        return self.words(fields, "groups")

    def _mode(self, fields: Fields) -> int:
        text = self.scalar(fields, "permissions")
        if text is None:
            return 0o644
        if not _OCTAL.fullmatch(text):
            self.error(
                fields["permissions"][1],
                fields["permissions"][0],
                "must be three or four octal digits",
                "for example: permissions: '0644'",
            )
            return 0o600
        if text in ("420", "511"):
            path, node = fields["permissions"]
            self.warn(
                node,
                path,
                f"{text} is read as octal 0{text}",
                f"decimal {text} is 0{int(text):o}: write '0{int(text):o}'",
            )
        return int(text.replace("o", ""), 8)

    def _content(self, fields: Fields) -> bytes:
        encoding = self.text(fields, "encoding")
        steps = schema.ENCODINGS.get(encoding.lower())
        if steps is None:
            path, node = fields["encoding"]
            self.error(
                node, path, "unknown encoding", f"one of: {', '.join(name for name in schema.ENCODINGS if name)}"
            )
            return b""
        if "content" not in fields:
            return b""
        path, node = fields["content"]
        if not isinstance(node, Scalar):
            self.error(node, path, f"must be text, is {kind(node)}")
            return b""
        data = node.text.encode()
        if node.binary:
            steps = ("b64", *steps)
        for step in steps:
            try:
                data = _base64(data) if step == "b64" else self._inflate(data)
            except (ValueError, UserDataError) as error:
                what = error.message if isinstance(error, UserDataError) else "not base64"
                self.error(node, path, what)
                return b""
        return data

    def _inflate(self, data: bytes) -> bytes:
        data = inflate(data)
        self._room.left -= len(data)
        if self._room.left < 0:
            raise UserDataError(f"the files unpack to more than {UNPACKED_MAX >> 20} MiB together")
        return data


def _base64(data: bytes) -> bytes:
    """Undo base64, white space allowed. Raises ValueError."""
    import binascii

    return binascii.a2b_base64(b"".join(data.split()), strict_mode=True)

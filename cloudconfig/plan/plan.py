"""A cloud-config as a plan: every file, link, account and command that a node gets. Pure; canonical JSON; hashed.

A plan leaves nothing open except what only the node knows: the numeric ids of names.

Where things go: units and their drop-ins to /etc/systemd/system (``runtime: true``: /run/systemd/system), network files
to /etc/systemd/network, the sections etcd2 and fleet to ``/run/systemd/system/<unit>.service.d/20-cloudinit.conf``,
where coreos-cloudinit put them; their secrets to ``/run/cloudconfig/<unit>.env``, to which that refers: any local user
can read a unit's contents from systemd.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from cloudconfig.plan import etcdctl
from cloudconfig.text.addresses import ENVIRONMENT
from cloudconfig.text.schema import CORE, CloudConfig, Group, Password, Unit, User, WriteFile
from terminal import Failure
from unitfile.install import Install
from unitfile.name import UnitName, UnitNameError, canonical, is_network
from unitfile.text import UnitFile, UnitFileError

VERSION = 1
FIREWALL = "/etc/flotilla/firewall.nft"
ENROL = "/run/flotilla/enrol.json"
"""Where the node's own program looks (enrolment/node.py)."""
ENROL_UNITS = ("flotilla-enrol.service", "flotilla-trust.service")
DROP_IN = "20-cloudinit.conf"
IMAGE_UNITS = "/usr/lib/systemd/system"
# What systemd.unit(5) lists as specifiers; "%%" is one percent sign.
SPECIFIERS = "aAbBCdDEfgGhHiIjJlLmMnNopPqsStTuUvVwWyY"
_PERCENT = re.compile(f"%([{SPECIFIERS}%])?")
_ENROLMENT = "flotilla.trust"
# A discovery URL ends in a token that lets its owner join the cluster; etcd's cluster token is often the same URL.
_SECRETS = frozenset(("discovery", "discovery_proxy", "etcd_password", "initial_cluster_token"))
_USERINFO = re.compile(r"://[^/?#,]*@")


class PlanError(Failure):
    """Values that are each well-formed but do not go together; ``path`` is the key path of the later one."""

    def __init__(self, path: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, where=path, hint=hint)
        self.path = path


class Facts(NamedTuple):
    """What a plan depends on besides the cloud-config: the host name that holds if the config names none; the texts of
    the image's own units, for ``enable: true`` without content. ``installed`` None: not known (on the host), such units
    are passed over; otherwise a unit that it returns None for is an error."""

    hostname: str = ""
    installed: Callable[[str], str | None] | None = None


class File(NamedTuple):
    """A regular file; ``owner`` is ``user`` or ``user:group`` by name or number; ``key`` is the key path it comes from.

    With ``append``, ``content`` follows what stood there before us; mode None and owner "" are then that file's, or the
    default. ``merge``: see :mod:`cloudconfig.node.merging`.
    """

    path: str
    mode: int | None
    owner: str
    content: bytes
    key: str
    append: bool = False
    merge: str = ""


class Link(NamedTuple):
    """A symbolic link."""

    path: str
    target: str
    key: str


class Plan(NamedTuple):
    """Everything that an apply does. Files and links are sorted by path; accounts, keys and commands keep their order;
    ``final`` is a script for once everything runs."""

    hostname: str
    files: tuple[File, ...]
    links: tuple[Link, ...]
    accounts: tuple[User, ...]
    keys: tuple[tuple[str, tuple[str, ...]], ...]
    commands: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...] = ()
    passwords: tuple[Password, ...] = ()
    final: str = ""

    def as_json(self) -> str:
        """Canonical JSON (sorted keys, no blanks), one text for one plan. Holds secrets if the config does."""
        import json

        value = {
            "v": VERSION,
            "hostname": self.hostname,
            "files": [
                {
                    "path": f.path,
                    "mode": "" if f.mode is None else f"{f.mode:04o}",
                    "owner": f.owner,
                    **({"append": True} if f.append else {}),
                    **({"merge": f.merge} if f.merge else {}),
                    **_content(f.content),
                }
                for f in self.files
            ],
            "links": [{"path": link.path, "target": link.target} for link in self.links],
            "accounts": [{k: v for k, v in a._asdict().items() if k != "at"} for a in self.accounts],
            "keys": [{"user": user, "keys": keys} for user, keys in self.keys],
            "commands": [{"verb": verb, "unit": unit} for verb, unit in self.commands],
            "groups": [{"name": group.name, "members": group.members} for group in self.groups],
            # Not the passwords themselves: the plan's hash is public, and a weak password could be guessed from it.
            "passwords": [{"user": each.user, "hash": each.hash, "expire": each.expire} for each in self.passwords],
            "final": self.final,
        }
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def sha256(self) -> str:
        """The plan's name: the hash of :meth:`as_json`."""
        return hashlib.sha256(self.as_json().encode()).hexdigest()


def combine(configs: Sequence[CloudConfig]) -> CloudConfig:
    """Several cloud-configs (MIME parts) as one: lists are joined, two different values of a key are a PlanError."""
    if not configs:
        return CloudConfig()
    merged = configs[0]
    for config in configs[1:]:
        fields: dict[str, object] = {}
        for name in CloudConfig._fields:
            first, second = getattr(merged, name), getattr(config, name)
            if isinstance(first, str):
                if first and second and first != second:
                    raise PlanError(name, "two parts say different things")
                fields[name] = first or second
            else:
                fields[name] = first + second
        merged = CloudConfig(**fields)  # type: ignore[arg-type]  # one value per field, of the field's type
    for section, options in (("coreos.etcd2", merged.etcd), ("coreos.fleet", merged.fleet)):
        seen: dict[str, str] = {}
        for key, value in options:
            if seen.setdefault(key, value) != value:
                raise PlanError(f"{section}.{key}", "two parts say different things")
    return merged._replace(etcd=tuple(dict(merged.etcd).items()), fleet=tuple(dict(merged.fleet).items()))


def make(config: CloudConfig, facts: Facts | None = None) -> Plan:
    """Write ``config`` out. It must have passed validation; raises PlanError for what only shows here."""
    facts = facts or Facts()
    names: set[str] = set()
    for account in config.users:
        if account.name in names:
            raise PlanError(f"{account.at}.name", "the account stands in two parts", hint="merge the two")
        names.add(account.name)
    builder = _Builder(facts)
    hostname = config.hostname or facts.hostname
    for file in config.write_files:
        builder.write_file(file)
    if config.manage_etc_hosts:
        builder.file("/etc/hosts", hosts(hostname, config.fqdn), "manage_etc_hosts")
    for link in config.links:
        builder.link(link.path, link.target, link.at)
    _steps(config, builder)
    for unit in config.units:
        builder.unit(unit)
    builder.settings("etcd", config.etcd, "coreos.etcd2")
    builder.settings("fleet", config.fleet, "coreos.fleet")
    _firewall(config, builder)
    _enrolment(config, builder)
    _etcdctl(config, builder)
    builder.refuse_files_as_folders()
    keys = [(CORE, config.ssh_authorized_keys)] if config.ssh_authorized_keys else []
    keys += [(user.name, user.ssh_authorized_keys) for user in config.users if user.ssh_authorized_keys]
    joined: dict[str, tuple[str, ...]] = {}
    for user, lines in keys:
        joined[user] = tuple(dict.fromkeys((*joined.get(user, ()), *lines)))
    return Plan(
        hostname=hostname,
        files=tuple(sorted(builder.files.values())),
        links=tuple(sorted(builder.links.values())),
        accounts=config.users,
        keys=tuple(joined.items()),
        commands=tuple(builder.commands),
        groups=config.groups,
        passwords=config.passwords,
        final=_final(config),
    )


def _final(config: CloudConfig) -> str:
    if not (config.runcmd or config.phone_home or config.final_message or config.power_state):
        return ""
    from cloudconfig.text import stages

    return stages.final_script(config)


def _firewall(config: CloudConfig, builder: _Builder) -> None:
    """The node's table of nftables, unless it is the image's, or the text has a whole one of its own."""
    if len(set(config.firewall)) > 1:
        raise PlanError("firewall", "two parts say different things")
    if config.firewall or FIREWALL not in builder.files:
        from cloudconfig.text import doors

        text = doors.file(config)
        if text:
            builder.file(FIREWALL, text.encode(), "firewall" if config.firewall else "coreos.etcd2")


def _enrolment(config: CloudConfig, builder: _Builder) -> None:
    """The node gets its certificates from an issuer, and what talks to etcd does not start before it has them."""
    if not config.enrolment:
        return
    if len(set(config.enrolment)) > 1:
        raise PlanError(_ENROLMENT, "two parts say different things")
    for path, file in builder.files.items():
        if path.startswith(f"{etcdctl.FOLDER}/"):
            raise PlanError(
                file.key, "the node gets its certificates from an issuer", hint=f"leave {_ENROLMENT} away, or this"
            )
    import json

    orders = json.dumps(config.enrolment[0]._asdict()) + "\n"
    builder.file(ENROL, orders.encode(), _ENROLMENT, mode=0o600)
    needs = f"[Unit]\nRequires={ENROL_UNITS[0]}\nAfter={ENROL_UNITS[0]}\n"
    for unit in ("etcd", "etcd-upkeep", "fleet"):
        builder.file(f"/run/systemd/system/{unit}.service.d/30-enrol.conf", needs.encode(), _ENROLMENT)
    builder.commands[:0] = [("start", unit) for unit in ENROL_UNITS]


def _etcdctl(config: CloudConfig, builder: _Builder) -> None:
    """On a node with certificates, every environment says which of them etcdctl is to use; what the text says of that
    itself goes before."""
    if etcdctl.CERTIFICATE in builder.files:
        key = builder.files[etcdctl.CERTIFICATE].key
    elif config.enrolment:
        key = _ENROLMENT
    else:
        return
    lines = etcdctl.ENVIRONMENT.encode()
    known = builder.files.get(ENVIRONMENT)
    if known is None:
        builder.files[ENVIRONMENT] = File(ENVIRONMENT, None, "", lines, key, merge="environment")
    else:
        builder.files[ENVIRONMENT] = known._replace(content=lines + known.content)
    if etcdctl.MANAGER not in builder.files:
        builder.file(etcdctl.MANAGER, etcdctl.manager().encode(), key)


def _steps(config: CloudConfig, builder: _Builder) -> None:
    """Our own units, which do at each boot what needs commands, disks or a network."""
    if not (config.bootcmd or config.disks or config.downloads or config.runcmd or config.phone_home):
        return
    # Most texts have none of this, and every module costs boot time where processors are emulated.
    from cloudconfig.text import source, stages, storage

    folder = "/run/systemd/system"

    def started(unit: str, text: str, key: str) -> None:
        builder.file(f"{folder}/{unit}", text.encode(), key)
        builder.commands.append(("start", unit))

    if config.bootcmd:
        builder.file(stages.BOOT_SCRIPT, stages.script(config.bootcmd).encode(), "bootcmd", mode=0o700)
        started(stages.BOOT_UNIT, stages.boot_unit(), "bootcmd")
    if config.disks:
        key = config.disks[0].at
        for disk in config.disks:
            for path, text in disk.files:
                builder.file(path, text.encode(), disk.at)
        builder.file(storage.DISKS_SCRIPT, storage.disks_script(config.disks).encode(), key, mode=0o700)
        started(storage.DISKS_UNIT, storage.disks_unit(config.disks), key)
    if config.downloads:
        key = config.downloads[0].at
        for download in config.downloads:
            builder.promise(download.path, f"{download.at}.path")
        builder.file(source.LIST, source.as_json(config.downloads).encode(), key, mode=0o600)
        started(source.UNIT, source.unit(), key)
    if config.runcmd:
        builder.file(stages.RUN_SCRIPT, stages.script(config.runcmd).encode(), "runcmd", mode=0o700)
    if config.phone_home:
        builder.file(stages.PHONE_FILE, config.phone_home.encode(), "phone_home", mode=0o600)


def is_secret(option: str, value: str) -> bool:
    """Whether a setting of etcd or fleet is for root's eyes: by its name, or as a URL with a name or password in it."""
    return option in _SECRETS or _USERINFO.search(value) is not None


def environment(variables: Iterable[tuple[str, str]]) -> str:
    """Lines of a unit's [Service] that set environment variables, quoted as systemd.syntax(7) unquotes.

    Backslash and quote are escaped, ``$`` means nothing there. Specifiers (``%H``) pass, as coreos-cloudinit let them;
    a ``%`` that begins none is doubled, or systemd would leave out the line. Raises PlanError for control characters: a
    line break would be another directive.
    """

    def line(name: str, value: str) -> str:
        escaped = _on_one_line(name, value).replace("\\", "\\\\").replace('"', '\\"')
        escaped = _PERCENT.sub(lambda found: found[0] if found[1] else "%%", escaped)
        return f'Environment="{name}={escaped}"\n'

    return "".join(line(name, value) for name, value in variables)


def environment_file(variables: Iterable[tuple[str, str]]) -> str:
    """The same as a file for EnvironmentFile=, quoted for systemd.exec(5). Values have no specifiers there."""
    escape = re.compile(r'["\\`$]')
    return "".join(
        f'{name}="{escape.sub(lambda found: chr(92) + found[0], _on_one_line(name, value))}"\n'
        for name, value in variables
    )


def _on_one_line(name: str, value: str) -> str:
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        raise PlanError(name, "has a control character in it")
    return value


def hosts(hostname: str, fqdn: str = "") -> bytes:
    """/etc/hosts for ``manage_etc_hosts: localhost``: the machine's names, and the loopback names of resolvers."""
    names = [fqdn, hostname, hostname.partition(".")[0]] if hostname else []
    own = ["127.0.1.1", *dict.fromkeys(name for name in names if name)]
    lines = ["127.0.0.1 localhost", *([" ".join(own)] if names else []), "::1 localhost ip6-localhost ip6-loopback"]
    return ("\n".join(lines) + "\n").encode()


class _Builder:
    """Collects, and refuses a path that two keys claim."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.files: dict[str, File] = {}
        self.links: dict[str, Link] = {}
        self._promised: dict[str, str] = {}
        self.commands: list[tuple[str, str]] = []

    def file(self, path: str, content: bytes, key: str, *, mode: int = 0o644, owner: str = "root:root") -> None:
        self._claim(path, key)
        self.files[path] = File(path, mode, owner, content, key)

    def write_file(self, file: WriteFile) -> None:
        known = self.files.get(file.path)
        if file.append and known is not None and known.key.startswith("write_files["):
            mode = known.mode if file.mode is None else file.mode
            self.files[file.path] = known._replace(
                content=known.content + file.content, mode=mode, owner=file.owner or known.owner
            )
            return
        # Other settings that become files have no path of their own in the text.
        key = f"{file.at}.path" if file.at.startswith("write_files[") else file.at
        self._claim(file.path, key)
        self.files[file.path] = File(file.path, file.mode, file.owner, file.content, key, file.append, file.merge)

    def promise(self, path: str, key: str) -> None:
        """A path that is written later, and is taken."""
        self._claim(path, key)
        self._promised[path] = key

    def link(self, path: str, target: str, key: str) -> None:
        known = self.links.get(path)
        if known is None or known.target != target:
            self._claim(path, key)
            self.links[path] = Link(path, target, key)

    def settings(self, service: str, options: Sequence[tuple[str, str]], key: str) -> None:
        """Options of etcd or fleet, as environment of its service.

        Only root can read them, and systemd does not show the secret ones."""
        if not options:
            return
        kept: tuple[list[tuple[str, str]], list[tuple[str, str]]] = [], []
        for option, value in options:
            kept[is_secret(option, value)].append((f"{service}_{option}".upper(), value))
        text = "[Service]\n" + environment(kept[False])
        if kept[True]:
            path = f"/run/cloudconfig/{service}.env"
            text += f"EnvironmentFile={path}\n"
            self.file(path, environment_file(kept[True]).encode(), key, mode=0o600)
        self.file(f"/run/systemd/system/{service}.service.d/{DROP_IN}", text.encode(), key, mode=0o600)

    def unit(self, unit: Unit) -> None:
        name = canonical(unit.name)
        if is_network(name):
            folder = "/run/systemd/network" if unit.runtime else "/etc/systemd/network"
        else:
            folder = "/run/systemd/system" if unit.runtime else "/etc/systemd/system"
        if unit.content is not None:
            content = unit.content if unit.content.endswith("\n") else unit.content + "\n"
            self.file(f"{folder}/{name}", content.encode(), f"{unit.at}.name")
        for drop_in in unit.drop_ins:
            content = drop_in.content if drop_in.content.endswith("\n") else drop_in.content + "\n"
            self.file(f"{folder}/{name}.d/{drop_in.name}", content.encode(), f"{drop_in.at}.name")
        if is_network(name):
            return
        if unit.mask:
            self.link(f"{folder}/{name}", "/dev/null", f"{unit.at}.mask")
        if unit.enable:
            self._enable(unit, name, folder)
        if unit.command:
            self.commands.append((unit.command, name))

    def _enable(self, unit: Unit, name: str, folder: str) -> None:
        key = f"{unit.at}.enable"
        source, text = self._source(name, key)
        if text is None:
            return
        try:
            made = Install.of(UnitFile.parse(text)).links(UnitName.parse(name), folder, source)
        except (UnitFileError, UnitNameError) as error:
            raise PlanError(key, "its [Install] cannot be read", hint=error.message) from error
        for path, target in made:
            self.link(path, target, key)

    def _source(self, name: str, key: str) -> tuple[str, str | None]:
        """Path and text of the unit ``name`` or its template: one of ours, else the image's.

        Text None if it is not known."""
        template = UnitName.parse(name).template
        names = (name, template) if template else (name,)
        for one in names:
            for folder in ("/etc/systemd/system", "/run/systemd/system"):
                own = self.files.get(f"{folder}/{one}")
                if own is not None:
                    return own.path, own.content.decode()
        if self._facts.installed is None:
            return "", None
        for one in names:
            text = self._facts.installed(one)
            if text is not None:
                return f"{IMAGE_UNITS}/{one}", text
        raise PlanError(key, f"the image has no unit {name}", hint="give its content, or check the name")

    def refuse_files_as_folders(self) -> None:
        """A path that another path goes through cannot be a file."""
        made: dict[str, File | Link] = {**self.files, **self.links}
        taken = {path: entry.key for path, entry in made.items()} | self._promised
        for path, key in sorted(taken.items()):
            parent = path.rpartition("/")[0]
            while parent:
                if parent in taken:
                    raise PlanError(key, f"goes through {parent}, which {taken[parent]} makes a file")
                parent = parent.rpartition("/")[0]

    def _claim(self, path: str, key: str) -> None:
        other = self.files.get(path) or self.links.get(path)
        owner = other.key if other is not None else self._promised.get(path)
        if owner is not None:
            raise PlanError(key, f"{path} is already claimed by {owner}", hint="merge the two")


def _content(data: bytes) -> dict[str, str]:
    """Text if it is, base64 otherwise."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        import binascii

        return {"base64": binascii.b2a_base64(data, newline=False).decode()}

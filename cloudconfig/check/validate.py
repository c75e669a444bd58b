"""Everything about a cloud-config that can be checked without the node that it is for.

The parser checks shapes, this module values. Messages name key paths and never repeat a value that could be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from cloudconfig.check import lockout
from cloudconfig.text import addresses, userdata
from cloudconfig.text.finding import ERROR, WARNING, Capped, Finding, errors, ordered
from cloudconfig.text.parse import Document, parse_all
from cloudconfig.text.path import path_problem
from cloudconfig.text.reader import Mark
from cloudconfig.text.schema import WRITABLE, Password, Unit, User, WriteFile
from unitfile.name import UnitNameError, canonical, check_file_name, is_network
from unitfile.text import UnitFile, UnitFileError

if TYPE_CHECKING:
    from cloudconfig.check.image import Image

# What other keys are for, or what we keep for ourselves.
RESERVED = {
    "/etc/group": "users",
    "/etc/gshadow": "users",
    "/etc/hostname": "hostname",
    "/etc/passwd": "users",
    "/etc/shadow": "users",
    "/run/cloudconfig": "",
    "/var/lib/cloudconfig": "",
}
HOSTNAME_MAX = 64  # Linux: __NEW_UTS_LEN
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_OWNER = re.compile(r"([a-z_][a-z0-9_-]{0,30}|[0-9]{1,9})(:([a-z_][a-z0-9_-]{0,30}|[0-9]{1,9}))?")
_HASH = re.compile(r"!{0,2}\$(1|5|6|7|y|gy|2[abxy])\$[./A-Za-z0-9$=,]+|\*|!{1,2}\*?")
_SPECIFIER = re.compile("%[A-Za-z]")
_UID_END = 60_000  # where Debian's reserved numbers begin
_CONTROL = re.compile("[\x00-\x1f\x7f]")
# A host, or systems that forgot one get http://:2380; a port, if any.
_HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[^/\s?#,:\[\]]+)(?::[0-9]{1,5})?"
_URL = re.compile(rf"https?://{_HOST}(/[^\s]*)?")
_PEER_URL = re.compile(rf"(https?|unixs?)://{_HOST}/?")
_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+")
_METADATA = re.compile(r"[^=,\s]+=[^=,\s]*(,[^=,\s]+=[^=,\s]*)*")
_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


def validate(data: bytes, image: Image | None = None) -> tuple[Finding, ...]:
    """All findings about user-data of any kind for ``image`` (None: the node's that this runs on, else ours), in the
    order of the text; an empty tuple means clean."""
    from cloudconfig.check import fit, unitchecks  # a node, which only checks, does not pay for them
    from cloudconfig.check import image as images

    image = image or images.usual()

    contents = userdata.read(data)
    findings = list(contents.findings)
    units = Capped()
    parts = [part for part in contents.parts if part.kind == userdata.CLOUD_CONFIG]
    documents = parse_all(part.text for part in parts)
    for part, document in zip(parts, documents, strict=True):
        findings.extend(finding._replace(part=part.name) for finding in (*document.findings, *check(document)))
        for each in unitchecks.check(document, part.text, image.programs):
            units.append(each._replace(part=part.name))
    named = [(part.name, document) for part, document in zip(parts, documents, strict=True)]
    findings.extend(fit.check(named, image))
    if not errors(findings):
        findings.extend(_plan_conflicts(parts, documents))
    return ordered([*findings, *units])


def check(document: Document) -> tuple[Finding, ...]:
    """Check the values of one parsed cloud-config."""
    checker = _Checker(document)
    checker.all()
    return tuple(checker.findings)


def _plan_conflicts(parts: Sequence[userdata.Part], documents: Sequence[Document]) -> list[Finding]:
    """Errors that only show in the whole plan: two keys that claim one path."""
    from cloudconfig.plan import merge, plan

    try:
        plan.make(merge.combine(parts, documents), plan.Facts(hostname="node"))
    except plan.PlanError as error:
        marks = [document.marks[error.path] for document in documents if error.path in document.marks]
        line, column = (marks[-1].line, marks[-1].column) if marks else (0, 0)
        return [Finding(ERROR, error.path, line, column, error.message, error.hint or "")]
    return []


class _Checker:
    def __init__(self, document: Document) -> None:
        self._config = document.config
        self._marks = document.marks
        self.findings: list[Finding] = Capped()

    def all(self) -> None:
        config = self._config
        if config.fqdn and (problem := hostname_problem(addresses.sample(config.fqdn))):
            self._error("fqdn", problem, "letters, digits and inner hyphens, 63 at most between dots")
        problem = hostname_problem(addresses.sample(config.hostname)) if config.hostname else ""
        if problem:
            self._error("hostname", problem, "letters, digits and inner hyphens, 63 at most between dots")
        self._keys("ssh_authorized_keys", config.ssh_authorized_keys)
        self._unique([(user.name, user.at + ".name") for user in config.users], "user")
        for user in config.users:
            self._user(user)
        for file in config.write_files:
            self._write_file(file)
        self._service(
            "coreos.etcd2" if "coreos.etcd2" in self._marks else "coreos.etcd", config.etcd, _ETCD_CHECKS, "etcd"
        )
        self._service("coreos.fleet", config.fleet, _FLEET_CHECKS, "fleet")
        for unit in config.units:
            self._unit(unit)
        for group in config.groups:
            if not _ACCOUNT.fullmatch(group.name):
                self._error(group.at, "not a group name")
        for password in config.passwords:
            self._password(password)
        for download in config.downloads:
            self._place(f"{download.at}.path", download.path)
            if not _OWNER.fullmatch(download.owner):
                self._error(f"{download.at}.owner", "not an owner", "user or user:group")
        if _CONTROL.search(config.final_message.replace("\n", "")):
            self._error("final_message", "has a control character in it")
        for file, _user, lines in lockout.key_lines(config):
            problem = next(filter(None, map(ssh_key_problem, lines)), "")
            if problem:
                self._error(f"{file.at}.content", problem, "paste the line of the .pub file")
        for danger in lockout.dangers(config):
            self._warn(*danger)

    def _keys(self, path: str, keys: Sequence[str]) -> None:
        for index, key in enumerate(keys):
            problem = ssh_key_problem(key)
            if problem:
                self._error(f"{path}[{index}]", problem, "paste the line of the .pub file")

    def _user(self, user: User) -> None:
        if user.name and account_problem(user.name):
            self._error(
                f"{user.at}.name", account_problem(user.name), "lower case letters, digits, - and _, 31 at most"
            )
        if user.passwd and not _HASH.fullmatch(user.passwd):
            self._error(f"{user.at}.passwd", "not a password hash", "make one: mkpasswd --method=yescrypt")
        elif user.passwd.lstrip("!").startswith("$1$"):
            self._warn(f"{user.at}.passwd", "an MD5 hash is quickly broken", "make one: mkpasswd --method=yescrypt")
        for index, group in enumerate((*user.groups, *((user.primary_group,) if user.primary_group else ()))):
            if not _ACCOUNT.fullmatch(group):
                where = f"{user.at}.groups[{index}]" if index < len(user.groups) else f"{user.at}.primary_group"
                self._error(where, "not a group name")
        for key, value in (("shell", user.shell), ("homedir", user.homedir)):
            if value and (path_problem(value) or ":" in value):
                self._error(f"{user.at}.{key}", path_problem(value) or "has a colon in it")
        if ":" in user.gecos or _CONTROL.search(user.gecos):
            self._error(f"{user.at}.gecos", "has a colon or a control character in it")
        if user.homedir and not path_problem(user.homedir):
            self._writable(f"{user.at}.homedir", user.homedir)
        if user.expiredate and not _is_date(user.expiredate):
            self._error(f"{user.at}.expiredate", "not a day", "for example: '2030-12-31'")
        if user.uid and not 0 < int(user.uid) < _UID_END:
            self._error(f"{user.at}.uid", "not a number for an account")
        self._keys(f"{user.at}.ssh_authorized_keys", user.ssh_authorized_keys)

    def _password(self, password: Password) -> None:
        if _CONTROL.search(password.plain):
            self._error(password.at, "has a control character in it")
        elif password.hash and not _HASH.fullmatch(password.hash):
            self._error(password.at, "not a password hash", "make one: mkpasswd --method=yescrypt; or type: text")
        elif password.plain:
            self._warn(
                password.at, "a password that whoever reads this text knows", "a hash: mkpasswd --method=yescrypt"
            )

    def _place(self, where: str, path: str) -> None:
        """A path for a file."""
        problem = path_problem(path) if path else None
        if problem:
            self._error(where, problem, "an absolute path without . and ..")
        elif path:
            self._writable(where, path)
            for reserved, key in RESERVED.items():
                if path == reserved or path.startswith(reserved + "/"):
                    self._error(where, f"{reserved} is not for write_files", f"use the key {key}" if key else "")

    def _write_file(self, file: WriteFile) -> None:
        if file.at.startswith("write_files["):
            self._place(f"{file.at}.path", file.path)
        if file.append and file.path.startswith("/run/"):
            self._error(f"{file.at}.append", "/run is empty at boot", "write the whole file")
        if file.owner and not _OWNER.fullmatch(file.owner):
            self._error(f"{file.at}.owner", "not an owner", "user or user:group")

    def _writable(self, where: str, path: str) -> None:
        if not any(path.startswith(place + "/") for place in WRITABLE):
            self._error(where, "the node's root is read-only there", f"writable are {' '.join(WRITABLE)}")

    def _service(
        self, path: str, options: Iterable[tuple[str, str]], checks: dict[str, Callable[[str], str]], name: str
    ) -> None:
        for key, value in options:
            if _CONTROL.search(value):
                self._error(f"{path}.{key}", "has a control character in it")
            elif key.endswith("password") and _SPECIFIER.search(value.replace("%%", "")):
                self._warn(
                    f"{path}.{key}",
                    "systemd reads a % and a letter in it as a specifier",
                    "write %% for a percent sign",
                )
            elif key in checks and value:
                problem = checks[key](addresses.sample(value))
                if problem:
                    self._error(f"{path}.{key}", problem)
        given = dict(options)
        if name == "etcd" and given.get("discovery") and given.get("initial_cluster"):
            self._error(f"{path}.discovery", "discovery and initial_cluster exclude each other", "keep one")
        if {"heartbeat_interval", "election_timeout"} <= given.keys() and int(given["election_timeout"]) < 5 * int(
            given["heartbeat_interval"]
        ):
            self._error(f"{path}.election_timeout", "must be at least five times heartbeat_interval, says etcd")

    def _unit(self, unit: Unit) -> None:
        if not unit.name:
            return
        try:
            check_file_name(unit.name)
        except UnitNameError as error:
            self._error(f"{unit.at}.name", error.message, error.hint or "")
            return
        parsed = self._unit_text(f"{unit.at}.content", unit.content)
        network = is_network(unit.name)
        if network:
            for key, given in (("enable", unit.enable), ("command", bool(unit.command)), ("mask", unit.mask)):
                if given:
                    self._warn(f"{unit.at}.{key}", "means nothing for a network file, ignored")
        elif unit.mask and (unit.content or unit.enable or unit.command in ("start", "restart")):
            self._error(f"{unit.at}.mask", "a masked unit cannot have content, be enabled or be started")
        elif unit.enable and parsed is not None and not parsed.section("Install"):
            self._warn(f"{unit.at}.enable", "the unit has no [Install], enabling it does nothing", "add WantedBy=")
        if unit.command and canonical(unit.name).partition("@")[2].startswith("."):
            self._error(f"{unit.at}.command", "a template cannot be started", "name an instance of it")
        if unit.content is None and not (unit.enable or unit.mask or unit.command or unit.drop_ins):
            self._warn(unit.at, "the entry says nothing to do", "give content, drop_ins, enable, mask or command")
        for drop_in in unit.drop_ins:
            if not drop_in.name:
                continue
            if not drop_in.name.endswith(".conf"):
                self._error(f"{drop_in.at}.name", "a drop-in's name ends in .conf, or systemd ignores it")
            elif not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9:_.@-]{0,200}", drop_in.name):
                self._error(f"{drop_in.at}.name", "not a file name for a drop-in", "for example: 10-limits.conf")
            self._unit_text(f"{drop_in.at}.content", drop_in.content)

    def _unit_text(self, path: str, content: str | None) -> UnitFile | None:
        if content is None:
            return None
        try:
            return UnitFile.parse(content)
        except UnitFileError as error:
            mark = self._marks.get(path, Mark(0, 0, False))
            # In a | block the first line of the text is the one below the bar.
            line, column = (mark.line + error.line, 1) if mark.block and error.line else (mark.line, mark.column)
            place = f" in line {error.line} of it" if error.line else ""
            # The cause may quote the line, so it is a hint for the terminal; status and journal show messages only.
            self.findings.append(Finding(ERROR, path, line, column, f"not the text of a unit{place}", error.message))
            return None

    def _unique(self, names: Sequence[tuple[str, str]], what: str) -> None:
        seen: set[str] = set()
        for name, where in names:
            if name and name in seen:
                self._error(where, f"the {what} stands here twice", "merge the two")
            seen.add(name)

    def _error(self, path: str, message: str, hint: str = "") -> None:
        self._add(ERROR, path, message, hint)

    def _warn(self, path: str, message: str, hint: str = "") -> None:
        self._add(WARNING, path, message, hint)

    def _add(self, severity: str, path: str, message: str, hint: str) -> None:
        mark = self._marks.get(path, Mark(0, 0, False))
        self.findings.append(Finding(severity, path, mark.line, mark.column, message, hint))


def account_problem(name: str) -> str:
    """Why ``name`` is no account name, empty if it is one."""
    return "" if _ACCOUNT.fullmatch(name) else "not an account name"


def hostname_problem(name: str) -> str:
    """What is wrong with a host name (RFC 1123, and Linux's length); empty if nothing."""
    if len(name) > HOSTNAME_MAX:
        return f"longer than {HOSTNAME_MAX} characters"
    if not all(_LABEL.fullmatch(label) for label in name.split(".")):
        return "not a host name"
    return "localhost is every machine's name for itself" if name == "localhost" else ""


def ssh_key_problem(key: str) -> str:
    """What is wrong with a line of authorized_keys (sshd(8)): ``[options] type base64 [comment]``; empty if nothing."""
    import binascii

    if "PRIVATE KEY" in key:
        return "this is a private key"
    if _CONTROL.search(key):
        return "an SSH key is one line"
    words = key.split()
    # Options stand before the type and may hold quoted blanks; the type is the first word that is one.
    at = next((index for index, word in enumerate(words) if word in _KEY_TYPES), None)
    if at is None or at + 1 >= len(words):
        return "not an SSH public key"
    try:
        blob = binascii.a2b_base64(words[at + 1].encode(), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        return "the SSH key is damaged: not base64"
    name = words[at].encode()
    if not blob.startswith(len(name).to_bytes(4, "big") + name) or len(blob) < len(name) + 20:
        return "the SSH key is damaged: its data is not of its type"
    return ""


def _is_date(text: str) -> bool:
    from datetime import date

    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return bool(re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text))


def _url(value: str) -> str:
    return "" if _URL.fullmatch(value) else "not a URL (http or https)"


def _discovery(value: str) -> str:
    matched = _URL.fullmatch(value)
    if not matched:
        return "not a URL (http or https)"
    return "" if (matched[1] or "/").strip("/") else "a discovery URL ends in a token"


def _urls(value: str) -> str:
    good = all(_PEER_URL.fullmatch(one.strip()) for one in value.split(","))
    return "" if good else "not a list of URLs: scheme://host:port, separated by commas"


def _address(value: str) -> str:
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, value)
        except OSError:
            continue
        return ""
    return "not an IP address"


def _duration(value: str) -> str:
    return "" if _DURATION.fullmatch(value) else "not a duration such as 30s"


def _metadata(value: str) -> str:
    return "" if _METADATA.fullmatch(value) else "not key=value,key=value"


_ETCD_CHECKS: dict[str, Callable[[str], str]] = {
    "advertise_client_urls": _urls,
    "discovery": _discovery,
    "discovery_proxy": _url,
    "initial_advertise_peer_urls": _urls,
    "listen_client_urls": _urls,
    "listen_metrics_urls": _urls,
    "listen_peer_urls": _urls,
}
_FLEET_CHECKS: dict[str, Callable[[str], str]] = {
    "agent_ttl": _duration,
    "etcd_servers": _urls,
    "metadata": _metadata,
    "public_ip": _address,
}

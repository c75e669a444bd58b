"""Whether a text fits its image: reports on the host what a node would refuse or could not do, before it boots.

The parser checks shapes and :mod:`cloudconfig.check.validate` values; this module looks up names: accounts, groups,
shells, units, programs, time zones, packages, and what exists where a file would be written.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudconfig.check.image import Image
from cloudconfig.text import refused
from cloudconfig.text.finding import ERROR, WARNING, Capped, Finding
from cloudconfig.text.parse import Document
from cloudconfig.text.reader import Mark
from cloudconfig.text.schema import WRITABLE, Need, Unit, User
from unitfile.name import canonical, is_network

_LOCALES = ("C", "C.UTF-8", "C.utf8", "POSIX")
# Units of these kinds come from files that systemd reads (fstab) or from devices, too.
_FILED = (".service", ".socket", ".target", ".timer", ".path")
_STARTS = ("start", "restart", "reload", "reload-or-restart")


def check(documents: Sequence[tuple[str, Document]], image: Image) -> list[Finding]:
    """Findings about cloud-configs (by the name of their part), all of which one node gets."""
    findings: list[Finding] = []
    whole = _Whole([document for _, document in documents], image)
    for part, document in documents:
        checker = _Fit(document, whole, image)
        checker.all()
        findings.extend(finding._replace(part=part) for finding in checker.findings)
    return findings


class _Whole:
    """What all parts together bring to the node."""

    def __init__(self, documents: Sequence[Document], image: Image) -> None:
        configs = [document.config for document in documents]
        self.users = {user.name for config in configs for user in config.users}
        self.accounts = self.users | image.users.keys()
        self.groups = set(image.groups) | {
            user.name for config in configs for user in config.users if not user.no_user_group
        }
        for config in configs:
            self.groups |= {group.name for group in config.groups}
            self.groups |= {name for user in config.users for name in (*user.groups, user.primary_group)}
        self.files = {file.path for config in configs for file in config.write_files}
        self.files |= {download.path for config in configs for download in config.downloads}
        self.units = {canonical(unit.name) for config in configs for unit in config.units if unit.content}
        self.units |= {path.rpartition("/")[2] for path in self.files if "/systemd/system/" in path}
        self.units |= {f"{unit}.service" for unit in ("cloudconfig-boot", "cloudconfig-disks", "cloudconfig-fetch")}


class _Fit:
    def __init__(self, document: Document, whole: _Whole, image: Image) -> None:
        self._config = document.config
        self._marks = document.marks
        self._whole = whole
        self._image = image
        self.findings: list[Finding] = Capped()

    def all(self) -> None:
        config = self._config
        for user in config.users:
            self._user(user)
        for group in config.groups:
            for member in group.members:
                self._account(group.at, member)
        for password in config.passwords:
            self._account(password.at, password.user)
        for file in config.write_files:
            self._path(file.path, f"{file.at}.path" if file.at.startswith("write_files[") else file.at)
            self._owner(file.owner, f"{file.at}.owner")
        for download in config.downloads:
            self._path(download.path, f"{download.at}.path")
            self._owner(download.owner, f"{download.at}.owner")
        for unit in config.units:
            self._unit(unit)
        for need in config.needs:
            self._need(need)

    def _user(self, user: User) -> None:
        if user.shell and user.shell not in self._whole.files and not self._image.has_program(user.shell):
            shells = sorted(
                path for path in ("/bin/bash", "/bin/sh", "/usr/sbin/nologin") if self._image.has_program(path)
            )
            self._add(
                ERROR,
                f"{user.at}.shell",
                "the image has no such shell, so the user could not log in",
                f"it has {', '.join(shells)}",
            )
        new = user.name not in self._image.users
        if new and user.name in self._image.groups and not user.primary_group and not user.no_user_group:
            self._add(
                WARNING,
                f"{user.at}.name",
                "the image has a group of this name, which becomes the account's own, with all that it may do",
                "say primary_group, or take another name",
            )

    def _account(self, at: str, name: str) -> None:
        if name not in self._whole.accounts:
            self._add(ERROR, at, "no account of that name is here or in the image", "declare it in users")

    def _path(self, path: str, at: str) -> None:
        problem = self._image.write_problem(path) if path.startswith("/") else ""
        # A read-only place has already been reported without the image.
        if problem and (path.startswith(tuple(f"{place}/" for place in WRITABLE))):
            self._add(ERROR, at, problem)

    def _owner(self, owner: str, at: str) -> None:
        user, _, group = owner.partition(":")
        for name, known in ((user, self._whole.accounts), (group, self._whole.groups)):
            if name and not name.isdigit() and name not in known:
                self._add(
                    ERROR, at, f"no account is called {name}, here or in the image", "declare it in users or groups"
                )

    def _unit(self, unit: Unit) -> None:
        name = canonical(unit.name)
        if unit.content is not None or is_network(name) or not name.endswith(_FILED):
            return
        stem, at, _ = name.partition("@")
        template = f"{stem}@.{name.rpartition('.')[2]}" if at else name
        if name in self._whole.units or template in self._whole.units or self._image.has_unit(name):
            if name in self._image.masked and unit.command in _STARTS:
                self._add(ERROR, f"{unit.at}.command", "the image masks this unit: it cannot be started")
            return
        if unit.enable:
            self._add(
                ERROR, f"{unit.at}.enable", f"the image has no unit {unit.name}", "give its content, or check the name"
            )
        elif unit.command in _STARTS:
            self._add(
                ERROR, f"{unit.at}.command", f"the image has no unit {unit.name}", "give its content, or check the name"
            )
        elif unit.drop_ins and not unit.mask:
            self._add(
                WARNING,
                unit.at,
                f"the image has no unit {unit.name}, and drop-ins alone are none",
                "give its content, or check the name",
            )

    def _need(self, need: Need) -> None:
        image = self._image
        if need.kind == "refused":
            severity = WARNING if need.name in refused.HARMLESS else ERROR
            message, _, hint = refused.INSTEAD[need.name].partition(": ")
            self._add(severity, need.at, message, hint)
        elif need.kind == "package" and need.name not in image.packages:
            message, _, hint = refused.INSTEAD["packages"].partition(": ")
            self._add(ERROR, need.at, message, hint)
        elif need.kind == "program" and not image.finds_program(need.name):
            self._add(
                ERROR,
                need.at,
                f"the image has no {need.name}",
                "it makes ext2, ext3, ext4 and swap; or build an image that has it",
            )
        elif (
            need.kind == "filesystem"
            and need.name not in image.filesystems
            and f"fuse.{need.name}" not in image.filesystems
        ):
            self._add(
                ERROR,
                need.at,
                f"the image's kernel has no module for {need.name}",
                f"it has {' '.join(sorted(image.filesystems & _COMMON))}",
            )
        elif need.kind == "zone" and need.name not in image.zones:
            self._add(
                ERROR,
                need.at,
                "the image knows UTC only",
                "leave it away, and give TZ to the unit or container that shows times; or add tzdata to the image",
            )
        elif need.kind == "locale" and need.name not in _LOCALES:
            self._add(ERROR, need.at, "the image has no such locale", "C.UTF-8 is the one it has")
        elif need.kind == "mountpoint":
            real = image.real(need.name)
            if not real.startswith(tuple(f"{place}/" for place in WRITABLE)) and real not in image.folders:
                self._add(
                    ERROR,
                    need.at,
                    "the node's root is read-only there, and has no such folder",
                    "a place below /var, or /mnt",
                )

    def _add(self, severity: str, path: str, message: str, hint: str = "") -> None:
        mark = self._marks.get(path, Mark(0, 0, False))
        self.findings.append(Finding(severity, path, mark.line, mark.column, message, hint))


_COMMON = frozenset(("9p", "bind", "ext4", "overlay", "squashfs", "tmpfs", "vfat", "virtiofs", "isofs"))

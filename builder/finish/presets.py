"""The units that start: only those that are listed.

Replaces the work of: every deb-systemd-helper (unmask, enable, update-state) of every package with units, update-rc.d,
and systemd's own ``systemctl enable`` of getty@tty1. Its remote-fs.target and systemd-pstore are left disabled: nodes
have neither.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from builder.core.tree import Entry, Kind, Patch, Tree, file, symlink
from terminal import Failure
from unitfile.install import Install
from unitfile.name import UnitName, UnitNameError
from unitfile.text import UnitFile, UnitFileError

SYSTEM = "usr/lib/systemd/system"
LOCAL = "etc/systemd/system"
PRESET = "usr/lib/systemd/system-preset/00-flotilla.preset"


@dataclass(slots=True)
class _Enabling:
    tree: Tree
    masked: tuple[str, ...]
    links: dict[str, str] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    def enable(self, text: str, because: str = "") -> None:
        """Make the links of one unit and of those it names in Also=."""
        if text in self.done:
            return
        self.done.add(text)
        name = _name(text)
        path = _path(text)
        install = self._install(name, path, because)
        made = install.instance(name)
        if made is None:
            raise Failure(
                f"the template {text} has no DefaultInstance",
                where=f"/{path}",
                hint="list an instance of it, as in getty@tty1.service",
            )
        self.links |= install.links(made, LOCAL, f"/{path}")
        for other in install.also:
            # systemd silently skips units in Also= that are static, masked or missing
            if self._is_enablable(made.expand(other)):
                self.enable(made.expand(other), because=text)

    def _is_enablable(self, text: str) -> bool:
        path = _path(text)
        entry = self.tree.get(path)
        if text in self.masked:
            return False
        return entry is not None and entry.kind is Kind.FILE and bool(self._read(path))

    def _read(self, path: str) -> Install:
        try:
            return Install.of(UnitFile.parse(self.tree.read(path).decode()))
        except UnitFileError as error:
            raise Failure(error.message, where=f"/{path}:{error.line}", hint=error.hint) from error

    def _install(self, name: UnitName, path: str, because: str) -> Install:
        where = f"enabled because of {because}" if because else "presets"
        entry = self.tree.get(path)
        if entry is None:
            units = [each.path.removeprefix(SYSTEM + "/") for each in self.tree.below(SYSTEM)]
            close = difflib.get_close_matches(name.template or str(name), units, n=1)
            raise Failure(
                f"the unit {name} is to be enabled, but /{path} does not exist",
                where=where,
                hint=f"did you mean {close[0]}?"
                if close
                else "add the package that brings it, or take it off the list",
            )
        if entry.kind is Kind.SYMLINK:
            raise Failure(
                f"{name} is another name of {entry.target.rpartition('/')[2]}",
                where=where,
                hint="list the unit under its own name",
            )
        install = self._read(path)
        if not install:
            raise Failure(
                f"{name} has no [Install] section: it cannot be enabled",
                where=where,
                hint="a static unit is started by others (a socket, a timer, Wants=); take it off the list",
            )
        return install


def presets(
    tree: Tree,
    enabled: Iterable[str],
    masked: Iterable[str] = (),
    aliases: Mapping[str, str] | None = None,
    default_target: str = "multi-user.target",
) -> Patch:
    """The preset file, and what ``systemctl preset-all`` would make of it: links under /etc/systemd/system.

    ``masked`` units get a link to /dev/null; ``aliases`` are further names (new name -> unit) that are valid whether
    the unit is enabled or not, so they lie in /usr. Links of packages under /etc that are not listed are removed.
    Raises :class:`Failure` if a unit to be enabled is missing, an alias, static, or masked as well.
    """
    wanted, off = tuple(enabled), tuple(masked)
    both = sorted(set(wanted) & set(off))
    if both:
        raise Failure(f"{both[0]} is both enabled and masked", where="presets", hint="list it once")
    enabling = _Enabling(tree, off)
    for name in wanted:
        enabling.enable(name)
    links = enabling.links
    for name in off:
        links[f"{LOCAL}/{_name(name)}"] = "/dev/null"
    links[f"{LOCAL}/default.target"] = f"/{_existing(tree, default_target, 'default target')}"
    put = [
        file(PRESET, _preset(enabling.done)),
        *(symlink(f"{SYSTEM}/{_name(name)}", unit) for name, unit in _aliases(tree, aliases or {})),
        *(symlink(path, target) for path, target in sorted(links.items())),
    ]
    stale = tuple(entry.path for entry in _package_links(tree) if entry.path not in links)
    return Patch(tuple(put), stale)


def _preset(names: Iterable[str]) -> str:
    return "# Made by the builder from the definition's presets.\n" + "".join(
        [f"enable {name}\n" for name in sorted(names)] + ["disable *\n"]
    )


def _name(text: str) -> UnitName:
    try:
        return UnitName.parse(text)
    except UnitNameError as error:
        raise Failure(
            f"'{text}' is not the name of a unit: {error.message}", hint="write it with its suffix, as in ssh.service"
        ) from error


def _path(unit: str) -> str:
    """The path of the file of ``unit``."""
    name = _name(unit)
    return f"{SYSTEM}/{name.template or name}"


def _existing(tree: Tree, unit: str, what: str) -> str:
    path = _path(unit)
    if path not in tree:
        raise Failure(f"the {what} {unit} does not exist", where="/" + path)
    return path


def _aliases(tree: Tree, aliases: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, unit in sorted(aliases.items()):
        _existing(tree, unit, f"unit behind the alias {name},")
        yield name, unit


def _package_links(tree: Tree) -> Iterator[Entry]:
    """Links under /etc/systemd/system that came with packages; drop-ins and unit files stay."""
    return (entry for entry in tree.below(LOCAL) if entry.kind is Kind.SYMLINK)

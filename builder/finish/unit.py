"""A systemd unit file, as far as enabling it needs: the [Install] section (systemd.unit(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from terminal import Failure

LISTS: Final = ("Alias", "WantedBy", "RequiredBy", "UpheldBy", "Also")
UNIT_NAME: Final = re.compile(
    r"[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?"
    r"\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)"
)


@dataclass(frozen=True, slots=True)
class Install:
    """The [Install] section of a unit, with lists as they add up over lines."""

    aliases: tuple[str, ...] = ()
    wanted_by: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()
    upheld_by: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    default_instance: str = ""

    def __bool__(self) -> bool:
        return bool(self.aliases or self.wanted_by or self.required_by or self.upheld_by or self.also)


def parse_install(text: str) -> Install:
    """Read the [Install] section of a unit file; an empty assignment empties a list, a backslash at the end joins lines."""
    lists: dict[str, list[str]] = {name: [] for name in LISTS}
    instance = ""
    current = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("["):
            current = line
            continue
        key, _, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if current != "[Install]":
            continue
        if key in lists:
            lists[key] = [*lists[key], *value.split()] if value else []
        elif key == "DefaultInstance":
            instance = value
    alias, wanted, required, upheld, also = (tuple(lists[name]) for name in LISTS)
    return Install(alias, wanted, required, upheld, also, instance)


@dataclass(frozen=True, slots=True)
class Name:
    """A unit's name in parts: ``getty@tty1.service`` is prefix ``getty``, instance ``tty1``, suffix ``.service``."""

    prefix: str
    instance: str | None
    suffix: str

    @classmethod
    def parse(cls, text: str) -> Name:
        """Take a name apart. Raises :class:`Failure` if it is no unit name."""
        if not UNIT_NAME.fullmatch(text):
            raise Failure(f"'{text}' is not the name of a unit", hint="write it with its suffix, as in ssh.service")
        stem, _, suffix = text.rpartition(".")
        prefix, at, instance = stem.partition("@")
        return cls(prefix, instance if at else None, "." + suffix)

    def __str__(self) -> str:
        return self.prefix + ("" if self.instance is None else "@" + self.instance) + self.suffix

    @property
    def template(self) -> str:
        """The name of the file that describes this unit."""
        return str(self) if self.instance is None else f"{self.prefix}@{self.suffix}"

    def expand(self, text: str) -> str:
        """Replace the specifiers that an [Install] section may hold (%n, %N, %p, %i, %j, %%)."""
        values = {
            "n": str(self),
            "N": str(self).removesuffix(self.suffix),
            "p": self.prefix,
            "i": self.instance or "",
            "j": self.prefix.rpartition("-")[2],
            "%": "%",
        }
        return re.sub(r"%([nNpij%])", lambda match: values[match[1]], text)

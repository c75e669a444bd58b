"""Names of systemd units: their syntax, and the parts that specifiers use.

The rules are systemd's (systemd.unit(5), "String Escaping for Inclusion in Unit Names" and `unit_name_is_valid`), with
what the original fleet added: a name never starts with ``@``. A name ends up as a file name on a node and as a part of
a key in etcd, so characters that could leave either are rejected.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from terminal import Failure

LENGTH_MAX = 255
"""Characters of a name.

The original said 256; systemd and every Linux file system stop at 255, so a longer one could never run."""

SUFFIXES = frozenset(
    {"automount", "device", "mount", "path", "scope", "service", "slice", "socket", "swap", "target", "timer"}
)
"""Types of systemd units (the original also knew busname and snapshot, which systemd has dropped)."""

TEMPLATE_SUFFIXES = frozenset({"path", "service", "socket", "target", "timer"})
"""Types that may be templates or instances."""

RUNNABLE_SUFFIXES = SUFFIXES - {"device", "scope"}
"""Types that a unit file can define: a device comes from the kernel and a scope from a running program."""

NETWORK_SUFFIXES = (".network", ".netdev", ".link")
"""Files of systemd-networkd and udev: they lie in /etc/systemd/network, and nothing is started by their name."""

ALIASES = {"etcd2.service": "etcd.service", "fleetd.service": "fleet.service"}
"""CoreOS had two etcds and users wrote either name; the image has one etcd, and one fleet whose daemon is fleetd."""

_CHARACTERS = re.compile(r"[A-Za-z0-9:_.\\@-]+")


class UnitNameError(Failure):
    """The text is no unit name; the message says why."""


@dataclass(frozen=True, slots=True)
class UnitName:
    """A valid unit name in its parts: ``prefix[@instance].suffix``.

    ``instance`` is ``None`` for a plain unit, ``""`` for a template (``redis@.service``) and the text between ``@`` and
    the suffix otherwise.
    """

    prefix: str
    instance: str | None
    suffix: str

    @classmethod
    def parse(cls, text: str) -> UnitName:
        """Parse ``text``; raises :class:`UnitNameError` when it is not the name of a systemd unit."""
        if not text:
            raise UnitNameError("a unit name is empty")
        if len(text) > LENGTH_MAX:
            raise UnitNameError(
                f"a unit name has {len(text)} characters, {LENGTH_MAX} is the most", where=text[:40] + "..."
            )
        if "/" in text:
            raise UnitNameError(
                "a unit name has a slash in it", where=repr(text), hint="give the name without its folder"
            )
        if not _CHARACTERS.fullmatch(text):
            raise UnitNameError("a unit name has a character other than letters, digits and :-_.\\@", where=repr(text))
        if ".." in text or text.startswith("."):
            raise UnitNameError("a unit name starts with a dot or has two in a row", where=repr(text))
        stem, dot, suffix = text.rpartition(".")
        if not dot or suffix not in SUFFIXES:
            raise UnitNameError(
                "a unit name does not end in a type that systemd knows",
                where=repr(text),
                hint="end it in one of " + " ".join("." + known for known in sorted(SUFFIXES)),
            )
        prefix, at, rest = stem.partition("@")
        if not prefix:
            raise UnitNameError("a unit name has nothing before its @ or its type", where=repr(text))
        if at and suffix not in TEMPLATE_SUFFIXES:
            raise UnitNameError(f"a unit of type {suffix} can be no template or instance", where=repr(text))
        return cls(prefix, rest if at else None, suffix)

    def __str__(self) -> str:
        return f"{self.stem}.{self.suffix}"

    @property
    def stem(self) -> str:
        """The name without its type: specifier ``%N``."""
        return self.prefix if self.instance is None else f"{self.prefix}@{self.instance}"

    @property
    def is_template(self) -> bool:
        """True for ``redis@.service``: it can be stored, never started."""
        return self.instance == ""

    @property
    def is_instance(self) -> bool:
        """True for ``polop@redis.service``."""
        return bool(self.instance)

    @property
    def template(self) -> str | None:
        """The name of the template of an instance (``redis@.service`` for ``redis@1.service``), otherwise ``None``."""
        return f"{self.prefix}@.{self.suffix}" if self.is_instance else None

    @property
    def is_runnable(self) -> bool:
        """True when a machine can run it: no template, and of a type that a file can define."""
        return not self.is_template and self.suffix in RUNNABLE_SUFFIXES

    def expand(self, text: str) -> str:
        """Replace the specifiers that depend on the name alone: %n, %N, %p, %i, %j, and %% for a percent sign.

        Others (%m, %H ...) are the machine's and stay as they are: systemd expands them there.
        """
        values = {
            "n": str(self),
            "N": self.stem,
            "p": self.prefix,
            "i": self.instance or "",
            "j": self.prefix.rpartition("-")[2],
            "%": "%",
        }
        return re.sub(r"%([nNpij%])", lambda match: values[match.group(1)], text)


def canonical(name: str) -> str:
    """The name under which the image knows the unit."""
    return ALIASES.get(name, name)


def is_network(name: str) -> bool:
    """Whether the file is networkd's or udev's, not a unit of systemd's."""
    return name.endswith(NETWORK_SUFFIXES)


def check_file_name(name: str) -> None:
    """Raise :class:`UnitNameError` unless ``name`` may become a file name in a folder of units or network files."""
    if is_network(name):
        # The same characters and length as a unit's name; only the suffix is networkd's own.
        UnitName.parse(name.rpartition(".")[0] + ".target")
    else:
        UnitName.parse(name)

"""What systemd knows: the sections of unit files, the directives of each, and the kind of their values.

The data, ``directives.txt``, is systemd's own list, of the version that the image has (image/node.lock): what that
program prints, which the tests unpack and run by its own loader. For a new version, in the checkout::

    python -m tests.unitfile.systemd usr/lib/systemd/systemd --dump-configuration-items |
        python -m unitfile.directives 257 > unitfile/directives.txt.new && mv unitfile/directives.txt.new unitfile/directives.txt

Each line is ``sections|kind|directives``: directives that are the same in several sections are listed once. Kinds are
systemd's terms (BOOLEAN, SECONDS, PATH ...); for OTHER, ``unitfile.values`` goes by the directive's name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

DATA = "directives.txt"

FLEET = ("MachineID", "MachineOf", "MachineMetadata", "Conflicts", "Global", "Replaces")
"""Fleet's options in its section, [X-Fleet]; systemd ignores it, like all that begins with ``X-``."""

LEGACY = {
    "X-ConditionMachineID": "MachineID",
    "X-ConditionMachineBootID": "MachineID",
    "X-ConditionMachineOf": "MachineOf",
    "X-ConditionMachineMetadata": "MachineMetadata",
    "X-Conflicts": "Conflicts",
}
"""Names of early versions of fleet, and their current names."""

SECTIONS = {
    "automount": ("Automount",),
    "device": (),
    "mount": ("Mount",),
    "path": ("Path",),
    "scope": ("Scope",),
    "service": ("Service",),
    "slice": ("Slice",),
    "socket": ("Socket",),
    "swap": ("Swap",),
    "target": (),
    "timer": ("Timer",),
}
"""The section of its own that a type of unit has, beside [Unit] and [Install]."""


@cache
def version() -> str:
    """The version of systemd that the list is of."""
    return _text().partition("\n")[0].rpartition(" ")[2]


@cache
def sections() -> Mapping[str, Mapping[str, str]]:
    """From a section to its directives, each with its kind."""
    found: dict[str, dict[str, str]] = {}
    for line in _text().splitlines():
        if line.startswith("#"):
            continue
        names, kind, directives = line.split("|")
        for section in names.split():
            found.setdefault(section, {}).update(dict.fromkeys(directives.split(), kind))
    return found


def allowed(suffix: str) -> tuple[str, ...]:
    """The sections that systemd reads in a unit of type ``suffix``.

    It warns of others, unless they begin with ``X-``."""
    return ("Unit", *SECTIONS[suffix], "Install")


def _text() -> str:
    return (Path(__file__).parent / DATA).read_text(encoding="utf-8")


def compact(dump: Iterable[str], of_version: str) -> str:
    """The data file for what ``systemd --dump-configuration-items`` prints.

    Raises :class:`ValueError` for anything else."""
    places: dict[tuple[str, str], list[str]] = {}
    section = ""
    for line in filter(None, (line.strip() for line in dump)):
        if line.startswith("["):
            section = line[1:-1]
            continue
        directive, equals, kind = line.partition("=")
        if not section or not equals:
            raise ValueError(f"not a line of systemd --dump-configuration-items: {line!r}")
        places.setdefault((directive, kind), []).append(section)
    groups: dict[tuple[str, str], list[str]] = {}
    for (directive, kind), where in places.items():
        groups.setdefault((" ".join(where), kind), []).append(directive)
    head = f"# sections|kind|directives: made by python -m unitfile.directives, from systemd {of_version}"
    lines = sorted(f"{where}|{kind}|{' '.join(sorted(set(names)))}" for (where, kind), names in groups.items())
    return "\n".join([head, *lines, ""])


if __name__ == "__main__":
    sys.stdout.write(compact(sys.stdin, *sys.argv[1:]))

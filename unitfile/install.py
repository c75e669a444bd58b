"""The [Install] section: what enabling a unit means (systemd.unit(5), "[Install] Section Options")."""

from __future__ import annotations

from dataclasses import dataclass

from unitfile.name import UnitName
from unitfile.text import UnitFile

SECTION = "Install"


@dataclass(frozen=True, slots=True)
class Install:
    """The [Install] section of a unit, with lists as they add up over lines; an empty assignment empties a list."""

    aliases: tuple[str, ...] = ()
    wanted_by: tuple[str, ...] = ()
    required_by: tuple[str, ...] = ()
    upheld_by: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    default_instance: str = ""

    @classmethod
    def of(cls, unitfile: UnitFile) -> Install:
        """Read the section of ``unitfile``."""
        default = _words(unitfile, "DefaultInstance")
        return cls(
            _words(unitfile, "Alias"),
            _words(unitfile, "WantedBy"),
            _words(unitfile, "RequiredBy"),
            _words(unitfile, "UpheldBy"),
            _words(unitfile, "Also"),
            default[0] if default else "",
        )

    def __bool__(self) -> bool:
        """Whether enabling the unit does anything."""
        return bool(self.aliases or self.wanted_by or self.required_by or self.upheld_by or self.also)

    def instance(self, name: UnitName) -> UnitName | None:
        """The unit that enabling ``name`` enables: ``name``, or a template's default instance (``None`` without one).

        Raises :class:`unitfile.name.UnitNameError` when the default makes no name.
        """
        if not name.is_template:
            return name
        if not self.default_instance:
            return None
        return UnitName.parse(f"{name.prefix}@{self.default_instance}.{name.suffix}")

    def links(self, name: UnitName, folder: str, target: str) -> tuple[tuple[str, str], ...]:
        """The links (path, target) that ``systemctl enable`` makes in ``folder`` for the unit ``name`` with file
        ``target``.

        Raises :class:`unitfile.name.UnitNameError` for a name that the section gives and that is none.
        """
        unit = self.instance(name)
        if unit is None:
            return ()
        links: list[tuple[str, str]] = []
        wanting = (("wants", self.wanted_by), ("requires", self.required_by), ("upholds", self.upheld_by))
        for ending, others in wanting:
            for text in others:
                other = UnitName.parse(unit.expand(text))
                links.append((f"{folder}/{other}.{ending}/{unit}", target))
        links += [(f"{folder}/{UnitName.parse(unit.expand(text))}", target) for text in self.aliases]
        return tuple(links)


def _words(unitfile: UnitFile, option: str) -> tuple[str, ...]:
    """A list option: values joined, an empty one resets the list."""
    words: list[str] = []
    for value in unitfile.get(SECTION, option):
        found = value.split()
        if not found:
            words.clear()
        words += found
    return tuple(words)

"""The ``[X-Fleet]`` section: where a unit may run.

Rules and values are the original's (its old ``X-Condition`` names too), except that an unknown name is refused at
submit instead of being ignored: a misspelt ``Conflict=`` must not lead to two copies on one machine.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fleet.model.entities import Desired, Unit
from terminal import Failure
from unitfile.directives import FLEET as OPTIONS
from unitfile.directives import LEGACY as _LEGACY
from unitfile.name import RUNNABLE_SUFFIXES, UnitName, UnitNameError
from unitfile.text import Option, UnitFile

SECTION = "X-Fleet"

_TRUE = frozenset({"true", "yes", "1", "on", "t"})
_FALSE = frozenset({"false", "no", "0", "off", "f", ""})
_SHORT_ID = 8
# Far above any real use. Each name is compared with each unit, a specifier is up to 255 characters when it is expanded,
# and splitting quoted words takes time in the square of their length.
_WORDS_MAX = 1000
_LENGTH_MAX = 1 << 16


class RequirementsError(Failure):
    """A unit requires something that fleet does not know or that contradicts itself."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """A unit's requirements on its machine.

    ``machine_id`` is a full id or its first 8 characters. ``metadata`` maps a key to the values of which one must
    match; all keys must. ``conflicts`` and ``replaces`` are globs over unit names; ``machine_of`` are unit names to
    share a machine with.
    """

    machine_id: str = ""
    metadata: Mapping[str, frozenset[str]] = field(default_factory=dict)
    conflicts: tuple[str, ...] = ()
    global_: bool = False
    machine_of: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()

    @classmethod
    def parse(cls, name: UnitName, unitfile: UnitFile) -> Requirements:
        """Read ``[X-Fleet]`` of a unit, %n %N %p %i expanded; raises :class:`RequirementsError`."""
        options = unitfile.section(SECTION)
        if not options:
            return cls()
        values: dict[str, list[str]] = {known: [] for known in OPTIONS}
        legacy: dict[str, list[str]] = {known: [] for known in OPTIONS}
        if sum(len(option.value) for option in options) > _LENGTH_MAX:
            raise RequirementsError(f"[{SECTION}] has more than {_LENGTH_MAX} characters", where=str(name))
        for option in options:
            known = _LEGACY.get(option.name, option.name)
            if known not in values:
                raise _unknown(name, option)
            into = legacy if option.name in _LEGACY else values
            into[known].append(name.expand(option.folded))
        both = {known: values[known] + legacy[known] for known in OPTIONS}
        for known, given in both.items():
            if sum(len(value.split()) for value in given) > _WORDS_MAX:
                raise RequirementsError(f"{known} in [{SECTION}] has more than {_WORDS_MAX} words", where=str(name))
        made = cls(
            machine_id=next((value for value in both["MachineID"] if value), ""),
            metadata=_metadata(name, both["MachineMetadata"]),
            conflicts=_words(both["Conflicts"]),
            global_=_truth(name, both["Global"]),
            machine_of=_units(name, both["MachineOf"]),
            replaces=_words(both["Replaces"]),
        )
        _consistent(name, made)
        return made

    def conflicts_with(self, other: str) -> bool:
        """Whether one of the ``Conflicts`` globs names ``other``."""
        return any(matches(glob, other) for glob in self.conflicts)

    def replaces_unit(self, other: str) -> bool:
        """Whether one of the ``Replaces`` globs names ``other``."""
        return any(matches(glob, other) for glob in self.replaces)


def check_unit(unit: Unit) -> Requirements:
    """Refuse a unit that could never run, before it is stored.

    Raises :class:`UnitNameError` for a bad name, :class:`RequirementsError` for a bad ``[X-Fleet]``, an empty file, a
    type that no file can define, or a template that is to run.
    """
    name = UnitName.parse(unit.name)
    if name.suffix not in RUNNABLE_SUFFIXES:
        raise UnitNameError(
            f"a unit of type {name.suffix} cannot be made from a file",
            where=repr(unit.name),
            hint="use one of " + " ".join("." + known for known in sorted(RUNNABLE_SUFFIXES)),
        )
    unitfile = unit.unitfile
    if not unitfile.options:
        raise RequirementsError("the unit file has no options", where=unit.name)
    if name.is_template and unit.desired is not Desired.INACTIVE:
        raise RequirementsError(
            f"a template cannot be {unit.desired.value}",
            where=unit.name,
            hint=f"name an instance of it: {name.prefix}@1.{name.suffix}",
        )
    try:
        return Requirements.parse(name, unitfile)
    except RequirementsError as error:
        error.where = unit.name  # the line is one of the canonical text, and not of the user's file
        raise


@functools.lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def matches(glob: str, name: str) -> bool:
    """Whether ``glob`` (``*``, ``?``, ``[...]``) covers the whole of a unit's name."""
    return glob == name or _glob(glob).match(name) is not None


def _unknown(name: UnitName, option: Option) -> RequirementsError:
    import difflib  # lazily: a node's start-up does not need it

    near = difflib.get_close_matches(option.name, (*OPTIONS, *_LEGACY), n=1, cutoff=0.0)[0]
    where = f"{name} line {option.line}" if option.line else str(name)
    return RequirementsError(f"[{SECTION}] has no option {option.name}", where=where, hint=f"the nearest is {near}")


def _metadata(name: UnitName, values: Iterable[str]) -> dict[str, frozenset[str]]:
    """``k=v``, or several of them on a line, quoted."""
    found: dict[str, set[str]] = {}
    for value in values:
        for pair in _quoted(name, value) if '"' in value else [value]:
            key, equals, wanted = pair.partition("=")
            if not pair:
                continue
            if not equals or not key.strip() or "=" in wanted:
                raise RequirementsError(
                    f"MachineMetadata={value} is not of the form key=value",
                    where=str(name),
                    hint='several: "a=b" "c=d"',
                )
            found.setdefault(key.strip(), set()).add(wanted.strip())
    return {key: frozenset(wanted) for key, wanted in sorted(found.items())}


def _quoted(name: UnitName, value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise RequirementsError(f"a quote is left open in {value}", where=str(name)) from error


def _words(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(word.strip('"') for value in values for word in value.split())


def _units(name: UnitName, values: Iterable[str]) -> tuple[str, ...]:
    found = [each for value in values for each in (_quoted(name, value) if '"' in value else [value]) if each]
    for each in found:
        try:
            UnitName.parse(each)
        except UnitNameError as error:
            raise RequirementsError("MachineOf names no unit", where=str(name), hint="one exact name a line") from error
    return tuple(found)


def _truth(name: UnitName, values: list[str]) -> bool:
    last = values[-1].lower() if values else ""
    if last in _TRUE:
        return True
    if last in _FALSE:
        return False
    raise RequirementsError(f"Global={values[-1]} is neither true nor false", where=str(name))


def _consistent(name: UnitName, made: Requirements) -> None:
    """The pairs that the original refuses, plus a unit that waits for itself."""
    pairs = [
        (bool(made.machine_id and made.machine_of), "MachineID with MachineOf"),
        (bool(made.machine_id and made.conflicts), "MachineID with Conflicts"),
        (bool(made.machine_id and made.global_), "MachineID with Global"),
        (bool(made.machine_id and made.replaces), "MachineID with Replaces"),
        (bool(made.global_ and made.machine_of), "Global with MachineOf"),
        (bool(made.global_ and made.replaces), "Global with Replaces"),
        (bool(made.conflicts and made.replaces), "Conflicts with Replaces"),
        (str(name) in made.machine_of, "MachineOf with the unit itself"),
    ]
    pairs.extend(
        (
            made.conflicts_with(other) or made.replaces_unit(other),
            f"MachineOf={other} with Conflicts or Replaces covering it",
        )
        for other in made.machine_of
    )
    for wrong, what in pairs:
        if wrong:
            raise RequirementsError(f"[{SECTION}] combines {what}", where=str(name), hint="keep one of the two")


def short_id_matches(wanted: str, machine: str) -> bool:
    """Whether ``wanted`` is the machine's id or the first 8 characters of it."""
    return wanted == machine or (len(wanted) == _SHORT_ID and wanted == machine[:_SHORT_ID])

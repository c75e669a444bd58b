"""What is wrong with a unit, before any systemd reads it: :func:`lint`, a pure function from text to findings.

It reads as systemd 257 does (``systemd-analyze verify``; the two are compared in
tests/unitfile/test_against_systemd.py). An *error* is what systemd refuses to load, or a program that the image lacks;
a *warning* is what it logs and then ignores, a misspelt directive or a value that it cannot read, and a secret that any
local user can read. Messages name sections, directives and places, never values, which may be secrets; hints may.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from unitfile import command, directives, secret, values, whole
from unitfile.name import UnitName, UnitNameError
from unitfile.text import Heading, Option, UnitFileError, entries, physical_lines

ERROR: Final = "error"
WARNING: Final = "warning"
FINDINGS_MAX: Final = 100
"""More are not reported: the first ones suffice, and it bounds the work that a hostile text can cause."""

_WORD_MAX: Final = 64
_NEAREST_MAX: Final = 16
_INSTANCE: Final = re.compile(r"%(?:%|([iI]))")
# The root of a node is read-only there, so what the image lacks stays missing; elsewhere it may be made before the unit
# starts.
_READ_ONLY: Final = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/")
# With one of these the program is looked for in another root.
_OTHER_ROOTS: Final = (
    *("RootDirectory", "RootImage", "BindPaths", "BindReadOnlyPaths"),
    *("MountImages", "ExtensionImages", "ExtensionDirectories", "ExecSearchPath"),
)


class Finding(NamedTuple):
    """One finding; ``line`` and ``column`` count from 1, 0 when it is about the whole text."""

    line: int
    column: int
    message: str
    hint: str
    severity: str

    def render(self, name: str) -> str:
        """``NAME:LINE:COLUMN: warning: message``, and the hint on a second line."""
        place = f"{name}:{self.line}:{self.column}" if self.line else name
        text = f"{place}: {self.severity}: {self.message}"
        return f"{text}\n    hint: {self.hint}" if self.hint else text


class Nearest:
    """Finds the name that was probably meant.

    The slow way a few times only, since a hostile text has no end of mistakes."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], str] = {}

    def of(self, word: str, known: tuple[str, ...]) -> str:
        """The one of ``known`` that is most like ``word``, or ""."""
        lower = word.lower()
        same = next((each for each in known if each.lower() == lower), "")
        key = (word, len(known))
        if same or len(word) > _WORD_MAX or (key not in self._found and len(self._found) >= _NEAREST_MAX):
            return same
        if key not in self._found:
            import difflib  # only a mistake pays for the import

            self._found[key] = next(iter(difflib.get_close_matches(word, known, n=1)), "")
        return self._found[key]


def lint(
    name: str,
    text: str,
    binaries: Collection[str] | None = None,
    *,
    drop_ins: Iterable[str] = (),
    is_drop_in: bool = False,
    nearest: Nearest | None = None,
) -> list[Finding]:
    """The findings about the unit ``name`` with ``text``, in the order of the text; none means clean.

    ``binaries`` are the absolute paths of the image's programs; ``None``: not known, so none is missed. With
    ``drop_ins`` (their texts) the unit is judged together with them, though only its own lines are. A text that
    ``is_drop_in`` is judged by its lines alone. ``nearest`` is for callers that check many units: one for all of them.
    """
    try:
        unit = UnitName.parse(name)
    except UnitNameError as error:
        return [Finding(0, 0, error.message, error.hint or "", ERROR)]
    linter = _Linter(unit, text, binaries, nearest or Nearest())
    try:
        linter.read()
    except UnitFileError as error:
        # The message may quote the line.
        return [Finding(error.line, 1 if error.line else 0, "not the text of a unit", error.message, ERROR)]
    if not is_drop_in:
        linter.judge_whole(_options_of(drop_ins))
    if len(linter.found) > FINDINGS_MAX:
        first = sorted(linter.found, key=lambda each: (each.severity != ERROR, each))[:FINDINGS_MAX]
        more = Finding(0, 0, f"more than {FINDINGS_MAX} findings", "correct these first", WARNING)
        return [*sorted(first), more]
    return sorted(linter.found)


def _options_of(texts: Iterable[str]) -> list[Option]:
    """The options that drop-ins add; one that is no unit text has findings of its own."""
    found: list[Option] = []
    for text in texts:
        try:
            found += [each for each in entries(text) if isinstance(each, Option)]
        except UnitFileError:
            continue
    return found


class _Linter:
    def __init__(self, unit: UnitName, text: str, binaries: Collection[str] | None, nearest: Nearest) -> None:
        self._unit = unit
        self._text = text
        self._lines = physical_lines(text)
        self._binaries = binaries
        self._allowed = directives.allowed(unit.suffix)
        self._options: list[Option] = []
        self._nearest = nearest
        self.found: list[Finding] = []

    def read(self) -> None:
        """Judge line by line."""
        for entry in entries(self._text):
            if isinstance(entry, Option):
                self._options += _expanded(self._unit, [entry])
            if len(self.found) > FINDINGS_MAX:
                continue  # read on: there may be an error in the text, which is all that counts then
            if isinstance(entry, Heading):
                self._heading(entry)
            else:
                self._option(entry)

    def judge_whole(self, more: Sequence[Option]) -> None:
        """Check what depends on the whole, as systemd does after loading a unit and its drop-ins."""
        options = [*self._options, *_expanded(self._unit, more)]
        refused = any(each.severity == ERROR for each in self.found)  # then systemd does not reach the rest
        for trouble in () if refused else whole.problems(self._unit, options):
            at = trouble.option
            # The contents of a drop-in have no line here.
            where = at if any(at is each for each in self._options) else None
            self._add(ERROR, where, trouble.message, trouble.hint, value=True)
        if self._binaries is not None and not any(each.name in _OTHER_ROOTS for each in options):
            self._programs(self._binaries)

    def _heading(self, heading: Heading) -> None:
        section = heading.name
        if section.startswith("X-") or section in self._allowed:
            return
        line = self._line(heading.line)
        column = line.index("[") + 1
        known = directives.sections()
        if section in known:
            message = f"[{section}] does nothing in a unit of type {self._unit.suffix}: systemd ignores the section"
            hint = "its sections are " + " ".join(f"[{each}]" for each in self._allowed)
        else:
            message = f"there is no section [{section[:_WORD_MAX]}]: systemd ignores it"
            near = self._nearest.of(section, self._allowed)
            hint = f"did you mean [{near}]?" if near else "sections of your own begin with X-"
        self.found.append(Finding(heading.line, column, message, hint, WARNING))

    def _option(self, option: Option) -> None:
        section, name = option.section, option.name
        if section == "X-Fleet":
            self._fleet_option(option)
            return
        known = directives.sections().get(section)
        if known is None or section not in self._allowed:
            return  # the section is reported already, or begins with X-
        kind = known.get(name)
        if kind is None:
            self._unknown(option, known)
            return
        if self._unit.instance is None and any(match[1] for match in _INSTANCE.finditer(option.folded)):
            hint = f"name the unit {self._unit.prefix}@.{self._unit.suffix}, or write the text itself"
            self._add(WARNING, option, f"{name}= has %i, which is empty: this unit has no instance", hint, value=True)
        if whole.is_command(kind):
            _, problem = command.read(option.folded, self._unit)
        elif option.value:
            value = option.folded if self._unit.is_template else self._unit.expand(option.folded)
            problem = values.problem(kind, name, value)
        else:
            problem = None
        if problem is not None:
            severity = ERROR if problem.fatal else WARNING
            self._add(severity, option, f"{name}= {_verb(problem.message)}", problem.hint, value=True)
        if name == "Environment":
            for variable in secret.exposed(option.folded):
                message = f"{name}= has the value of {variable[:_WORD_MAX]}, which any local user can read"
                hint = "put it into a file of mode 0600, and name that with LoadCredential= or EnvironmentFile="
                self._add(WARNING, option, message, hint, value=True)

    def _fleet_option(self, option: Option) -> None:
        if option.name not in directives.FLEET and option.name not in directives.LEGACY:
            near = self._nearest.of(option.name, directives.FLEET)
            hint = f"did you mean {near}=?" if near else "it knows " + " ".join(directives.FLEET)
            self._add(WARNING, option, f"fleet knows no {option.name[:_WORD_MAX]}= in [X-Fleet]", hint)

    def _unknown(self, option: Option, known: Iterable[str]) -> None:
        name = option.name[:_WORD_MAX]
        if name.startswith("X-"):
            return
        elsewhere = [each for each, names in directives.sections().items() if option.name in names]
        here = [each for each in self._allowed if each in elsewhere]
        message = f"systemd knows no {name}= in [{option.section}] and ignores it"
        if here or elsewhere:
            hint = f"it belongs in [{(here or elsewhere)[0]}]"
        else:
            near = self._nearest.of(option.name, tuple(known))
            hint = f"did you mean {near}=?" if near else "names of your own begin with X-"
        self._add(WARNING, option, message, hint)

    def _programs(self, binaries: Collection[str]) -> None:
        for option in self._options:
            kind = directives.sections().get(option.section, {}).get(option.name, "")
            if len(self.found) > FINDINGS_MAX or not whole.is_command(kind):
                continue
            for program, counts in command.read(option.folded, self._unit)[0]:
                if not program or _is_there(program, binaries):
                    continue
                fails = counts and not option.name.startswith(("ExecStop", "ExecReload"))
                message = f"{option.name}= runs a program that the image does not have"
                hint = f"there is no {program[:200]}; put it into a container, or into /opt/bin by write_files"
                self._add(ERROR if fails else WARNING, option, message, hint, value=True)

    def _add(self, severity: str, option: Option | None, message: str, hint: str, *, value: bool = False) -> None:
        line = column = 0
        if option is not None:
            line = option.line
            raw = self._line(line)
            column = len(raw) - len(raw.lstrip(" \t")) + 1
            if value:
                rest = raw.partition("=")[2]
                column = raw.index("=") + 2 + len(rest) - len(rest.lstrip(" \t"))
        self.found.append(Finding(line, column, message, hint, severity))

    def _line(self, number: int) -> str:
        return self._lines[number - 1].removeprefix("\ufeff") if number == 1 else self._lines[number - 1]


def _expanded(unit: UnitName, options: Iterable[Option]) -> list[Option]:
    """``options`` with the specifiers expanded that depend on the name alone; a template's name is not whole yet.

    What is left empty then is left out: an empty assignment means something else. Command lines stay as they are: their
    words and prefixes are read first.
    """
    if unit.is_template:
        return list(options)
    made = [
        (each, unit.expand(each.folded) if "%" in each.value and not each.name.startswith("Exec") else each.value)
        for each in options
    ]
    return [
        each if value == each.value else replace(each, value=value) for each, value in made if value or not each.value
    ]


def _verb(message: str) -> str:
    """The text after the directive's name: some messages have their own verb."""
    return message if message.startswith(("is ", "names ", "wants ")) else f"is wrong: {message}"


def _is_there(program: str, binaries: Collection[str]) -> bool:
    """Whether the image has ``program``, or could have it by the time that it is run."""
    if "/" not in program:
        return any(f"{folder}/{program}" in binaries for folder in command.SEARCHED)
    if not program.startswith(_READ_ONLY) or program in binaries:
        return True
    clean = re.sub("/{2,}|/(?:\\./)+", "/", program)
    # /bin and its kin are links into /usr.
    return clean in binaries or f"/usr{clean}" in binaries or clean.removeprefix("/usr") in binaries

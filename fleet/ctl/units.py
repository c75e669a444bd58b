"""What a unit argument of a command means: a name, and maybe a local file with its text.

The name is the base name of the argument, before any symbolic link is followed: a link ``polop@redis.service`` to
``redis.service`` is the unit ``polop@redis.service`` with the text of ``redis.service``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from terminal import Failure, UsageFailure
from unitfile.name import SUFFIXES, UnitName, UnitNameError
from unitfile.text import SIZE_MAX, UnitFile, UnitFileError

if TYPE_CHECKING:
    from unitfile.lint import Finding


@dataclass(frozen=True, slots=True)
class Argument:
    """One unit argument: the unit's name, and the path where its text would be."""

    name: UnitName
    path: Path

    @classmethod
    def parse(cls, text: str) -> Argument:
        """Parse the argument.

        A name without a type is a service. Raises :class:`Failure` for what cannot be a unit name."""
        base = text.rsplit("/", 1)[-1]
        if not base:
            raise Failure("a unit is needed; this is a folder", where=repr(text), hint="name the unit files in it")
        if base.rpartition(".")[2] not in SUFFIXES or "." not in base:
            base += ".service"
        try:
            name = UnitName.parse(base)
        except UnitNameError as error:
            raise UnitNameError(
                error.message,
                where=repr(text),
                hint=error.hint or "a unit is named like hello.service or hello@1.service",
            ) from None
        folder = text[: len(text) - len(text.rsplit("/", 1)[-1])]
        return cls(name, Path(folder + base))

    @property
    def template_path(self) -> Path | None:
        """Where the template of an instance would be: beside it."""
        template = self.name.template
        return self.path.with_name(template) if template else None


@dataclass(frozen=True, slots=True)
class Text:
    """A unit to store: ``path`` and ``source`` are those of its file, ``None`` and "" if the cluster had it."""

    unit: UnitFile
    path: Path | None = None
    source: str = ""

    def findings(self, name: UnitName) -> list[Finding]:
        """systemd's findings about it as the unit ``name``; none for a text that the cluster has already accepted."""
        if self.path is None:
            return []
        from unitfile.lint import lint  # only a text that is to be stored pays for the import

        return lint(str(name), self.source)


def parse_arguments(texts: Sequence[str]) -> list[Argument]:
    """All arguments, each name once, in the order given. All are checked before anything is done to any."""
    if not texts:
        raise UsageFailure("no unit given", hint="give one or more unit names or unit files")
    arguments: dict[UnitName, Argument] = {}
    for text in texts:
        argument = Argument.parse(text)
        arguments.setdefault(argument.name, argument)
    return list(arguments.values())


def read_file(path: Path) -> Text | None:
    """The unit file at ``path``; ``None`` if it does not exist. Raises :class:`Failure` if it is no unit file."""
    try:
        if path.is_dir():
            raise Failure("a unit file is needed; this is a folder", where=str(path), hint="name the unit files in it")
        if path.is_symlink() and not path.exists():
            raise Failure(
                "this link leads nowhere",
                where=str(path),
                hint=f"it points to {path.readlink()}; create that file, or make the link again",
            )
        if not path.exists():
            return None
        if not path.is_file():
            raise Failure("a unit file is needed; this is not a regular file", where=str(path))
        with path.open("rb") as stream:
            content = stream.read(SIZE_MAX + 1)
    except OSError as error:
        raise Failure(f"cannot read the unit file: {error.strerror}", where=str(path)) from None
    if len(content) > SIZE_MAX:
        raise Failure(f"a unit file has more than {SIZE_MAX} bytes", where=str(path), hint="is this the right file?")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise Failure(
            f"a unit file is text in UTF-8, byte {error.start} is not", where=str(path), hint="is this the right file?"
        ) from None
    try:
        unitfile = UnitFile.parse(text)
    except UnitFileError as error:
        place = f"{path}:{error.line}" if error.line else str(path)
        raise Failure(error.message, where=place, hint=error.hint) from None
    if not unitfile.options:
        raise Failure("the unit file has no options", where=str(path), hint="it needs a [Service] with an ExecStart=")
    return Text(unitfile, path, text)

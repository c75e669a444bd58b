"""What a check of user-data found: severity, place, message, next step. Never a value of the user's, only key paths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

ERROR = "error"
WARNING = "warning"
FINDINGS_MAX = 200


class Finding(NamedTuple):
    """One finding about a piece of user-data.

    ``path`` is the key path (``coreos.units[2].name``; empty for the whole text), ``line`` and ``column`` count from 1
    (0: no place), ``part`` names the MIME part, empty when there is only one.
    """

    severity: str
    path: str
    line: int
    column: int
    message: str
    hint: str = ""
    part: str = ""

    def render(self, name: str) -> str:
        """``NAME:LINE:COLUMN: error: key path: message``, and the hint on a second line."""
        place = f"{name}[{self.part}]" if self.part else name
        if self.line:
            place += f":{self.line}:{self.column}"
        text = f"{self.path}: {self.message}" if self.path else self.message
        line = f"{place}: {self.severity}: {text}"
        return f"{line}\n    hint: {self.hint}" if self.hint else line

    def as_json(self) -> dict[str, object]:
        """The fields, for ``--json``."""
        return self._asdict()


class Capped(list[Finding]):
    """The first FINDINGS_MAX findings of each severity.

    A hostile text may have a finding for every three bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._left = {ERROR: FINDINGS_MAX, WARNING: FINDINGS_MAX}

    def append(self, one: Finding) -> None:
        """Add ``one``, unless there are enough; the last one reports that."""
        left = self._left.get(one.severity, 0)
        if left:
            self._left[one.severity] = left - 1
            super().append(one if left > 1 else one._replace(message=f"{one.message}; more of them are not listed"))


def errors(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Those that forbid the use of the user-data."""
    return tuple(finding for finding in findings if finding.severity == ERROR)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """In the order of the text, without repetitions."""
    return tuple(sorted(set(findings), key=lambda f: (f.part, f.line, f.column, f.path, f.message)))


def strict(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same, every warning an error."""
    return tuple(finding._replace(severity=ERROR) for finding in findings)


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint naming the known key that ``word`` was probably meant to be, or an empty string."""
    import difflib  # only a mistake pays for the import

    close = difflib.get_close_matches(word[:64], known, n=1)
    return f"did you mean {close[0]}?" if close else ""

"""Errors as data: what was being done, what is wrong, where, and what to do next."""

from __future__ import annotations

from terminal.printable import printable_lines


class Failure(Exception):  # noqa: N818 - a failure is reported to a user; an error is a programmer's term
    """A mistake of the user or an external error, to be reported without a traceback.

    ``message`` is what is wrong (no full stop, no repetition of its cause); ``where`` names the file, line, key, port
    or host; ``hint`` is the next step. Chain with ``raise Failure(...) from error`` and the cause is printed as "caused
    by".
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message

    @property
    def on_one_line(self) -> str:
        """All of it on one line, with the next step: for a log."""
        return f"{self} ({self.hint})" if self.hint else str(self)


class UsageFailure(Failure):
    """The command was called wrongly: exit code 2."""

    exit_code = 2


def render(error: BaseException, prog: str) -> str:
    """The text for stderr: the failure, its causes, a blank line, the hints (each once, outermost first).

    Nothing in it commands the terminal: names and causes come from files, peers and programs.
    """
    lines: list[str] = []
    hints: list[str] = []
    current: BaseException | None = error
    prefix = f"{prog}: error: "
    while current is not None:
        text = str(current) or type(current).__name__
        lines.append(prefix + text)
        hint = getattr(current, "hint", None)
        if isinstance(hint, str) and hint not in hints:
            hints.append(hint)
        prefix = "  caused by: "
        current = current.__cause__
    if hints:
        lines.append("")
        lines.extend(f"hint: {hint}" for hint in hints)
    return printable_lines("\n".join(lines))

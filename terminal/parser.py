"""The parser of each command and of each of its verbs: what all have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from terminal.suggestion import did_you_mean
from terminal.version import VERSION


class _Debug(argparse.Action):
    """After the name of a verb that passes its arguments on, where :func:`terminal.command` does not look for it."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002 - argparse's name
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, *_: object) -> None:
        os.environ["FLOTILLA_DEBUG"] = "1"


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose help lists ``--version`` and ``--debug`` (:func:`terminal.command` handles the
    latter), keeps the line breaks of texts, and suggests the nearest choice for an unknown one. Parsers of verbs
    (``add_subparsers``) are of this class, too.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Accepts the arguments of ``ArgumentParser``."""
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*arguments, **options)
        command = self.prog.split()[0]
        self.add_argument("--version", action="version", version=f"{command} {VERSION}", help="print the version")
        self.add_argument("--debug", action=_Debug, help="show what lies behind an error")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if hint := did_you_mean(str(value), map(str, action.choices or ())):
                error.message += f"\n\nhint: {hint}"
            raise

"""How every command communicates with its user.

A :class:`Failure` is a mistake or an error, described in four parts (doing, wrong, where, next step); :func:`command`
turns a function into a console script with the common exit codes, :class:`Parser` reads its arguments,
:func:`did_you_mean` suggests what a mistyped word may be; :class:`Phases` shows progress and records it as
:class:`Span` values; :func:`table` aligns columns; :func:`held_back` has Ctrl-C wait, and after :func:`settled` it
comes too late. No other code prints an error or decides an exit code.

Imports only the standard library at load, since it also runs on nodes, where nothing more is promised.
"""

from terminal.failure import Failure, UsageFailure
from terminal.interrupt import held_back, settled
from terminal.parser import Parser
from terminal.phases import Phases
from terminal.printable import printable, printable_lines
from terminal.script import command
from terminal.spans import Span, Step, untimed
from terminal.suggestion import did_you_mean
from terminal.table import table

__all__ = [
    "Failure",
    "Parser",
    "Phases",
    "Span",
    "Step",
    "UsageFailure",
    "command",
    "did_you_mean",
    "held_back",
    "printable",
    "printable_lines",
    "settled",
    "table",
    "untimed",
]

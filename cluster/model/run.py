"""Commands on a node and how they end, as values."""

from __future__ import annotations

from dataclasses import dataclass

from guest.lines import LINE_BYTES_MAX, encode
from terminal import Failure

COMMAND_BYTES_MAX = LINE_BYTES_MAX // 2


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a command on a node ended (exit code; 128 + n for signal n) and what it printed."""

    rc: int
    out: str
    err: str


def require_short(command: str) -> None:
    """Raise :class:`Failure` if ``command`` does not fit into one message of the guest's."""
    if len(encode({"": command})) > COMMAND_BYTES_MAX:
        hint = "hand it over as input: node.root('bash', stdin=FILE), cluster console NODE < FILE"
        raise Failure(f"the command is longer than {COMMAND_BYTES_MAX >> 10} KiB", hint=hint)

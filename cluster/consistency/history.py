"""What clients saw, as data: one :class:`Operation` for each request."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Literal

from terminal import record

Outcome = Literal["ok", "fail", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """``process`` requested ``kind`` on ``key`` at ``invoked`` and had its response at ``returned``.

    A process is a client that does one thing at a time.

    Times are seconds of one clock for the whole history. ``outcome`` "ok": it happened, with ``result``; "fail": it
    certainly did not; "unknown": it may happen at any time after ``invoked`` or never. ``argument`` and ``result`` are
    hashable and survive JSON (with tuples for lists); the model defines their meaning.
    """

    process: int
    kind: str
    key: str
    argument: Hashable = None
    result: Hashable = None
    invoked: float
    returned: float
    outcome: Outcome

    @property
    def end(self) -> float:
        """Until when it may take effect."""
        return self.returned if self.outcome == "ok" else inf


def by_key(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The history of each key.

    A store of independent objects is linearizable if and only if each of them is (Herlihy and Wing, 1990).
    """
    found: dict[str, list[Operation]] = {}
    for operation in history:
        found.setdefault(operation.key, []).append(operation)
    return dict(sorted(found.items()))


def dump(history: Iterable[Operation]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(asdict(operation)) + "\n" for operation in history)


def load(text: str) -> list[Operation]:
    """What :func:`dump` wrote. Raises ValueError naming the invalid line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            fields = record.parse(line)
            operation = Operation(
                **{**fields, "argument": _hashable(fields.get("argument")), "result": _hashable(fields.get("result"))}
            )
            if operation.outcome not in ("ok", "fail", "unknown"):
                raise ValueError(f"no such outcome: {operation.outcome!r}")
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number} of the history is no operation: {error}") from error
        found.append(operation)
    return found


def table(history: Sequence[Operation], describe: Callable[[Operation], str]) -> str:
    """The history for people, in order of calls: a line for each operation, with its time drawn as a bar.

    ``describe`` puts an operation into words.
    """
    if not history:
        return "(no operation)"
    ordered = sorted(history, key=lambda each: (each.invoked, each.returned))
    begin = ordered[0].invoked
    instants = sorted({time for each in ordered for time in (each.invoked, each.returned)})
    # Bars by rank, not by time: what matters is what was before what, and a pause of a minute must not flatten it.
    column = {time: 2 * rank for rank, time in enumerate(instants)}
    rows = []
    for each in ordered:
        first, last = column[each.invoked], column[each.returned]
        ending = {"ok": "|", "unknown": "?", "fail": "x"}[each.outcome]
        bar = " " * first + "|" + "-" * (last - first - 1) + ending
        rows.append((f"client {each.process}", f"{each.invoked - begin:8.3f} s", describe(each), bar))
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    return "\n".join("  ".join([*(cell.ljust(widths[at]) for at, cell in enumerate(row[:3])), row[3]]) for row in rows)


def _hashable(value: object) -> object:
    """JSON has lists where we have tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value

"""What was done to a cluster, in order: one JSON object a line in ``timeline.jsonl``, written by its supervisor.

Each has ``t`` (seconds since 1970, as this computer has it), ``kind`` ("power", "fault", "heal", "mark"), ``what`` (one
line for people) and ``nodes`` (numbers; empty for the whole cluster). A "heal" carries the ``id`` of the fault that it
ends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from terminal import Failure, record


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a timeline."""

    t: float
    kind: str
    what: str
    nodes: tuple[int, ...] = ()
    id: int | None = None
    """Of the fault that begins or ends here."""


class Timeline:
    """The writer of one cluster's timeline."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Lines are added to the file ``path``."""
        self._path, self._clock = path, clock
        self._unwritten = b""

    def record(self, kind: str, what: str, nodes: Iterable[int] = (), id: int | None = None) -> None:  # noqa: A002 - its name in the file
        """Add a line, now.

        A line that cannot be written, as on a full disk, is written with a later one: what it describes goes on.
        """
        event = Event(self._clock(), kind, what, tuple(nodes), id)
        self._unwritten += json.dumps(asdict(event)).encode() + b"\n"
        with suppress(OSError), self._path.open("ab", buffering=0) as file:
            while self._unwritten:
                self._unwritten = self._unwritten[file.write(self._unwritten) :]


def read(path: Path) -> list[Event]:
    """The events in ``path``, oldest first; none if there is no such file.

    A half-written last line is left out. Raises Failure for an invalid line.
    """
    found: list[Event] = []
    try:
        found.extend(record.build(Event, record.parse(line)) for line in path.read_text().split("\n")[:-1])
    except FileNotFoundError:
        return []
    except ValueError as error:
        hint = "remove the file to begin a new one; the nodes do not need it"
        raise Failure(f"this is no timeline: {error}", where=f"{path} line {len(found) + 1}", hint=hint) from error
    return found

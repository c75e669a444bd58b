"""The result of a check: what the next one, ``cluster status`` and Prometheus read of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from terminal import record
from upkeep.space import Fill

PATHS: Final = (Path("/var"), Path("/var/lib/docker"))
"""Whose file systems are measured; docker's is the last."""
STATUS: Final = Path("/run/flotilla-room/status.json")
METRICS: Final = STATUS.with_name("room.prom")
"""For the textfile collector of Prometheus' node_exporter, which reads ``*.prom`` of a folder."""


@dataclass(frozen=True, slots=True)
class Status:
    """``idle`` has ids with the second, since the node's start, from which on they were idle; ``removed`` counts since
    then, by kind; ``above`` has the file systems that were too full; ``stuck``: docker's was, and nothing more could be
    removed."""

    fills: Sequence[Fill] = ()
    above: tuple[str, ...] = ()
    stuck: bool = False
    idle: Mapping[str, float] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """Read by :meth:`parse`."""
        return {"v": 1, **asdict(self)}

    @classmethod
    def parse(cls, text: str) -> Status:
        """The status in the output of :meth:`json`; an empty one for any other text: the next check starts afresh."""
        try:
            state = record.parse(text)
            fills = tuple(record.build(Fill, each) for each in state["fills"])
            above = tuple(str(each) for each in state["above"])
            idle = {str(key): float(value) for key, value in state["idle"].items()}
            removed = {str(key): int(value) for key, value in state["removed"].items()}
            return cls(fills, above, state["stuck"] is True, idle, removed)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            return cls()

    def metrics(self) -> str:
        """For Prometheus, in its text format, version 0.0.4."""
        return "".join(f"{line}\n" for line in self._metrics())

    def _metrics(self) -> Iterator[str]:
        yield from _about("size_bytes", "gauge", "Size of the file system, without what is kept for the system.")
        for fill in self.fills:
            yield f'flotilla_room_size_bytes{{path="{fill.path}"}} {fill.size_bytes}'
        yield from _about("used_ratio", "gauge", "How much of that is used, from 0 to 1.")
        for fill in self.fills:
            yield f'flotilla_room_used_ratio{{path="{fill.path}"}} {fill.percent / 100:.4f}'
        yield from _about("above", "gauge", "Whether it is too full: unused images and ended containers go.")
        for fill in self.fills:
            yield f'flotilla_room_above{{path="{fill.path}"}} {int(fill.path in self.above)}'
        yield from _about("stuck", "gauge", "Whether it is too full, and nothing more may be removed.")
        yield f"flotilla_room_stuck {int(self.stuck)}"
        yield from _about("removed_total", "counter", "What was removed since the start of the node.")
        for kind in ("container", "image"):
            yield f'flotilla_room_removed_total{{kind="{kind}"}} {self.removed.get(kind, 0)}'


def _about(name: str, kind: str, words: str) -> tuple[str, str]:
    return f"# HELP flotilla_room_{name} {words}", f"# TYPE flotilla_room_{name} {kind}"

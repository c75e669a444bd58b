"""How backups of a node go: what ``cluster status`` and Prometheus read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from discovery.backup.shelf import FOLDER, Backup, Shelf
from terminal import record

STATE: Final = "state.json"
METRICS: Final = "backup.prom"
"""For the textfile collector of Prometheus' node_exporter, and for whoever serves metrics of the node."""
PATH: Final = FOLDER / STATE


@dataclass(frozen=True, slots=True)
class Last:
    """The last good backup: when it was taken (seconds since 1970), and what it has; see
    :class:`discovery.backup.shelf.Backup`."""

    taken: int
    revision: int
    keys: int
    raft_index: int
    hash: int
    size: int

    @classmethod
    def of(cls, backup: Backup) -> Last:
        """The same of a file on the shelf."""
        return cls(*backup)


@dataclass(frozen=True, slots=True)
class State:
    """``last`` is None before the first. ``sent``: when the last one reached the user's store. ``tried``: the last run;
    ``trouble``: why it failed, empty if it did not. ``kept`` backups have ``bytes``."""

    last: Last | None = None
    sent: int | None = None
    tried: int | None = None
    trouble: str = ""
    kept: int = 0
    bytes: int = 0

    def json(self) -> dict[str, Any]:
        """Read by :meth:`parse`."""
        return {"v": 1, **asdict(self)}

    @classmethod
    def parse(cls, text: str) -> State | None:
        """The state in the output of :meth:`json`; None for any other text."""
        try:
            found = record.parse(text)
            if not isinstance(found, dict) or found.pop("v", None) != 1:
                return None
            return record.build(cls, found)
        except ValueError:
            return None

    @classmethod
    def on(cls, shelf: Shelf) -> State:
        """Of the backups that are there; what only the state file knows is taken from that. Raises Failure."""
        try:
            before = cls.parse((shelf.path / STATE).read_text("utf-8")) or cls()
        except (OSError, ValueError):
            before = cls()
        return before.with_backups(shelf.backups())

    def with_backups(self, backups: Sequence[Backup]) -> State:
        """The same, with what is on the shelf now; the state file may be older, and the newest backup elsewhere."""
        newest = Last.of(backups[0]) if backups else None
        known = [each for each in (self.last, newest) if each is not None]
        last = max(known, key=lambda each: each.taken, default=None)
        size = sum(each.size for each in backups)
        return State(last, self.sent, self.tried, self.trouble, kept=len(backups), bytes=size)

    def metrics(self) -> str:
        """For Prometheus, in its text format, version 0.0.4."""
        return "".join(f"{line}\n" for line in self._metrics())

    def _metrics(self) -> Iterator[str]:
        values: Mapping[str, tuple[str, int | None]] = {
            "last_success_timestamp_seconds": (
                "When the last good backup of etcd was taken.",
                self.last.taken if self.last else None,
            ),
            "last_size_bytes": ("Its size.", self.last.size if self.last else None),
            "last_revision": ("Its revision.", self.last.revision if self.last else None),
            "last_keys": ("How many keys it has.", self.last.keys if self.last else None),
            "last_sent_timestamp_seconds": ("When a backup last reached the store of BACKUP_COMMAND.", self.sent),
            "last_attempt_timestamp_seconds": ("When a backup was last tried.", self.tried),
            "failed": ("Whether that failed.", int(bool(self.trouble))),
            "kept": ("How many backups are in the folder.", self.kept),
            "kept_bytes": ("How large they are.", self.bytes),
        }
        for name, (words, value) in values.items():
            if value is not None:
                yield f"# HELP flotilla_etcd_backup_{name} {words}"
                yield f"# TYPE flotilla_etcd_backup_{name} gauge"
                yield f"flotilla_etcd_backup_{name} {value}"


def save(shelf: Shelf, state: State) -> None:
    """Write the state file and the metrics. Raises Failure."""
    import json

    shelf.write(STATE, json.dumps(state.json()) + "\n")
    shelf.write(METRICS, state.metrics())

"""What nodes report while they start.

Each guest receives the list of conditions once, and reports when each has come true.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.client.node import ETCD_PORT
from cluster.client.root_shell import Line
from cluster.model.protocol import Condition, Watch
from terminal import Failure

SSH, ETCD, FLEET = "ssh", "etcd", "fleet"
HEALTH_PORT = 2381
"""Where a member says how it is, without TLS and to its own machine only (units/system/etcd.service)."""
PROXY = "/var/lib/etcd/data.proxy"
"""What a proxy remembers (discovery/join.py). It has no health of its own; that fleet lists the machines shows that it
reaches a member."""
INTERVAL_S, INTERVAL_S_MAX = 0.1, 0.5
"""Between two checks of a guest for its next condition, with hardware (times the accelerator's factor), and at most."""
UNITS = ("cloudconfig.service", "etcd.service", "fleet.service")
"""If one of these fails for good, the cluster will not come up."""


def conditions(size: int) -> list[tuple[str | None, Condition]]:
    """The conditions for a node of a cluster of ``size``, in order (docs/guest.md).

    Each comes with what it means when it holds.
    """
    return [
        (None, {"exists": "/run/cloudconfig/status.json"}),
        (None, {"listens": 22}),
        # While this is there, pam_nologin lets root in only.
        (SSH, {"absent": "/run/nologin"}),
        (None, {"listens": ETCD_PORT}),
        (ETCD, {"any": ({"exists": PROXY}, {"http": HEALTH_PORT, "path": "/health", "has": '"health":"true"'})}),
        # Not checked before etcd is there: the check starts fleet, by its socket.
        (FLEET, {"http": "/run/fleet.sock", "path": "/fleet/v1/machines", "has": '"id":', "times": size}),
    ]


@dataclass(slots=True)
class StartupReport:
    """What one node has reported in this boot."""

    uptime: float | None = None
    """Seconds from its start to its root shell; None before that."""
    holds: set[str] = field(default_factory=set)
    failed: tuple[str, ...] = ()


class StartupReports:
    """Listens to nodes of a cluster until :meth:`close`."""

    def __init__(self, control: Path, numbers: Sequence[int], size: int, factor: float) -> None:
        """Requests what :func:`conditions` lists for a cluster of ``size`` from the nodes ``numbers``.

        ``control`` is the supervisor's socket; nodes take ``factor`` times as long as hardware. Raises
        :class:`Failure` if the supervisor does not answer.
        """
        self._reports = {number: StartupReport() for number in numbers}
        self._conditions = conditions(size)
        self._changed = threading.Condition()
        self._changes = 0
        wanted = tuple(condition for _, condition in self._conditions)
        interval = min(INTERVAL_S * factor, INTERVAL_S_MAX)
        self._lines: list[Line] = []
        try:
            for number in numbers:
                self._lines.append(Line(control, Watch(number, wanted, UNITS, interval)))
        except BaseException:
            self.close()
            raise
        for report, line in zip(self._reports.values(), self._lines, strict=True):
            threading.Thread(target=self._listen, args=(report, line), daemon=True).start()

    def __enter__(self) -> StartupReports:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Listen no more; the guests stop looking."""
        for line in self._lines:
            line.close()

    def of(self, number: int) -> StartupReport:
        """What node ``number`` has reported so far."""
        return self._reports[number]

    def wait(self, seconds: float) -> None:
        """Return when a node reports something new, or after ``seconds``."""
        with self._changed:
            before = self._changes
            self._changed.wait_for(lambda: self._changes != before, seconds)

    def _listen(self, report: StartupReport, line: Line) -> None:
        try:
            for message in line.messages():
                with self._changed:
                    self._hear(report, message)
                    self._changes += 1
                    self._changed.notify_all()
        except (Failure, ValueError, OSError):
            return  # we hung up, or the supervisor is gone, which the waiting thread will notice, too

    def _hear(self, report: StartupReport, message: dict[str, object]) -> None:
        match message:
            case {"uptime": float() | int() as uptime}:
                report.uptime = uptime
            case {"held": int(index)} if 0 <= index < len(self._conditions):
                if (name := self._conditions[index][0]) is not None:
                    report.holds.add(name)
            case {"failed": list(units)}:
                report.failed = tuple(unit for unit in UNITS if unit in units)
            case {"lost": _}:  # reset: all begins again
                report.uptime, report.failed = None, ()
                report.holds.clear()

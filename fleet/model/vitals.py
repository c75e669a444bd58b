"""What one fleetd knows of itself: its numbers, for Prometheus, and whether its loops turn.

All numbers are in one table, :data:`METRICS`, and docs/metrics.md describes each. The format is Prometheus' text format
0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

BUCKETS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of histograms, in seconds."""

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its kind, the names of its labels, and one line about it."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


METRICS: Mapping[str, Metric] = {
    "fleet_agent_registered": Metric(GAUGE, "1 while this machine's key is in etcd and its agent reaches it."),
    "fleet_agent_steps_total": Metric(
        COUNTER, "Steps on units (load, start, stop, unload) that have ended.", ("step", "result")
    ),
    "fleet_agent_units": Metric(GAUGE, "Units that fleetd has started on this machine and not stopped."),
    "fleet_api_request_seconds": Metric(HISTOGRAM, "Time to answer requests; those of events may wait.", ("handler",)),
    "fleet_api_requests_total": Metric(COUNTER, "Requests answered.", ("handler", "method", "code")),
    "fleet_engine_decisions_total": Metric(COUNTER, "Decisions of this engine while it led.", ("why",)),
    "fleet_engine_evictions_limited": Metric(
        GAUGE, "1 on the leader while so many machines are away that it evicts one machine a lease."
    ),
    "fleet_engine_leading": Metric(GAUGE, "1 while this engine leads."),
    "fleet_engine_reigns_total": Metric(COUNTER, "How often this engine became the leader."),
    "fleet_engine_renewals_total": Metric(COUNTER, "Renewals of this engine's lease.", ("result",)),
    "fleet_engine_standing_by": Metric(GAUGE, "1 while this engine is the standby."),
    "fleet_engine_step_seconds": Metric(HISTOGRAM, "Time of one round of the engine: reading, planning, writing."),
    "fleet_engine_writes_total": Metric(COUNTER, "Transactions of this engine while it led."),
    "fleet_etcd_errors_total": Metric(COUNTER, "Requests to etcd without an answer, or refused.", ("operation",)),
    "fleet_etcd_request_seconds": Metric(HISTOGRAM, "Time until etcd answered.", ("operation",)),
    "fleet_etcd_up": Metric(GAUGE, "1 if the last request to etcd was answered."),
    "fleet_events_total": Metric(COUNTER, "Events that this fleetd has written into the log.", ("kind",)),
    "fleet_info": Metric(GAUGE, "1, with fleetd's version and its machine's id.", ("version", "machine")),
    "fleet_loop_hung": Metric(GAUGE, "1 while a loop of fleetd stands still for too long.", ("loop",)),
    "fleet_loop_turns_total": Metric(COUNTER, "Rounds of each loop of fleetd.", ("loop",)),
    "fleet_machines": Metric(GAUGE, "Machines that are alive."),
    "fleet_machines_away": Metric(GAUGE, "Machines that have orders and are not alive."),
    "fleet_unit_states": Metric(GAUGE, "Reports of machines about units, by systemd's active state.", ("active",)),
    "fleet_units": Metric(GAUGE, "Units that the cluster knows, by desired state.", ("desired",)),
    "fleet_units_waiting": Metric(GAUGE, "Units that are wanted and on no machine."),
    "fleet_view": Metric(GAUGE, "1 while this fleetd has a view of the whole cluster."),
    "process_cpu_seconds_total": Metric(COUNTER, "Processor time that fleetd has used."),
    "process_open_fds": Metric(GAUGE, "Open files and connections of fleetd."),
    "process_resident_memory_bytes": Metric(GAUGE, "Memory of fleetd."),
    "process_start_time_seconds": Metric(GAUGE, "When fleetd started, in Unix seconds."),
}

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoopState:
    """A loop: how many rounds it has made, and whether it has stood still for too long."""

    turns: int
    hangs: bool


class _Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum = 0.0


class Vitals:
    """The numbers of one fleetd. Thread-safe.

    ``role`` is what its engine is: ``leader``, ``standby``, ``follower``, or "" if it has none or has not begun;
    ``trouble`` why its machine is not registered, "" when it is, ``None`` when the agent has not begun; ``loops`` gives
    the loops that the watchdog observes."""

    def __init__(self) -> None:
        self.role = ""
        self.trouble: str | None = None
        self.loops: Callable[[], Mapping[str, LoopState]] = dict
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, _Histogram]] = {}

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            values = self._values.setdefault(name, {})
            values[labels] = values.get(labels, 0) + by

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values.setdefault(name, {})[labels] = value

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Add to a histogram."""
        index = sum(seconds > bound for bound in BUCKETS_S)
        with self._lock:
            found = self._histograms.setdefault(name, {}).setdefault(labels, _Histogram())
            found.counts[index] += 1
            found.sum += seconds

    def text(self, more: Mapping[str, Mapping[Labels, float]]) -> str:
        """All metrics in Prometheus' format, with ``more`` that was looked up just now."""
        turns: dict[Labels, float] = {(name,): float(each.turns) for name, each in self.loops().items()}
        hung: dict[Labels, float] = {(name,): float(each.hangs) for name, each in self.loops().items()}
        lines: list[str] = []
        with self._lock:
            values: dict[str, Mapping[Labels, float]] = {
                **self._values,
                "fleet_loop_turns_total": turns,
                "fleet_loop_hung": hung,
                **more,
            }
            for name, metric in METRICS.items():
                lines += (f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}")
                for labels, value in sorted(values.get(name, {}).items()):
                    lines.append(f"{name}{_labels(metric.labels, labels)} {value:.15g}")
                for labels, histogram in sorted(self._histograms.get(name, {}).items()):
                    lines += _buckets(name, metric.labels, labels, histogram)
        return "\n".join(lines) + "\n"


def _buckets(name: str, names: Sequence[str], labels: Labels, histogram: _Histogram) -> list[str]:
    total = 0
    lines = []
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), histogram.counts, strict=True):
        total += count
        lines.append(f"{name}_bucket{_labels((*names, 'le'), (*labels, bound))} {total}")
    plain = _labels(names, labels)
    return [*lines, f"{name}_sum{plain} {histogram.sum:.6f}", f"{name}_count{plain} {total}"]


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in values)
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(names, quoted, strict=True)) + "}"

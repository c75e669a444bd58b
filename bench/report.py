"""How a measurement is printed: one table for people, then one line of JSON, and on what it was taken."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from terminal import table


def spread(values: Sequence[float]) -> str:
    """``median (min-max)`` with one decimal; the number alone when there is one value, a dash when there is none."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def machine() -> dict[str, object]:
    """The computer of the measurement: processor, its count, memory (GiB), kernel, distribution, load before, date."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(": ")[2] for line in cpuinfo.splitlines() if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "distribution": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def report(header: Sequence[str], rows: Sequence[Sequence[str]], facts: dict[str, object]) -> None:
    """Print the table, then ``facts`` as one line of JSON."""
    print(table(rows, header))
    print(json.dumps(facts))

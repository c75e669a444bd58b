"""Where the time of a build went: ``osbuild image --timings``."""

from __future__ import annotations

from collections.abc import Mapping

from terminal import table


def describe(total: float, phases: Mapping[str, float], steps: Mapping[str, Mapping[str, float]]) -> str:
    """A table of seconds by phase and, below each, by step; the slowest first, the rest of ``total`` last."""
    rows = []
    for phase, seconds in sorted(phases.items(), key=lambda item: (-item[1], item[0])):
        rows.append(_row(phase, seconds, total))
        inside = steps.get(phase, {})
        rows += [
            _row(f"  {step}", each, total) for step, each in sorted(inside.items(), key=lambda at: (-at[1], at[0]))
        ]
    rows.append(_row("everything else", max(0.0, total - sum(phases.values())), total))
    return table([*rows, _row("total", total, total)], ["phase", "seconds", "share"])


def _row(name: str, seconds: float, total: float) -> list[str]:
    return [name, f"{seconds:.2f}", f"{100 * seconds / total:.0f} %" if total else ""]

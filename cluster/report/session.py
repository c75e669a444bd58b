"""Collects the stories of tests while pytest runs, and writes the page at the end.

Registered as a plugin by ``--cluster-report FILE``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.report.page import render
from cluster.report.story import Story


class Collector:
    """The session's stories, by test."""

    def __init__(self, path: Path) -> None:
        """The page will be the file ``path``."""
        self.path = path
        self._stories: dict[str, Story] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the report of one phase of a test; with pytest-xdist it comes from another process."""
        story = self._stories.setdefault(report.nodeid, {"test": report.nodeid, "outcome": "passed", "phases": []})
        story["phases"].append({"name": report.when or "", "begin": report.start, "end": report.stop})
        if report.failed:
            story["outcome"] = "failed"
            story.setdefault("message", report.longreprtext)
        if (attached := getattr(report, "cluster_story", None)) is not None:
            story["facts"], story["clusters"] = attached["facts"], attached["clusters"]

    @property
    def stories(self) -> list[Story]:
        """Those of tests that used a cluster, in the order of the run."""
        return [story for story in self._stories.values() if "clusters" in story]

    def pytest_sessionfinish(self) -> None:
        """Write the page."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(render(self.stories), "utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where it is."""
        count = len(self.stories)
        terminalreporter.write_line(f"clusters of {count} {'test' if count == 1 else 'tests'}: {self.path}")

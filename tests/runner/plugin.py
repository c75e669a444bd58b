"""A pytest plugin (``-p tests.runner.plugin``): writes down what a run does, and can have it do one test only.

``--record-to FILE`` writes the lines that tests/runner/recording.py describes. ``--alone FILE`` runs the one test whose
id is in FILE, as a JSON string, with whatever other options there are: an id on the command line would be taken apart
at its colons and brackets. Such a run is a look at a run that has been: it writes none of the files that the first run
writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.runner.recording import line, shortened
from tests.runner.verdict import REPEATED_MAX

TEXTS_MAX: Final = 3 * REPEATED_MAX
"""Failures whose texts are kept: three phases of each test that can get a second run. pytest prints all of them."""

NOT_ALONE: Final[dict[str, object]] = {
    "xmlpath": None,
    "basetemp": None,
    "log_file": None,
    "cluster_report": None,
    "pastebin": None,
    "usepdb": False,
    "trace": False,
    "pyargs": False,
    # pytest-xdist's: one test needs no workers.
    "numprocesses": 0,
    "dist": "no",
    "tx": [],
}
"""Options that would write over a file or a folder of the first run, or that make no sense for one test, and what they
are instead.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Our options."""
    group = parser.getgroup("runner", "how scripts/test runs pytest (tests/runner)")
    group.addoption("--record-to", metavar="FILE", help="write down what the run does, one JSON array a line")
    group.addoption("--alone", metavar="FILE", help="run only the test whose id is in FILE, as a JSON string")


def pytest_configure(config: pytest.Config) -> None:
    """Register what records."""
    config.pluginmanager.register(Stopwatch(), "runner-stopwatch")
    # A worker of pytest-xdist only measures; its reports come together in the process that started it.
    if (record := config.getoption("record_to")) is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(
            Recorder(Path(record), whole=config.getoption("alone") is not None), "runner-recorder"
        )


# --- one test alone --------------------------------------------------------------------------------------------------


def _alone(config: pytest.Config) -> str | None:
    """The id of the only test that is to run."""
    name = config.getoption("alone")
    if name is None:
        return None
    nodeid = json.loads(Path(name).read_text("utf-8"))
    assert isinstance(nodeid, str)
    return nodeid


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Before pytest looks at its options: collect the test's file only, and write nothing of the first run's."""
    if (nodeid := _alone(config)) is not None:
        for name, value in NOT_ALONE.items():
            if hasattr(config.option, name):
                setattr(config.option, name, value)
        file = str(config.rootpath / nodeid.partition("::")[0])
        # pytest would take such a name apart. Then all is collected as the first time, and all but one passed over.
        if Path(file).is_file() and "[" not in file and "::" not in file:
            config.args = [file]
    return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Pass over all but the one."""
    if (nodeid := _alone(config)) is not None:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid != nodeid])
        items[:] = [item for item in items if item.nodeid == nodeid]


# --- what is written down --------------------------------------------------------------------------------------------


class Stopwatch:
    """How long the set-up of each fixture takes, without those that it asks for: an attribute of the report, which
    comes through from workers, too.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._inner: list[float] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
        begin = time.perf_counter()
        self._inner.append(0.0)
        try:
            return (yield)
        finally:
            seconds, inner = time.perf_counter() - begin, self._inner.pop()
            if self._inner:
                self._inner[-1] += seconds
            self._seconds[fixturedef.argname] = self._seconds.get(fixturedef.argname, 0.0) + seconds - inner

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        seconds_of = {name: seconds for name, seconds in self._seconds.items() if seconds >= 0.001}
        vars(report)["fixture_seconds"] = seconds_of  # kept on the way from a worker, too
        self._seconds.clear()
        return report


class Recorder:
    """Writes the lines. What was captured is kept of the first failures only, unless ``whole``."""

    def __init__(self, path: Path, *, whole: bool) -> None:
        self._file = path.open("a", encoding="ascii")
        self._whole = whole
        self._failures = 0

    def _write(self, *event: object) -> None:
        self._file.write(line(*event))
        self._file.flush()

    def pytest_sessionstart(self) -> None:
        self._write("begin")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._write("collected", [item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self._write("collected", list(ids))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write("broken", report.nodeid, shortened(report.longreprtext))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write("start", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failures += report.failed
        shown = self._whole or (report.failed and self._failures <= TEXTS_MAX)
        self._write(
            "report",
            {
                "nodeid": report.nodeid,
                "when": report.when,
                "outcome": report.outcome,
                "start": report.start,
                "seconds": report.duration,
                "fixtures": getattr(report, "fixture_seconds", {}),
                "text": shortened(report.longreprtext) if shown else "",
                "sections": [(heading, shortened(text)) for heading, text in report.sections] if shown else [],
            },
        )

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._write("finish", nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        self._write("end")

    def pytest_unconfigure(self) -> None:
        self._file.close()

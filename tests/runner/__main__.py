"""``python -m tests.runner [--strict] [--began SECONDS] [--session WORDS]... -- PYTEST ARGUMENT...``: what scripts/test
runs, and its exit code.

pytest with these arguments, once or once for each ``--session`` (with its words, too), then once more for each test
that failed, in a process of its own; the table of where the time went; the verdict. ``--began`` is when it all began,
in seconds since the epoch.
"""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from terminal.streams import open_closed, say
from tests.runner import timetable, verdict
from tests.runner.process import Foreman
from tests.runner.recording import Recording, shortened
from tests.runner.verdict import REPEATED_MAX, Run, Verdict, Why

LIMIT_FACTOR: Final = 3
LIMIT_S: Final = 900.0
"""A second run may take three times what the test took, and a quarter of an hour for what its module boots: one that
hangs now is no reason to wait for ever, and one that is slow has not failed.
"""

OUTPUT_BYTES_MAX: Final = 1 << 20
"""Looked at, of what a second run printed: its end."""


def main(argv: Sequence[str]) -> int:
    """Run it all; the exit code."""
    own, words = split(argv)
    began = own.began if own.began is not None else time.time()
    open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    with tempfile.TemporaryDirectory(prefix="flotilla-test-") as folder, Foreman() as foreman:
        first = run_all(foreman, words, Path(folder), own.session or [""])
        if first is None:
            return verdict.INTERRUPTED
        names, why = verdict.to_repeat(first, strict=own.strict)
        second = repeat(foreman, words, Path(folder), first, names)
        what = Verdict(first, second, why, interrupted=foreman.heard is not None and why is None)
        if foreman.heard is not None and (what.interrupted or why is Why.INTERRUPTED):
            say(f"{foreman.heard.name} ended the run", sys.stdout)
        report(what, began)
    return what.exit_code


def split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own options, and pytest's arguments, which follow the first ``--``."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(prog="tests.runner", usage=(__doc__ or "").partition(":")[0].strip("`"))
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--began", type=float)
    parser.add_argument("--session", action="append", metavar="WORDS")
    return parser.parse_args(argv[:at]), list(argv[at + 1 :])


def run_all(foreman: Foreman, words: Sequence[str], folder: Path, sessions: Sequence[str]) -> Run | None:
    """pytest with ``words``, printing where we do; None if we were interrupted before it began.

    Once for each of ``sessions``, with those words, too, as a shell splits them. What ends a session before its time is
    the end of the run.
    """
    runs: list[Run] = []
    for session in sessions:
        done = _run(foreman, folder, [*shlex.split(session), *words])
        if done is None:
            break
        runs.append(done)
        if done.interrupted or done.code not in (verdict.PASSED, verdict.FAILED):
            break
    return verdict.together(runs) if runs else None


def run_alone(foreman: Foreman, words: Sequence[str], folder: Path, nodeid: str, first: Run) -> Run | None:
    """The same for one test of ``first``, with the seed that it had, if it printed one; quietly."""
    alone, output = folder / "alone", folder / "output"
    alone.write_text(json.dumps(nodeid), encoding="ascii")
    # What the first run left in pytest's cache and in the folders of failed tests stays.
    options = [f"cache_dir={folder / 'cache'}", f"tmp_path_retention_count={REPEATED_MAX + 3}"]
    ours = [f"--alone={alone}", *(word for option in options for word in ("-o", option))]
    reports = first.recording.of(nodeid)
    seed = verdict.seed_of(reports)
    return _run(
        foreman,
        folder,
        [*ours, *words],
        output,
        LIMIT_S + LIMIT_FACTOR * sum(report.seconds for report in reports),
        {} if seed is None else {"FLOTILLA_SEED": seed},
    )


def _run(
    foreman: Foreman,
    folder: Path,
    words: Sequence[str],
    output: Path | None = None,
    limit_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run | None:
    record = folder / "record"
    record.write_bytes(b"")
    begin = time.time()
    # Ours come first: the user's may end with "--" and paths.
    command = [sys.executable, "-m", "pytest", "-p", "tests.runner.plugin", f"--record-to={record}", *words]
    ended = foreman.run(command, output=output, limit_s=limit_s, environment=environment)
    if ended is None:
        return None
    return Run(
        recording=Recording.read(record.read_text("ascii")),
        code=ended.code,
        begin=begin,
        seconds=ended.seconds,
        interrupted=ended.interrupted,
        limit_s=limit_s if ended.timed_out else None,
        output="" if output is None else _end(output),
    )


def _end(output: Path) -> str:
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - OUTPUT_BYTES_MAX))
        return shortened(file.read().decode("utf-8", errors="replace"))


def repeat(foreman: Foreman, words: Sequence[str], folder: Path, first: Run, names: Sequence[str]) -> dict[str, Run]:
    """A run of each of ``names`` alone; fewer if we are interrupted."""
    second: dict[str, Run] = {}
    for number, nodeid in enumerate(names, 1):
        say(f"second run, {number} of {len(names)}: {verdict.one_line(nodeid)}", sys.stdout)
        done = run_alone(foreman, words, folder, nodeid, first)
        if done is None or done.interrupted:
            break
        second[nodeid] = done
        say(f"  {done.of(nodeid).value} ({done.seconds:.1f} s)", sys.stdout)
    return second


def report(what: Verdict, began: float) -> None:
    """Print what there is to say; where no test ran, pytest has said it."""
    if not what.first.has_tests:
        return
    table = timetable.lines(timetable.rows(what.first, what.second.values(), began, time.time()))
    for line in ["", *what.lines(), *table, "", *what.summary(), what.closing]:
        say(line, sys.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``python -m tests.runner [--strict] [--began SECONDS] -- PYTEST ARGUMENT...``: what scripts/test runs, and its exit code.

pytest once with these arguments, then once more for each test that failed, in a process of its own; the table of where the time went; the
verdict. ``--began`` is when it all began, in seconds since the epoch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from terminal.streams import open_closed, say
from tests.runner import timetable, verdict
from tests.runner.process import Foreman
from tests.runner.recording import Recording, shortened
from tests.runner.verdict import REPEATED_MAX, Run, Verdict

LIMIT_FACTOR: Final = 3
LIMIT_S: Final = 900.0
"""A second run may take three times what the test took, and a quarter of an hour for what its module boots: one that hangs now is no reason to
wait for ever, and one that is slow has not failed."""


def main(argv: Sequence[str]) -> int:
    """Run it all; the exit code."""
    own, words = split(argv)
    began = own.began if own.began is not None else time.time()
    open_closed()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with tempfile.TemporaryDirectory(prefix="flotilla-test-") as folder, Foreman() as foreman:
        first = run(foreman, words, Path(folder))
        if first is None:
            return verdict.INTERRUPTED
        names, why = verdict.to_repeat(first, strict=own.strict)
        second = repeat(foreman, words, Path(folder), first, names)
        interrupted = foreman.is_interrupted and why is None
        tell(Verdict(first, second, why, interrupted), began)
    return Verdict(first, second, why, interrupted).exit_code


def split(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own options, and pytest's arguments, which follow the first ``--``."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(prog="tests.runner", usage=(__doc__ or "").partition(":")[0].strip("`"))
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--began", type=float)
    return parser.parse_args(argv[:at]), list(argv[at + 1 :])


def run(
    foreman: Foreman, words: Sequence[str], folder: Path, nodeid: str | None = None, limit_s: float | None = None
) -> Run | None:
    """pytest with ``words``, for all tests or for one alone; None if there was no time for it to begin."""
    record, alone, output = folder / "record", folder / "alone", folder / "output"
    record.write_bytes(b"")
    # Ours come first: the user's may end with "--" and paths.
    ours = ["-p", "tests.runner.plugin", f"--record-to={record}"]
    if nodeid is not None:
        alone.write_text(json.dumps(nodeid), encoding="ascii")
        # What the first run left in pytest's cache and in the folders of failed tests stays.
        ours += [
            f"--alone={alone}",
            "-o",
            f"cache_dir={folder / 'cache'}",
            "-o",
            f"tmp_path_retention_count={REPEATED_MAX + 3}",
        ]
    sys.stdout.flush()
    begin = time.time()
    command = [sys.executable, "-m", "pytest", *ours, *words]
    ended = foreman.run(command, output=None if nodeid is None else output, limit_s=limit_s)
    if ended is None:
        return None
    return Run(
        Recording.read(record.read_text("ascii")),
        ended.code,
        begin,
        ended.seconds,
        ended.interrupted,
        limit_s if ended.timed_out else None,
        "" if nodeid is None else shortened(output.read_text("utf-8", errors="replace")),
    )


def repeat(foreman: Foreman, words: Sequence[str], folder: Path, first: Run, names: Sequence[str]) -> dict[str, Run]:
    """A run of each of ``names`` alone; fewer if we are interrupted."""
    second: dict[str, Run] = {}
    for number, nodeid in enumerate(names, 1):
        say(f"second run, {number} of {len(names)}: {verdict.one_line(nodeid)}", sys.stdout)
        took = sum(report.seconds for report in first.recording.of(nodeid))
        done = run(foreman, words, folder, nodeid, LIMIT_S + LIMIT_FACTOR * took)
        if done is None or done.interrupted:
            break
        second[nodeid] = done
        say(f"  {done.of(nodeid).value} ({done.seconds:.1f} s)", sys.stdout)
    return second


def tell(what: Verdict, began: float) -> None:
    """Print what there is to say; where no test ran, pytest has said it."""
    if not what.first.has_tests:
        return
    table = timetable.lines(timetable.rows(what.first, what.second.values(), began, time.time()))
    for line in ["", *what.lines(), *table, "", *what.summary(), what.closing]:
        say(line, sys.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Progress by phase: a live display on a terminal, one plain line a phase elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.status import Status


class Phases:
    """Tells on stderr which phase is running, how long it took, and the last detail of it.

    On a terminal the running phase is a spinner with its detail; otherwise (a pipe, ``CI``, ``TERM=dumb``) each phase prints
    one line when it begins and one when it ends, so that a log tells which phase hung. ``NO_COLOR`` is honoured.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._live = (
            not quiet
            and self._stream.isatty()
            and "CI" not in os.environ
            and os.environ.get("TERM", "") not in ("", "dumb")
        )
        self._status: Status | None = None
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Show ``title`` while the block runs; its seconds are kept in :attr:`seconds`."""
        begin = time.monotonic()
        self._begin(title)
        mark = "failed"
        try:
            yield
            mark = "done"
        finally:
            self.seconds[title] = time.monotonic() - begin
            self._end(title, mark, self.seconds[title])

    def detail(self, text: str) -> None:
        """Say what the running phase is at; on a pipe it is not printed, so call it as often as you like."""
        if self._status is not None:
            self._status.update(f"{self._title}: {text}")

    def line(self, text: str) -> None:
        """Print one line that stays."""
        if not self._quiet:
            print(text, file=self._stream, flush=True)

    def _begin(self, title: str) -> None:
        self._title = title
        if self._live:
            from rich.console import Console

            self._status = Console(file=self._stream, highlight=False).status(title)
            self._status.start()
        else:
            self.line(f"... {title}")

    def _end(self, title: str, mark: str, seconds: float) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
        self.line(f"{'ok ' if mark == 'done' else '!! '} {title} ({seconds:.1f} s)")

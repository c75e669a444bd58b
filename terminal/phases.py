"""Progress by phase: a live line on a terminal, one plain line a phase elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from terminal.spans import Recorder, Span
from terminal.streams import say

_TICK_S = 0.1
_SPINNER = "|/-\\"
_ERASE_LINE = "\r\x1b[K"


class Phases:
    """Shows on stderr which phase is running, how long it takes, and its last detail.

    On a terminal the innermost running phase is a live line with its detail and its seconds; otherwise (a pipe, ``CI``,
    ``TERM=dumb``) each phase prints one line when it begins and one when it ends, so that a log shows which phase hung.
    No colour is used, so there is none to turn off. Phases nest. :meth:`detail` and :meth:`line` may be called from any
    thread.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        """Write to ``stream`` (stderr); ``quiet`` writes nothing and only keeps :attr:`seconds`."""
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._live = (
            not quiet
            and self._stream.isatty()
            and "CI" not in os.environ
            and os.environ.get("TERM", "") not in ("", "dumb")
        )
        self._lock = threading.Lock()
        self._running: list[_Running] = []
        self._recorder = Recorder()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, title: str) -> Iterator[None]:
        """Show ``title`` while the block runs; its seconds are kept in :attr:`seconds`, if it fails, too."""
        running = _Running(title)
        with self._lock:
            self._running.append(running)
        if not self._live:
            self.line(f"... {title}")
        elif len(self._running) == 1:
            self._stop = threading.Event()
            self._painter = threading.Thread(target=self._paint_until, args=(self._stop,), daemon=True)
            self._painter.start()
        mark = "!! "
        try:
            with self._recorder.span(title):
                yield
            mark = "ok "
        finally:
            self.seconds[title] = time.monotonic() - running.begin
            with self._lock:
                self._running.remove(running)
                last = not self._running
            if self._live and last:
                self._stop.set()
                self._painter.join()
            self.line(f"{mark} {title} ({self.seconds[title]:.1f} s)")

    @contextmanager
    def step(self, title: str, what: str = "", *, below: tuple[str, ...] | None = None) -> Iterator[None]:
        """A part of the running phase, in any thread: shown as its detail, and recorded.

        ``what`` distinguishes it from others of this title.

        A thread that works while the main one goes on to other steps passes ``below`` to say where all of its own
        belong (:meth:`here`).
        """
        self.detail(f"{title} {what}".rstrip())
        with self._recorder.span(title, what, below=below):
            yield

    def here(self) -> tuple[str, ...]:
        """The names of the spans that this thread is in, outermost first."""
        return self._recorder.here()

    def spans(self) -> list[Span]:
        """The phases and steps that have ended, by their beginning."""
        return self._recorder.spans()

    def detail(self, text: str) -> None:
        """Set the detail of the running phase; on a pipe it is not printed, so call it as often as you like."""
        with self._lock:
            if self._running:
                self._running[-1].detail = text

    def line(self, text: str) -> None:
        """Print one line that stays."""
        if self._quiet:
            return
        with self._lock:
            say(f"{_ERASE_LINE}{text}" if self._live else text, self._stream)

    def _paint_until(self, stop: threading.Event) -> None:
        tick = 0
        while not stop.wait(_TICK_S):
            tick += 1
            with self._lock:
                if self._running:
                    self._stream.write(_ERASE_LINE + self._running[-1].live_line(tick))
                    self._stream.flush()


class _Running:
    """A phase that has begun and not ended."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.detail = ""
        self.begin = time.monotonic()

    def live_line(self, tick: int) -> str:
        """One line no wider than the terminal: a wrapped line could not be erased."""
        seconds = f"{time.monotonic() - self.begin:.0f} s"
        text = f"{_SPINNER[tick % len(_SPINNER)]}   {self.title} ({seconds})" + (
            f": {self.detail}" if self.detail else ""
        )
        return text.replace("\n", " ")[: max(20, shutil.get_terminal_size().columns - 1)]

"""Named spans of time: what ran when, inside which span, and in which thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol


class Step(Protocol):
    """Runs around each step of some work, to show and to time it.

    A step has a title; ``what`` distinguishes it from others of that title.

    :meth:`terminal.Phases.step` is one, :func:`untimed` another.
    """

    def __call__(self, title: str, what: str = "", /) -> AbstractContextManager[None]: ...


def untimed(title: str, what: str = "", /) -> AbstractContextManager[None]:  # noqa: ARG001 - that is its point
    """A :class:`Step` that does nothing."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch, from ``begin`` to ``end`` in seconds since its :class:`Recorder` was made.

    ``path`` are the names from the outermost to its own; ``detail`` distinguishes it from others of that path. ``lane``
    is 0 in the thread that made the recorder; a span of another thread lies below the one that lane 0 was in when it
    began, unless another one was given. ``depth`` counts the spans around it in its lane.
    """

    path: tuple[str, ...]
    detail: str
    begin: float
    end: float
    lane: int
    depth: int

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


class Recorder:
    """Records spans from any number of threads. A lane is free again when the outermost span of its thread ends, so
    that a pool of two threads needs two lanes, however often it is recreated."""

    def __init__(self) -> None:
        self._zero = time.monotonic()
        self._home = threading.get_ident()
        self._guard = threading.Lock()
        self._open: dict[int, list[tuple[str, ...]]] = {self._home: []}
        self._lanes: dict[int, int] = {self._home: 0}
        self._ended: list[Span] = []

    def here(self) -> tuple[str, ...]:
        """The path of the span that this thread is in; empty in none."""
        with self._guard:
            around = self._open.get(threading.get_ident())
            return around[-1] if around else ()

    @contextmanager
    def span(self, name: str, detail: str = "", *, below: tuple[str, ...] | None = None) -> Iterator[None]:
        """Record the block, if it fails, too.

        The outermost one of another thread lies ``below`` that path, if one is given."""
        thread = threading.get_ident()
        with self._guard:
            around = self._open.setdefault(thread, [])
            if thread not in self._lanes:
                self._lanes[thread] = min(set(range(1, len(self._lanes) + 1)) - set(self._lanes.values()))
            outer = around or ([below] if below is not None else self._open[self._home])
            path = (*(outer[-1] if outer else ()), name)
            lane, depth = self._lanes[thread], len(around)
            around.append(path)
        begin = time.monotonic()
        try:
            yield
        finally:
            end = time.monotonic()
            with self._guard:
                around.pop()
                if not around and thread != self._home:
                    del self._open[thread], self._lanes[thread]
                self._ended.append(Span(path, detail, begin - self._zero, end - self._zero, lane, depth))

    def spans(self) -> list[Span]:
        """All that have ended, by their beginning, the outer ones first."""
        with self._guard:
            return sorted(self._ended, key=lambda span: (span.begin, span.lane, span.depth))

"""Where the time of a build went: ``osbuild image --timings``, and ``timings.html``.

The page lies beside the artifacts but is not one of them: two builds with equal bytes take different times, so the
manifest does not list it and ``osbuild verify`` does not look at it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from builder.core import page
from terminal import Span, table

NAME: Final = "timings.html"

REST: Final = "everything else"


@dataclass(frozen=True, slots=True)
class Row:
    """All spans of one path: ``count`` of them, and the ``seconds`` in which at least one was running."""

    path: tuple[str, ...]
    seconds: float
    count: int


def rows(spans: Sequence[Span]) -> Iterator[Row]:
    """The spans by path, each below the one that it is part of, the slowest first."""
    of_path: dict[tuple[str, ...], list[Span]] = {}
    for span in spans:
        of_path.setdefault(span.path, []).append(span)
    seconds = {path: busy(some) for path, some in of_path.items()}

    def below(path: tuple[str, ...]) -> Iterator[Row]:
        inside = [each for each in of_path if each[:-1] == path]
        for each in sorted(inside, key=lambda each: (-seconds[each], each)):
            yield Row(each, seconds[each], len(of_path[each]))
            yield from below(each)

    return below(())


def busy(spans: Sequence[Span]) -> float:
    """The seconds in which at least one of ``spans`` was running: simultaneous work of several threads counts once."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.begin):
        total += max(0.0, span.end - max(span.begin, until))
        until = max(until, span.end)
    return total


def describe(total: float, spans: Sequence[Span]) -> str:
    """A table of seconds by phase and, below each, by step; the slowest first, the rest of ``total`` last."""
    return table(
        [["  " * depth + name, *rest] for depth, name, *rest in _lines(total, spans)],
        ["phase", "seconds", "share", "times"],
    )


def _lines(total: float, spans: Sequence[Span]) -> Iterator[tuple[int, str, str, str, str]]:
    """Depth, name, seconds, share, count for each line of the table."""
    for row in rows(spans):
        count = str(row.count) if row.count > 1 else ""
        yield len(row.path) - 1, row.path[-1], f"{row.seconds:.3f}", _share(row.seconds, total), count
    rest = max(0.0, total - busy([span for span in spans if len(span.path) == 1]))
    yield 0, REST, f"{rest:.3f}", _share(rest, total), ""
    yield 0, "total", f"{total:.3f}", _share(total, total), ""


def _share(seconds: float, total: float) -> str:
    return f"{100 * seconds / total:.0f} %" if total else ""


def write(folder: Path, title: str, total: float, spans: Sequence[Span]) -> None:
    """Write the page about a build of ``total`` seconds into ``folder``, under :data:`NAME`."""
    (folder / NAME).write_text(render(title, total, spans), "utf-8")


def render(title: str, total: float, spans: Sequence[Span]) -> str:
    """The page: a flame chart of ``spans``, and the table of :func:`describe`."""
    body = _BODY.format(
        title=escape(title),
        summary=f"built in {total:.2f} s",
        table=page.table(
            ["phase", "seconds", "share", "times"],
            # Em spaces: HTML ignores plain ones at the beginning.
            [["\u2003" * depth + name, *rest] for depth, name, *rest in _lines(total, spans)],
            (1, 2, 3),
        ),
    )
    data = {
        "title": title,
        "total": max([total, *(span.end for span in spans)]),
        "spans": [
            [span.path, span.detail, round(span.begin, 5), round(span.end, 5), span.lane, span.depth] for span in spans
        ],
    }
    return page.page("timings", f"Timings of {title}", body, data)


_BODY: Final = """\
<header>
<h1>{title}</h1>
<p>{summary}</p>
</header>
<main>
<div id="explorer" hidden>
<ol id="trail" class="trail" aria-label="where you are"></ol>
<div id="axis" aria-hidden="true"></div>
<div id="chart" class="stage" role="group" aria-label="flame chart"></div>
<p id="description" class="description" aria-live="polite"></p>
<p class="hint">Time runs to the right, what is inside a step lies below it. Click to zoom in, Escape to see all, arrows to move by keyboard.</p>
</div>
<noscript><p>The chart needs scripts, which are switched off here; the table says the same in words.</p></noscript>
<div class="tables">
<section>
<h2>Seconds by phase and step</h2>
{table}
</section>
</div>
</main>"""

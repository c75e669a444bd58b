"""The page of a session.

For each test that used a cluster it has the timeline as a drawing and as a table, and the nodes' evidence. Pure.

It is one file that fetches nothing (:mod:`builder.core.page`), and shows all of its content without scripts, too.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from builder.core import page
from cluster.model.timeline import Event
from cluster.report.bars import Bar, Point, bars, points, rows
from cluster.report.story import ClusterStory, Story

PARTS: Final = Path(__file__).parent / "pages"
ROW, NAME_HEIGHT, GAP, AXIS = 20, 18, 8, 22
"""Pixels: of a bar, of a lane's name, between lanes, of the axis."""
TICKS_MAX = 10
LEGEND: Final = (
    '<span class="power">\u25cf</span> switched on or off, <span class="mark">\u25cf</span> mark, '
    '<span class="found">\u25cf</span> found in console or journal'
)
COMMANDS: Final = ("reproduce",)


def render(stories: Sequence[Story]) -> str:
    """The page about ``stories``, failed tests first."""
    ordered = sorted(stories, key=lambda story: story["outcome"] != "failed")
    failed = sum(story["outcome"] == "failed" for story in stories)
    count = f"{len(stories)} {'test' if len(stories) == 1 else 'tests'} on clusters"
    body = "\n".join(
        [
            f"<header>\n<h1>{count}</h1>\n<p>{failed} failed</p>\n</header>\n<main>",
            *map(_article, ordered),
            "</main>",
        ]
    )
    return page.page("stories", count, body, {}, PARTS)


def _article(story: Story) -> str:
    failed = story["outcome"] == "failed"
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd class={'command' if name in COMMANDS else 'fact'}>{escape(value)}</dd>"
        for name, value in story.get("facts", {}).items()
    )
    message = f"<pre>{escape(story['message'])}</pre>" if "message" in story else ""
    clusters = "\n".join(_cluster(story, cluster, failed) for cluster in story["clusters"])
    return (
        f'<article class="{escape(story["outcome"])}">\n'
        f'<h2>{escape(story["test"])} <span class="outcome">{escape(story["outcome"])}</span></h2>\n'
        f"<dl>{facts}</dl>\n{message}\n{clusters}\n</article>"
    )


def _cluster(story: Story, cluster: ClusterStory, failed: bool) -> str:
    events = [
        Event(event["t"], event["kind"], event["what"], tuple(event["nodes"]), event["id"])
        for event in cluster["events"]
    ]
    begin, end = _span(story)
    parts = [
        f"<figure>\n<figcaption>cluster {escape(cluster['name'])}, from {_clock(begin)} (UTC), in seconds; {LEGEND}</figcaption>\n",
        _drawing(story, cluster, events),
        "</figure>\n",
        _details("what happened", _table(events, begin, end), is_open=False),
    ]
    for finding in cluster["findings"]:
        head = f"{finding['kind']} on {finding['node']} ({finding['source']}): {finding['text']}"
        parts.append(_details(head, f"<pre>{escape(chr(10).join(finding['context']))}</pre>", is_open=failed))
    for node in cluster["evidence"]:
        texts = [("console", node["console"]), ("failed units", node["units"] or "none"), ("etcd", node["etcd"])]
        inside = "".join(f"<h3>{title}</h3><pre>{escape(text)}</pre>" for title, text in texts if text)
        parts.append(_details(f"{node['name']}: {node['state']}", inside, is_open=False))
    return "\n".join(parts)


def _details(summary: str, inside: str, *, is_open: bool) -> str:
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>{inside}</details>"


def _table(events: Sequence[Event], begin: float, end: float) -> str:
    rows = [
        [f"{event.t - begin:+.1f}", event.kind, event.what, ", ".join(f"node-{number}" for number in event.nodes)]
        for event in events
        if begin <= event.t <= end
    ]
    return page.table(["seconds", "", "what", "nodes"], rows, (0,))


def _span(story: Story) -> tuple[float, float]:
    """From the first phase's begin to the last one's end."""
    phases = story["phases"]
    begin, end = min(phase["begin"] for phase in phases), max(phase["end"] for phase in phases)
    return begin, max(end, begin + 0.001)


def _drawing(story: Story, cluster: ClusterStory, events: Sequence[Event]) -> str:
    """One lane for the test and the whole cluster, one for each node; x in percent, so that it fits any width."""
    begin, end = _span(story)

    def at(t: float) -> float:
        return round(100 * (min(max(t, begin), end) - begin) / (end - begin), 3)

    drawn: list[str] = []
    height = 0
    faults = [bar for bar in bars(events) if bar.begin < end and (bar.end is None or bar.end > begin)]
    marks = [point for point in points(events) if begin <= point.at <= end]
    call_end = max((phase["end"] for phase in story["phases"] if phase["name"] == "call"), default=end)
    for number, name in enumerate(["test", *cluster["nodes"]]):
        own = [bar for bar in faults if (number in bar.nodes if number else not bar.nodes)]
        if not number:
            own = [*(Bar(phase["name"], (), phase["begin"], phase["end"]) for phase in story["phases"]), *own]
        found = [point for point in marks if (number in point.nodes if number else not point.nodes)]
        found += [
            Point("found", f"{finding['kind']}: {finding['text']}", (number,), finding["t"] or call_end)
            for finding in cluster["findings"]
            if finding["node"] == name
        ]
        chosen = rows(own, end)
        count = max(chosen, default=-1) + 1
        drawn.append(f'<text class="lane-name" x="6" y="{height + NAME_HEIGHT - 5}">{escape(name)}</text>')
        top = height + NAME_HEIGHT
        for bar, row in zip(own, chosen, strict=True):
            is_phase = not number and any(phase["begin"] == bar.begin for phase in story["phases"])
            drawn.append(_bar(bar, at, top + row * ROW, begin, "phase" if is_phase else "fault"))
        height = top + count * ROW
        drawn += [_point(point, at(point.at), height + 6, begin) for point in found]
        height += (12 if found else 0) + GAP
    grid = "".join(
        f'<line class="grid" x1="{at(begin + tick)}%" x2="{at(begin + tick)}%" y1="0" y2="{height}"/>'
        f'<text class="lane-name" x="{at(begin + tick)}%" y="{height + AXIS - 7}" dx="3">{tick:g}</text>'
        for tick in ticks(end - begin)
    )
    return (
        f'<svg class="lanes" height="{height + AXIS}" role="img" aria-label="timeline of {escape(cluster["name"])}">\n'
        f"{grid}\n" + "\n".join(drawn) + "\n</svg>\n"
    )


def ticks(seconds: float) -> list[float]:
    """Round numbers from 0 to below ``seconds``, not more than fit."""
    unit = 0.001
    while seconds / unit > TICKS_MAX:
        unit *= 10
    unit = next(unit * part for part in (0.1, 0.2, 0.5, 1) if seconds / (unit * part) <= TICKS_MAX)
    return [round(number * unit, 6) for number in range(int(seconds / unit) + 1) if number * unit < seconds]


def _bar(bar: Bar, at: Callable[[float], float], y: int, begin: float, kind: str) -> str:
    left, right = at(bar.begin), at(bar.end) if bar.end is not None else 100.0
    until = f"to {bar.end - begin:.1f} s" if bar.end is not None else "to the end"
    tip = escape(f"{bar.what}\nfrom {bar.begin - begin:.1f} s {until}", quote=True)
    # A viewport of its own cuts off a text that is longer than its bar.
    return (
        f'<svg class="{kind}" x="{left}%" y="{y}" width="{max(round(right - left, 3), 0.15)}%" height="{ROW - 2}" data-tip="{tip}"'
        f' tabindex="0"><rect width="100%" height="100%" rx="3" data-what="{escape(bar.what, quote=True)}"/><text x="5" y="13">{escape(bar.what)}</text></svg>'
    )


def _point(point: Point, x: float, y: int, begin: float) -> str:
    tip = escape(f"{point.what}\n{point.kind} at {point.at - begin:.1f} s", quote=True)
    return f'<circle class="{escape(point.kind)}" cx="{x}%" cy="{y}" r="5" data-tip="{tip}" tabindex="0"/>'


def _clock(t: float) -> str:
    return dt.datetime.fromtimestamp(t, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")

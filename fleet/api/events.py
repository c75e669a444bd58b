"""``GET /events``: the log of events, from a revision on, and a wait for more of it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from fleet.api import shapes
from fleet.model.eventlog import EventLog, Page
from fleet.model.events import Batch, Event
from terminal import Failure

FOLLOWERS_MAX = 16
"""Clients that may wait at the same time: each has a connection of ours, of which there are 64, and a watch of etcd."""

WAIT_S_MAX = 30.0


class Busy(Failure):
    """So many clients wait already: HTTP 503."""

    def __init__(self) -> None:
        super().__init__(f"{FOLLOWERS_MAX} clients follow the events already", hint="ask the fleetd of another node")


@dataclass(frozen=True, slots=True)
class EventsRequest:
    """What a client wants: events after ``after`` (0: all), or, if there is none, of the next ``wait_s`` seconds.

    Only those of ``unit``, of ``machine`` (the beginning of its id; the one before counts, too), "" for any, and only
    those since ``since`` (Unix seconds)."""

    after: int = 0
    wait_s: float = 0.0
    unit: str = ""
    machine: str = ""
    since: float = 0.0

    @classmethod
    def parse(cls, one: Callable[[str], str]) -> EventsRequest:
        """Read a query, of which ``one`` gives a field ("" for none). Raises :class:`shapes.BadRequest`."""
        after = one("after") or "0"
        if not (after.isascii() and after.isdigit() and len(after) < 19):
            raise shapes.BadRequest("after is no revision")
        wait_s = min(_seconds("wait", one("wait")), WAIT_S_MAX)
        return cls(int(after), wait_s, one("unit"), one("machine"), _seconds("since", one("since")))

    def wants(self, batch: Batch, event: Event) -> bool:
        """Whether ``event`` of ``batch`` is one of those."""
        return (
            batch.at >= self.since
            and self.unit in ("", event.unit)
            and (
                event.machine.startswith(self.machine) or (event.former != "" and event.former.startswith(self.machine))
            )
        )


class Events:
    """Answers such requests. Thread-safe."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._waiting = threading.BoundedSemaphore(FOLLOWERS_MAX)

    def answer(self, wanted: EventsRequest) -> Mapping[str, object]:
        """The JSON of the answer. Raises :class:`Busy` and :class:`etcd.errors.EtcdError`."""
        page = self._log.after(wanted.after) if not (wanted.after and wanted.wait_s) else self._follow(wanted)
        rows = list(_rows(page, wanted))
        answer: dict[str, object] = {"revision": page.revision}
        if rows:
            answer["events"] = rows
        if page.is_torn:
            answer["torn"] = True
        return answer

    def _follow(self, wanted: EventsRequest) -> Page:
        if not self._waiting.acquire(blocking=False):
            raise Busy
        try:
            until = time.monotonic() + wanted.wait_s
            after = wanted.after
            while True:
                page = self._log.follow(after, max(0.0, until - time.monotonic()))
                after = page.revision
                if page.is_torn or time.monotonic() >= until or any(_rows(page, wanted)):
                    return page
        finally:
            self._waiting.release()


def _rows(page: Page, wanted: EventsRequest) -> Iterator[shapes.Json]:
    for batch in page.batches:
        for event in batch.events:
            if wanted.wants(batch, event):
                yield shapes.event(batch, event)


def _seconds(name: str, text: str) -> float:
    try:
        found = float(text or "0")
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise shapes.BadRequest(f"{name} is no number of seconds")
    return found

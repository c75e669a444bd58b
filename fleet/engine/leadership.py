"""The engine's threads: one that steps, and one that keeps the leader's lease while the other reads and plans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from etcd.protocol import Etcd
from fleet.engine.engine import Engine
from fleet.model.live import Live
from fleet.model.registry import Registry
from fleet.model.watch import Delivered, Feed, Inbox, Lost, hand

GATHER_S = 0.02
"""A follower has no haste, and to take events one by one costs it twice the time."""


def _unobserved() -> None:
    """No one counts the rounds."""


class Leadership:
    """One machine's engine at work. ``stepped`` and ``kept`` are called after each round of its two loops; the other
    arguments are those of :class:`fleet.engine.engine.Engine`.
    """

    def __init__(
        self,
        registry: Registry,
        machine: str,
        *,
        ttl_s: int,
        agent_ttl_s: float,
        keeper: Etcd | None = None,
        live: Live | None = None,
        stepped: Callable[[], None] = _unobserved,
        kept: Callable[[], None] = _unobserved,
    ) -> None:
        self._engine = Engine(registry, machine, ttl_s=ttl_s, agent_ttl_s=agent_ttl_s, keeper=keeper, live=live)
        self._vitals = registry.vitals
        self._stepped = stepped
        self._kept = kept
        self._inbox: Inbox[Delivered | Lost | None] = Inbox()
        self._feed = Feed(registry.client, self._inbox.post)
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        if live is not None:
            live.wake = lambda: self._inbox.post(None)

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Begin; ``failed`` is called with a bug, which must end the daemon and not just one of its threads."""

        def run(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:
                failed(error)

        for name, work in (("engine", self._lead), ("lease", self._keep)):
            self._threads.append(threading.Thread(target=run, args=(work,), name=name, daemon=True))
            self._threads[-1].start()

    def stop(self) -> None:
        """End both threads after their current step, and let another engine lead at once."""
        self._stopping.set()
        self._inbox.post(None)
        for thread in self._threads:
            thread.join()
        self._feed.follow(None)
        self._engine.resign()

    def _lead(self) -> None:
        while not self._stopping.is_set():
            begin = time.monotonic()
            due = self._engine.step(begin)
            self._stepped()
            self._vitals.observe("fleet_engine_step_seconds", time.monotonic() - begin)
            self._vitals.role = self._engine.role
            self._vitals.set("fleet_engine_evictions_limited", self._engine.limits_evictions)
            self._feed.follow(self._engine.subscription)
            if not self._engine.is_leading:
                self._stopping.wait(GATHER_S)
            for message in self._inbox.take(due):
                if message is not None:
                    hand(self._engine, message)

    def _keep(self) -> None:
        due = 0.0
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            due = self._engine.keep(time.monotonic())
            self._kept()

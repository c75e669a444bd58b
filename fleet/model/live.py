"""The view of the whole prefix that one fleetd keeps by a watch, shared by its engine and its HTTP API.

The engine feeds it, in its own thread, as long as it leads, stands by, or the API is in use (:meth:`Live.is_wanted`).
Readers look at it under a lock, and take values out of it: those never change.

*How fresh it is.* A reader first asks etcd for its revision (:meth:`fleet.model.registry.Registry.revision`), which
also says whether etcd is there, and then waits until the view contains that revision. So an answer contains all that
any client wrote before its request. There is one exception: keys that are not fleet's raise the revision, too, and no watch
of fleet's prefix reports them. So a view that receives nothing for :data:`QUIET_S` counts as up to date, and one whose
watch is slower than that may be older by as much as its watch is behind. What was written through this fleetd is waited
for in any case.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fleet.model.overview import Overview
from fleet.model.registry import Registry

KEPT_S = 60.0
"""Seconds that the view is kept after the last request for it."""

ASKED = 3
QUIET_S = 0.1
PATIENCE_S = 2.0
"""Seconds that a reader waits. Then it has to ask etcd."""


class Live:
    """See the module. Thread-safe. ``wake`` is called when a reader begins to want the view."""

    def __init__(self, registry: Registry, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._registry = registry
        self._clock = clock
        self._changed = threading.Condition()
        self._view: Overview | None = None
        self._quiet_at = 0
        self._asked = [float("-inf")] * ASKED

    # The engine's side

    def is_wanted(self, now: float) -> bool:
        """Whether :data:`ASKED` requests for all of it have come in a minute, or one, when there is a view.

        To make a view costs more than a list, and delays those that come meanwhile."""
        last, first = self._asked[0], self._asked[-1]
        return now < last + KEPT_S and (self._view is not None or last < first + KEPT_S)

    def show(self, view: Overview | None) -> None:
        """Readers have this view from now on; ``None``: there is none, or it is not fed at the moment."""
        with self._changed:
            if view is not self._view:
                self._view = view
                self._quiet_at = 0
                self._changed.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The view is changed in this block."""
        with self._changed:
            yield
            self._changed.notify_all()

    # The readers' side

    @property
    def has_view(self) -> bool:
        """Whether there is one, however old."""
        return self._view is not None

    @contextmanager
    def glance(self) -> Iterator[Overview | None]:
        """The view as it is, which does not change in this block; ``None`` when there is none. Asks for nothing."""
        with self._changed:
            yield self._view

    @contextmanager
    def reading(self, *, all_of_it: bool = False) -> Iterator[Overview | None]:
        """The view, which does not change in this block, or ``None`` when there is none that is fresh enough: then the
        block reads etcd. ``all_of_it``: that takes long, so that a view may be worth its price.

        Raises what :meth:`Registry.revision` does, when etcd cannot be reached."""
        if self._view is not None:
            revision, ours = self._registry.revision(), self._registry.written
            with self._changed:
                if self._contains(revision, ours):
                    if all_of_it:
                        self._note()
                    yield self._view
                    return
        yield None
        if all_of_it:
            self._ask()  # not before: two that read everything at once take twice as long

    def _ask(self) -> None:
        with self._changed:
            self._note()
            is_wanted = self.is_wanted(self._asked[0])
        if is_wanted:
            self.wake()

    def _note(self) -> None:
        self._asked = [self._clock(), *self._asked[:-1]]

    def _contains(self, revision: int, ours: int) -> bool:
        """Wait until the view contains ``ours`` and, unless nothing comes, ``revision``. Its lock is held."""

        view, begin = self._view, time.monotonic()
        heard, heard_at = 0, begin
        while view is not None and view is self._view:
            if view.revision >= ours and max(view.revision, self._quiet_at) >= revision:
                return True
            now = time.monotonic()
            if view.revision > heard:
                heard, heard_at = view.revision, now
            if now >= begin + PATIENCE_S:
                return False
            if heard >= ours and now >= heard_at + QUIET_S:
                self._quiet_at = revision
            else:
                self._changed.wait(QUIET_S)
        return False

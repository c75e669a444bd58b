"""Watches as data: a loop says which keys it wants to follow, and batches come to it through its inbox."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from etcd.errors import EtcdError
from etcd.protocol import Etcd, Watch, WatchBatch

Message = TypeVar("Message")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subscription:
    """Keys that begin with ``prefix``, from ``start_revision`` on.

    ``serial`` distinguishes a new request from an old one."""

    prefix: str
    start_revision: int
    serial: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """A batch of a subscription."""

    subscription: Subscription
    batch: WatchBatch


@dataclass(frozen=True, slots=True)
class Lost:
    """A subscription has ended; nothing more comes from it."""

    subscription: Subscription
    error: EtcdError


class Feed:
    """Keeps one watch open, the one last requested, and passes its batches to ``post`` (from a thread of its own)."""

    def __init__(self, client: Etcd, post: Callable[[Delivered | Lost], None]) -> None:
        self._client = client
        self._post = post
        self._wanted: Subscription | None = None
        self._watch: Watch | None = None
        self._lock = threading.Lock()

    def follow(self, wanted: Subscription | None) -> None:
        """Follow this subscription from now on, and no other. Cheap when nothing changes; never blocks on etcd."""
        with self._lock:
            if wanted == self._wanted:
                return
            self._wanted = wanted
            old, self._watch = self._watch, None
        if old is not None:
            old.close()
        if wanted is not None:
            threading.Thread(target=self._read, args=(wanted,), name=f"watch {wanted.prefix}", daemon=True).start()

    def _read(self, subscription: Subscription) -> None:
        try:
            watch = self._client.watch(subscription.prefix, subscription.start_revision)
            with self._lock:
                current = self._wanted == subscription
                if current:
                    self._watch = watch
            if not current:
                watch.close()
                return
            for batch in watch:
                self._post(Delivered(subscription, batch))
        except EtcdError as error:
            self._post(Lost(subscription, error))


class Inbox(Generic[Message]):
    """A loop's queue: any thread posts, the loop takes."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def post(self, message: Message) -> None:
        """Leave a message; never blocks."""
        self._queue.put(message)

    def take(self, due: float) -> Iterator[Message]:
        """Wait for a message until ``due`` (of ``time.monotonic``), and return all there are."""
        try:
            yield self._queue.get(timeout=max(0.0, due - time.monotonic()))
            while True:
                yield self._queue.get_nowait()
        except queue.Empty:
            return


class Loop(Protocol):
    """An object that follows a subscription."""

    @property
    def subscription(self) -> Subscription | None:
        """The subscription that it follows now."""

    def deliver(self, batch: WatchBatch) -> None:
        """Take a batch of it."""

    def lost(self, error: EtcdError, /) -> None:
        """It has ended."""


def hand(loop: Loop, message: Delivered | Lost) -> None:
    """Pass on a watch's message, unless the loop no longer follows that watch."""
    if loop.subscription != message.subscription:
        return
    if isinstance(message, Delivered):
        loop.deliver(message.batch)
    else:
        _LOG.info("the watch of %s ended: %s", message.subscription.prefix, message.error.on_one_line)
        loop.lost(message.error)

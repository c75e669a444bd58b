"""Waits for many descriptors at once: an epoll and its handlers.

No asyncio: importing it costs an emulated node half a second."""

from __future__ import annotations

import select
from collections.abc import Callable

Handler = Callable[[int], None]
"""Receives the epoll events of its descriptor."""


class Loop:
    """Descriptors and their handlers."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Handler] = {}

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Call ``handler`` for ``events`` (select.EPOLL...) on ``fd``; an end (EPOLLHUP) is reported in any case."""
        if fd in self._handlers:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """Hear no more of ``fd``, if one did; call it before the descriptor is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def once(self, timeout_s: float | None) -> None:
        """Wait until something happens, or for ``timeout_s``, and call the handlers."""
        for fd, events in self._poll.poll(timeout_s):
            # A handler may have removed another descriptor of this round.
            if (handler := self._handlers.get(fd)) is not None:
                handler(events)

    def close(self) -> None:
        """Close the epoll."""
        self._poll.close()

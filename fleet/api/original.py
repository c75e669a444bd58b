"""What only the original's own client needs: fleetctl 1.0.0, by its ``User-Agent``.

Its ``restart`` asks for ``loaded``, and then waits until the unit is ``launched``, where it means ``loaded``. Only then
does it ask for ``launched``. With a server that is quick it would wait for ever, and leave the unit stopped. The
original's server was slow enough to still say ``launched`` when it was queried a quarter of a second later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

LINGER_S = 1.0
"""Seconds that a unit which this client stops is still shown as launched: it looks each quarter of a second, and its
shortest wait is two seconds."""

RESTART_S = 5.0
"""Seconds after a stop in which a start of the same unit counts as the second half of a restart."""

STOP_S = 100.0
"""Seconds that such a start waits for the stop: systemd's own patience with a unit, and a little more. Otherwise the two
would cancel each other, and nothing would be restarted. This client's requests have no time limit."""

_AGENT = "google-api-go-client/"


def is_original(headers: Mapping[str, str]) -> bool:
    """Whether a request with these headers comes from the original's client."""
    return headers.get("user-agent", "").startswith(_AGENT)


class Restarts:
    """The units that original clients have stopped just now. Thread-safe."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stopped: dict[str, float] = {}  # when
        self._lock = threading.Lock()

    def stops(self, name: str) -> None:
        """A unit that was launched is requested as loaded."""
        now = self._clock()
        with self._lock:
            self._stopped = {each: since for each, since in self._stopped.items() if now - since < RESTART_S}
            self._stopped[name] = now

    def lingers(self, name: str) -> bool:
        """Whether the unit is still to be shown as launched."""
        return self._is_within(name, LINGER_S)

    def starts(self, name: str) -> bool:
        """The unit is requested as launched; whether that is the second half of a restart."""
        is_restart = self._is_within(name, RESTART_S)
        with self._lock:
            self._stopped.pop(name, None)
        return is_restart

    def _is_within(self, name: str, seconds: float) -> bool:
        with self._lock:
            since = self._stopped.get(name)
        return since is not None and self._clock() - since < seconds

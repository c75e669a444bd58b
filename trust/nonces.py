"""Words that a request must have in it, each good for one request: so what was said once cannot be said again.

None is kept until it was used: whoever asks for many takes no room.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

LIFE_S: Final = 300.0
"""From the word to the request: an emulated node makes its keys meanwhile."""


class Nonces:
    """Of one run of the issuer. ``clock`` counts seconds, and never back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def new(self) -> str:
        """A word."""
        text = f"{int(self._clock() + LIFE_S):x}.{secrets.token_hex(8)}"
        return f"{text}.{self._mark(text)}"

    def take(self, nonce: str) -> bool:
        """Use it up; False if it is none of ours, too old, or used up already."""
        text, _, mark = nonce.rpartition(".")
        if not hmac.compare_digest(self._mark(text).encode(), mark.encode("utf-8", "surrogatepass")):
            return False
        now, end = self._clock(), int(text.partition(".")[0], 16)
        with self._lock:
            # In the order of their use, which is nearly that of their ends.
            while self._used and self._used[first := next(iter(self._used))] < now:
                del self._used[first]
            if end < now or nonce in self._used:
                return False
            self._used[nonce] = end
            return True

    def _mark(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()

"""How many keys to request from etcd at once. Pure.

For each page etcd counts all the rest of the range, so that small pages of a long range cost the square of its length:
200,000 keys by 500 took 11 s of etcd's processor, by 10,000 half a second. But a value may have a megabyte, and an
emulated etcd needs thirty times as long. So pages grow and shrink with the size and time of the last one.
"""

from __future__ import annotations

KEYS_FIRST = 500
KEYS = (20, 10_000)
BYTES = 8 << 20
SECONDS = 1.0
"""A fifth of what a request may take by default."""
GROWTH = 8


class PageSize:
    """``keys`` is how many the next page should have at most."""

    def __init__(self) -> None:
        self.keys = KEYS_FIRST

    def learn(self, keys: int, size: int, seconds: float) -> None:
        """A page of so many keys had values of ``size`` bytes together and took ``seconds``."""
        fitting = min(BYTES / max(size, 1), SECONDS / max(seconds, 1e-6), GROWTH)
        self.keys = max(KEYS[0], min(KEYS[1], int(keys * fitting)))

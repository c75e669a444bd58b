"""Ports of the loopback address for servers that a test starts, stops, and starts again."""

from __future__ import annotations

import random

from cluster.lifecycle.ports import is_free

FIRST, LAST = 10_000, 22_000
"""Below those that our clusters choose and those that Linux gives to outgoing connections: what is free stays so while
its server is down.
"""

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Free ports that no other test of this process was given; at random, since other processes test on this computer,
    too.
    """
    chance = random.SystemRandom()
    found: list[int] = []
    while len(found) < count:
        port = chance.randrange(FIRST, LAST)
        if port not in _given and is_free(port):
            _given.add(port)
            found.append(port)
    return found

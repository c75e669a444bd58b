"""The time of this computer for nodes: NTP version 4's server side (RFC 5905), one answer per question, no state."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from cluster.services.host import Caller

PORT = 123
EPOCH_1900_S = 2_208_988_800
"""From NTP's first second to Unix's (RFC 5905, figure 4)."""
CLIENT, SERVER = 3, 4
STRATUM = 1
PRECISION = -20
"""Two to this power in seconds, a microsecond: what ``clock_gettime`` gives."""
REFERENCE = b"LOCL"
"""An uncalibrated local clock (RFC 5905, figure 12): the error of this computer's clock is unknown."""
ROOT_DISPERSION = 1 << 6
"""A millisecond, in seconds times 2^16."""


class TimeServer:
    """Serves this computer's time plus ``offset_s`` seconds: a wrong time server is one of the faults."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.offset_s = 0.0
        self._clock = clock

    def __call__(self, caller: Caller, question: bytes) -> bytes | None:  # noqa: ARG002 - services share it
        """The answer to a client's packet, None to anything else."""
        if len(question) < 48 or question[0] & 7 != CLIENT:
            return None
        version = question[0] >> 3 & 7
        now = timestamp(self._clock() + self.offset_s)
        head = struct.pack(">BBBbII", version << 3 | SERVER, STRATUM, question[2], PRECISION, 0, ROOT_DISPERSION)
        return head + REFERENCE + now + question[40:48] + now + now


def timestamp(seconds: float) -> bytes:
    """Unix time as NTP's 64 bits: seconds since 1900 modulo 2^32, and their fraction."""
    return (round((seconds + EPOCH_1900_S) * (1 << 32)) % (1 << 64)).to_bytes(8, "big")

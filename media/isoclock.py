"""The clock of ISO 9660 volumes: equal input gives equal bytes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

_clock = threading.Lock()


@contextlib.contextmanager
def fixed_clock(epoch: int) -> Iterator[None]:
    """Let pycdlib, which dates every record by itself and in local time, see the one instant ``epoch`` (seconds since 1970) in UTC.

    One thread at a time; others wait.
    """
    import pycdlib.dates
    import pycdlib.headervd
    import pycdlib.pycdlib
    import pycdlib.utils

    modules: tuple[Any, ...] = (pycdlib.pycdlib, pycdlib.headervd, pycdlib.dates, pycdlib.utils)
    still = SimpleNamespace(
        time=lambda: float(epoch),
        localtime=lambda _seconds=None: time.gmtime(epoch),
        gmtime=lambda _seconds=None: time.gmtime(epoch),
        strptime=time.strptime,
        strftime=time.strftime,
        struct_time=time.struct_time,
    )
    with _clock:
        before = [module.time for module in modules]
        for module in modules:
            module.time = still
        try:
            yield
        finally:
            for module, clock in zip(modules, before, strict=True):
                module.time = clock

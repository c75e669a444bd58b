"""What it costs to read what an enemy sends: time of the processor, so that other work on the computer does not count, and memory."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

INPUT_BYTES = 1 << 20
CPU_S_MAX = 20.0
"""For :data:`INPUT_BYTES`. A second is what it may cost; a parser that is not linear needs many minutes, and a busy computer several seconds."""
MEMORY_BYTES_MAX = 64 << 20


def assert_cheap(work: Callable[[int], object]) -> None:
    """``work``, which is given how many bytes to read, stays within both. Memory is that of an eighth: to count it takes ten times as long."""
    begin = time.process_time()
    work(INPUT_BYTES)
    assert time.process_time() - begin < CPU_S_MAX
    assert peak_bytes(lambda: work(INPUT_BYTES // 8)) < MEMORY_BYTES_MAX // 8


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that Python had at one moment of ``work``, above what it had before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()

"""What it costs to read what an enemy sends: time of the processor, so that other work on the computer does not count,
and memory.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

INPUT_BYTES = 1 << 20
CPU_S_MAX = 20.0
"""For :data:`INPUT_BYTES`.

A second is what it may cost; a parser that is not linear needs many minutes, and a busy computer several seconds.
"""
MEMORY_BYTES_MAX = 64 << 20


def assert_cheap(work: Callable[[int], object]) -> None:
    """``work``, which is given how many bytes to read, stays within both.

    Memory is that of an eighth: to count it takes ten times as long.
    """
    begin = time.process_time()
    work(INPUT_BYTES)
    assert time.process_time() - begin < CPU_S_MAX
    assert peak_bytes(lambda: work(INPUT_BYTES // 8)) < MEMORY_BYTES_MAX // 8


FRUGAL_BYTES = INPUT_BYTES // 16
SECONDS_MAX = 1.0
"""For :data:`INPUT_BYTES`; a busy computer may take four times as long."""


def assert_frugal(work: Callable[[bytes], object], data: Callable[[int], bytes]) -> None:
    """``work`` with so many bytes of ``data`` costs what a mebibyte may, in proportion: a sixteenth for time (the best
    of three), for memory a quarter of that.
    """
    large, small = data(FRUGAL_BYTES), data(FRUGAL_BYTES // 4)
    limit_s = 4 * SECONDS_MAX * FRUGAL_BYTES / INPUT_BYTES
    spent = limit_s
    for _ in range(3):
        begin = time.process_time()
        work(large)
        spent = time.process_time() - begin
        if spent < limit_s:
            break
    assert spent < limit_s, f"{spent:.2f} s for {large[:80]!r}"
    peak = peak_bytes(lambda: work(small))
    assert peak < MEMORY_BYTES_MAX * len(small) // INPUT_BYTES + (1 << 20), f"{peak >> 10} KiB for {small[:80]!r}"


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that Python had at one moment of ``work``, above what it had before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()

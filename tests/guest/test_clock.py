"""Clocks: what is handed to the kernel. That the node's clock is stepped, vm-tests/test_shell.py shows."""

import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest import clock


@given(st.integers(0, 4_000_000_000))
def test_the_hardwares_time_is_the_same_time(epoch_s: int) -> None:
    seconds, minutes, hours, day, month, year, *rest = struct.unpack("9i", clock.rtc_time(epoch_s))
    assert rest == [0, 0, 0]
    assert time.gmtime(epoch_s)[:6] == (year + 1900, month + 1, day, hours, minutes, seconds)


def test_a_time_that_no_clock_shows_is_refused_before_anything_is_changed() -> None:
    before = time.time()
    for never in (float("nan"), float("inf"), 1e300):
        with pytest.raises((ValueError, OverflowError)):
            clock.step(never)
    assert abs(time.time() - before) < 60

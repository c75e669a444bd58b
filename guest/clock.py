"""The node's wall clock, stepped on request: after a snapshot is restored it shows the time of the snapshot."""

from __future__ import annotations

import fcntl
import os
import struct
import time

RTC = "/dev/rtc0"
RTC_SET_TIME = 0x4024700A
"""_IOW('p', 0x0a, struct rtc_time) of linux/rtc.h; the same number on amd64 and arm64."""


def step(epoch_s: float, *, rtc: bool = False) -> tuple[float, float]:
    """Set the wall clock to ``epoch_s`` seconds since 1970 (UTC), and the hardware's too if ``rtc``.

    Returns the time before and after.

    Raises OSError if one may not, or there is no such hardware, and ValueError or OverflowError for a time that no
    clock shows.
    """
    before = time.clock_gettime(time.CLOCK_REALTIME)
    time.clock_settime(time.CLOCK_REALTIME, epoch_s)
    if rtc:
        fd = os.open(RTC, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, RTC_SET_TIME, rtc_time(epoch_s))
        finally:
            os.close(fd)
    return before, time.clock_gettime(time.CLOCK_REALTIME)


def rtc_time(epoch_s: float) -> bytes:
    """``struct rtc_time`` of linux/rtc.h: nine ints, UTC.

    Months from 0, years from 1900. The last three are not looked at."""
    now = time.gmtime(epoch_s)
    values = (now.tm_sec, now.tm_min, now.tm_hour, now.tm_mday, now.tm_mon - 1, now.tm_year - 1900)
    return struct.pack("9i", *values, 0, 0, 0)

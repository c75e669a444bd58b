"""Time spans and calendar events as systemd reads them (systemd.time(7)): is this text one?

Each function returns a short message, or "" if systemd accepts the text. Both were compared with
``systemd-analyze timespan`` and ``systemd-analyze calendar`` (tests/unitfile/test_times.py): whatever differs from the
manual is what that program does.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_BLANK: Final = " \t\n\r"
_USEC_MAX: Final = (1 << 64) - 1
_LONG_MAX: Final = (1 << 63) - 1
_INT_MAX: Final = (1 << 31) - 1
_SECOND: Final = 1_000_000

# In microseconds. systemd takes the first name that fits, so longer ones stand before those that they begin with.
_UNITS: Final = {
    **dict.fromkeys(("seconds", "second", "sec", "s"), _SECOND),
    **dict.fromkeys(("minutes", "minute", "min"), 60 * _SECOND),
    **dict.fromkeys(("months", "month", "M"), 2_629_800 * _SECOND),
    **dict.fromkeys(("msec", "ms"), 1000),
    "m": 60 * _SECOND,
    **dict.fromkeys(("hours", "hour", "hr", "h"), 3600 * _SECOND),
    **dict.fromkeys(("days", "day", "d"), 86_400 * _SECOND),
    **dict.fromkeys(("weeks", "week", "w"), 7 * 86_400 * _SECOND),
    **dict.fromkeys(("years", "year", "y"), 31_557_600 * _SECOND),
    **dict.fromkeys(("usec", "us", "μs", "µs"), 1),
}
_PIECE: Final = re.compile(rf"([+-]?[0-9]+)?(\.[0-9]+)?[{_BLANK}]*({'|'.join(_UNITS)})?[{_BLANK}]*")


def span_problem(text: str) -> str:
    """What is wrong with a time span (``5min 20s``, ``1.5h``, ``infinity``)."""
    rest = text.strip(_BLANK)
    if rest == "infinity":
        return ""
    if not rest:
        return "no time span"
    place, total = 0, 0
    while place < len(rest):
        match = _PIECE.match(rest, place)
        if match is None or not (match[1] or match[2]):
            return "not a time span"
        number = int(match[1] or "0") if len(match[1] or "") < 25 else _USEC_MAX
        if (match[1] or "").startswith("-"):
            return "a time span cannot be negative"
        if number > _LONG_MAX or (total := total + number * _UNITS[match[3] or "s"]) >= _USEC_MAX:
            return "too long a time span"
        end = match.end(2) if match[2] is not None else match.end(1)
        if match.end() == end < len(rest):
            return "not a time span"
        place = match.end()
    return ""


_SHORTHANDS: Final = (
    *("minutely", "hourly", "daily", "weekly", "monthly", "quarterly", "yearly", "annually", "anually"),
    *("semiannually", "semi-annually", "biannually", "bi-annually"),
)
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY: Final = re.compile(rf"({'|'.join(_DAYS)}|{'|'.join(day[:3] for day in _DAYS)})(?=[-., ]|$)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[0-9]+")
_COMPONENTS_MAX: Final = 240
# Shaped like a name of the zone database: systemd checks whether the file exists, which only the node can know.
_ZONE: Final = re.compile(
    r"(Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Brazil|Canada|Chile|Etc|Europe|Indian|Mexico|Pacific"
    r"|US)"
    r"(/[A-Za-z0-9+_-]+){1,2}"
    r"|[A-Z]{2,5}(-[A-Z]{2,4}|[0-9][A-Z]{3})?"
    r"|Cuba|Egypt|Eire|GB-Eire|Greenwich|Hongkong|Iceland|Iran|Israel|Jamaica|Japan|Kwajalein|Libya|Navajo|Poland"
    r"|Portugal"
    r"|Singapore|Turkey|Universal|Zulu"
)
_YEARS: Final = (1970, 2199)
_BEFORE_EPOCH: Final = re.compile(r"@[ \t]*(?:\+|-(?=0+$))?")  # as strtoul(3) takes it
_EPOCH_MAX: Final = 7_258_118_399  # the last second of 2199


class _Refused(Exception):  # noqa: N818 - never leaves this module
    pass


class _Part(NamedTuple):
    """``start[..stop][/repeat]``; -1 where there is no stop."""

    start: int
    stop: int
    repeat: int


def calendar_problem(text: str) -> str:
    """What is wrong with a calendar event (``Mon..Fri *-*-* 03:00``, ``daily``, ``*:0/15``)."""
    head, blank, zone = text.rpartition(" ")
    if blank and (zone.upper() == "UTC" or _is_zone(zone)):
        text = head
    if not text:
        return "no calendar event"
    if text.lower() in _SHORTHANDS:
        return ""
    try:
        _Calendar(text).read()
    except _Refused as refused:
        return str(refused) or "not a calendar event"
    return ""


def _is_zone(word: str) -> bool:
    return _ZONE.fullmatch(word) is not None and not _DAY.fullmatch(word)


class _Calendar:
    """A reader of weekdays, date and time, in this order, each of which may be left out."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def read(self) -> None:
        self._weekdays()
        if self._peek() == "@":
            match = _BEFORE_EPOCH.match(self._text, self._place)
            self._place = match.end() if match else self._place
            if self._integer() > _EPOCH_MAX:
                raise _Refused("too late a time")
        else:
            self._date()
            self._time()
        if self._place < len(self._text):
            raise _Refused

    def _peek(self, ahead: int = 0) -> str:
        """The character here, "" at the end."""
        return self._text[self._place + ahead : self._place + ahead + 1]

    def _skip(self, characters: str) -> None:
        while self._peek() and self._peek() in characters:
            self._place += 1

    def _weekdays(self) -> None:
        first, since = True, -1
        while True:
            match = _DAY.match(self._text, self._place)
            if match is None:
                if not first:
                    raise _Refused("not a day of the week")
                return
            day = [name[:3] for name in _DAYS].index(match[1][:3].lower())
            if since > day:
                raise _Refused("the days of the week are in the wrong order")
            self._place = match.end()
            here = self._peek()
            if here in ("", " "):
                self._skip(" ")
                return
            if here in ".-":
                if since >= 0 or (here == "." and self._peek(1) != "."):
                    raise _Refused
                since = day
                self._place += 2 if here == "." else 1
            else:
                since = -1
                self._place += 1
            if self._peek() in ("", " "):
                if since >= 0:
                    raise _Refused("a range of days without its end")
                self._skip(" ")
                return
            first = False

    def _date(self) -> None:
        if not self._peek():
            return
        begin = self._place
        first = self._chain()
        if self._peek() in ("", ":"):
            self._place = begin  # a time, without a date before it
            return
        from_end = self._separator()
        second = self._chain()
        year: list[_Part] | None
        if self._peek() in ("", " "):
            year, month, day = None, first, second
        else:
            if from_end:
                raise _Refused
            from_end = self._separator()
            year, month, day = first, second, self._chain()
            if self._peek() not in ("", " "):
                raise _Refused
        self._skip(" ")
        _within([_century(part) for part in year] if year else year, *_YEARS, "year")
        _within(month, 1, 12, "month")
        _within(day, 1, 31, "day", from_end=from_end)

    def _separator(self) -> bool:
        """Step over ``-`` or ``~``; whether it was the latter, which counts days from the month's end."""
        here = self._peek()
        if here not in ("-", "~"):
            raise _Refused
        self._place += 1
        return here == "~"

    def _time(self) -> None:
        if not self._peek():
            return
        hour = self._chain()
        if self._peek() != ":":
            raise _Refused
        self._place += 1
        minute = self._chain()
        second: list[_Part] | None = []
        if self._peek():
            if self._peek() != ":":
                raise _Refused
            self._place += 1
            second = self._chain(seconds=True)
        _within(hour, 0, 23, "hour")
        _within(minute, 0, 59, "minute")
        _within(second, 0, 60 * _SECOND - 1, "second")

    def _chain(self, *, seconds: bool = False) -> list[_Part] | None:
        """Parts with commas between; ``None`` for ``*``."""
        if self._peek() == "*":
            self._place += 1
            return None
        parts: list[_Part] = []
        while True:
            parts.append(self._part(seconds=seconds))
            if len(parts) > _COMPONENTS_MAX:
                raise _Refused("too many parts")
            if self._peek() != ",":
                return parts
            self._place += 1

    def _part(self, *, seconds: bool) -> _Part:
        start, stop, repeat = self._decimal(seconds=seconds), -1, 0
        if self._peek() == "." and self._peek(1) == ".":
            self._place += 2
            stop = self._decimal(seconds=seconds)
            repeat = _SECOND if seconds else 1
        if self._peek() == "/":
            self._place += 1
            repeat = self._decimal(seconds=seconds)
            if repeat == 0:
                raise _Refused("repeated every 0")
        elif seconds and stop >= 0 and start + repeat > stop:
            raise _Refused
        if self._peek() not in ("", " ", ",", "-", "~", ":"):
            raise _Refused
        return _Part(start, stop, repeat)

    def _decimal(self, *, seconds: bool) -> int:
        value = self._integer()
        if seconds:
            value *= _SECOND
            if self._peek() == "." and self._peek(1) != ".":
                self._place += 1
                match = _NUMBER.match(self._text, self._place)
                if match is None:
                    raise _Refused
                value += int(match[0][:6].ljust(6, "0"))
                self._place = match.end()
        if value > _INT_MAX:
            raise _Refused("too large a number")
        return value

    def _integer(self) -> int:
        match = _NUMBER.match(self._text, self._place)
        if match is None:
            raise _Refused
        digits = match[0].lstrip("0")
        if len(digits) > 19:
            raise _Refused("too large a number")
        self._place = match.end()
        return int(digits or "0")


def _century(part: _Part) -> _Part:
    """systemd's two-digit years: 12 is 2012, 89 is 1989."""

    def year(value: int) -> int:
        if 0 <= value < 70:
            return value + 2000
        return value + 1900 if 70 <= value < 100 else value

    return part._replace(start=year(part.start), stop=year(part.stop))


def _within(parts: list[_Part] | None, least: int, most: int, what: str, *, from_end: bool = False) -> None:
    for start, stop, repeat in sorted(set(parts or ())):
        if from_end:
            most -= 3  # the shortest month has 28 days; systemd counts them off again for each further part
        if stop > start and repeat > 0:
            stop -= (stop - start) % repeat
        if stop == start or (stop > start and start + repeat > stop):
            stop, repeat = -1, 0  # never repeated, so systemd takes it for a single value
        if not least <= start <= most or (stop >= 0 and not least <= stop <= most) or repeat > most - least:
            raise _Refused(f"no such {what}")
        if stop >= 0:
            fits = start + repeat <= stop
        elif from_end:
            fits = start - repeat >= least
        else:
            fits = start + repeat <= most
        if not fits:
            raise _Refused(f"no such {what}: it is never repeated")

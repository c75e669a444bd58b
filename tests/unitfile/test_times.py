"""Time spans and calendar events: each text is judged as the image's own systemd judges it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unitfile.systemd import Systemd
from unitfile.times import calendar_problem, span_problem

SPANS = [
    "5",
    "5s",
    "1h30min",
    "1.5h",
    ".5s",
    "2 weeks 3d",
    "1y 2M",
    "infinity",
    " 10 ms",
    "5us",
    "5µs",
    "00012",
    "+5",
    "1h 1h",
]
NO_SPANS = [
    "",
    " ",
    "x",
    "5x",
    "5 foo",
    "5..5",
    "12.34.56",
    "-5",
    "infinity 5",
    "5,5",
    "5.",
    ".",
    "99999999999999999999999",
    "%i",
]
CALENDARS = [
    *(
        "daily",
        "WEEKLY",
        "Mon",
        "Mon..Fri",
        "Sat,Sun 4:00",
        "*-*-* 03:00",
        "*:0/15",
        "*-*-1..7 18:00:00",
        "2030-01-01",
        "12-24",
        "@99999",
        "@ 5",
        "@+5",
    ),
    *(
        "Mon *-05~1",
        "*-*~07/1",
        "quarterly UTC",
        "*-*-* 02:30:00 Europe/Berlin",
        "Fri *-*-13 12:30:15.5",
        "Mon,Tue,",
        "99-1-1",
        "*-*~6,7",
    ),
]
NO_CALENDARS = [
    *(
        "",
        "foo",
        "Mon..",
        "Mon..Tue..Wed",
        "Fri..Mon",
        "25:00",
        "*:60",
        "*-13-01",
        "*-*-32",
        "1:2:3:4",
        "*/5",
        "12/13-1",
        "*-*~29",
    ),
    *(
        "2200-01-01",
        "Mon Tue",
        "daily daily",
        "@x",
        "@-5",
        "*:*/0",
        "1..",
        "5 * * * *",
        "*-*~1,26",
        "@301970991970",
        "%i",
    ),
]


@pytest.mark.parametrize("text", SPANS)
def test_a_span(text: str) -> None:
    assert span_problem(text) == ""


@pytest.mark.parametrize("text", NO_SPANS)
def test_no_span(text: str) -> None:
    assert span_problem(text) != ""


@pytest.mark.parametrize("text", CALENDARS)
def test_a_calendar_event(text: str) -> None:
    assert calendar_problem(text) == ""


@pytest.mark.parametrize("text", NO_CALENDARS)
def test_no_calendar_event(text: str) -> None:
    assert calendar_problem(text) != ""


def judged(systemd: Systemd, directive: str, texts: list[str]) -> list[bool]:
    """Which ``texts`` systemd takes as values of ``directive``, all lines of one unit."""
    name, head = (
        ("a.timer", "[Timer]\n") if directive == "OnCalendar" else ("a.service", "[Service]\nExecStart=/bin/true\n")
    )
    before = head.count("\n") + 1
    lines = systemd.verify({name: head + "".join(f"{directive}={text}\n" for text in texts)})[name].lines
    return [before + number not in lines for number in range(len(texts))]


def test_systemd_says_the_same(systemd: Systemd) -> None:
    # An empty assignment is no value to systemd, and % begins a specifier there.
    spans = [text for text in SPANS + NO_SPANS if text.strip() and "%" not in text]
    events = [text for text in CALENDARS + NO_CALENDARS if text and "%" not in text]
    assert judged(systemd, "RuntimeMaxSec", spans) == [span_problem(text) == "" for text in spans]
    assert judged(systemd, "OnCalendar", events) == [calendar_problem(text) == "" for text in events]


def some_number(chance: random.Random, least: int, most: int) -> str:
    text = str(chance.randint(least, most))
    if chance.random() < 0.3:
        text += f"..{chance.randint(least, most)}"
    if chance.random() < 0.3:
        text += f"/{chance.randint(0, most)}"
    if chance.random() < 0.2:
        text += f",{chance.randint(least, most)}"
    return "*" if chance.random() < 0.3 else text


def some_event(chance: random.Random) -> str:
    """Now a text that looks like an event, now a heap of pieces."""
    if chance.random() < 0.4:
        pieces = [
            "Mon",
            "tue",
            "Friday",
            "..",
            ",",
            "-",
            "*",
            "*-*-*",
            " ",
            "12",
            "0",
            "/",
            "2024",
            ":",
            "~",
            "@",
            "59.5",
            "daily",
            "1..5",
        ]
        return "".join(chance.choices(pieces, k=chance.randint(1, 8))).strip() or "daily"
    days = chance.choice(["", "Mon ", "Mon..Fri ", "Sat,Sun ", "Fri..Mon ", "Mon,Wed..Fri, "])
    year, month, day = some_number(chance, 1960, 2210), some_number(chance, 0, 13), some_number(chance, 0, 32)
    date = chance.choice(
        ["", f"{year}-{month}-{day} ", f"{month}-{day} ", f"{month}~{day} ", f"{year[2:] or '*'}-{month}~{day} "]
    )
    hour, minute, second = some_number(chance, 0, 25), some_number(chance, 0, 61), some_number(chance, 0, 61)
    time = chance.choice(
        ["", f"{hour}:{minute}", f"{hour}:{minute}:{second}", f"{hour}:{minute}:5.{chance.randint(0, 9999)}"]
    )
    return (days + date + time).strip() + chance.choice(["", "", " UTC", " utc"]) or "daily"


def some_span(chance: random.Random) -> str:
    pieces = [
        "5",
        "1",
        "30",
        " ",
        "s",
        "min",
        "m",
        "h",
        "ms",
        "us",
        "M",
        "month",
        "d",
        "w",
        "y",
        "infinity",
        "-",
        "+",
        ".",
        "2.5",
        "x",
        "µs",
    ]
    return "".join(chance.choices(pieces, k=chance.randint(1, 6))).strip() or "5"


def test_systemd_says_the_same_of_what_chance_makes(systemd: Systemd, seed: int) -> None:
    chance = random.Random(seed)
    for directive, make, problem in (
        ("RuntimeMaxSec", some_span, span_problem),
        ("OnCalendar", some_event, calendar_problem),
    ):
        texts = [make(chance) for _ in range(4000)]
        theirs = judged(systemd, directive, texts)
        ours = [problem(text) == "" for text in texts]
        assert [text for text, one, other in zip(texts, ours, theirs, strict=True) if one != other] == []
        assert 200 < sum(ours) < 3800  # both kinds were made


@given(st.text(st.sampled_from("0159 .,-~:/@*MonFriUTCsmhdyinfinity\u0660"), max_size=40))
def test_any_text_is_one_or_is_not(text: str) -> None:
    assert isinstance(calendar_problem(text), str)
    assert isinstance(span_problem(text), str)


@pytest.mark.parametrize(
    "text",
    ["1" * 100_000, "0" * 100_000, "1," * 50_000, "Mon," * 30_000, "1s" * 50_000, " " * 100_000, "1" + " " * 100_000],
)
def test_long_texts_are_judged_as_well(text: str) -> None:
    assert isinstance(calendar_problem(text), str)
    assert isinstance(span_problem(text), str)

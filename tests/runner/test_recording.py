"""The record of a run: written a line at a time, read whatever became of the writer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.runner.recording import LINES_MAX, Recording, Report, line, shortened


def report(nodeid: str, when: str = "call", outcome: str = "passed") -> dict[str, object]:
    return {
        "nodeid": nodeid,
        "when": when,
        "outcome": outcome,
        "start": 1.0,
        "seconds": 0.5,
        "fixtures": {"image": 0.25},
        "text": "",
        "sections": [["Captured stdout call", "words"]],
    }


WHOLE = "".join(
    [
        line("begin"),
        line("collected", ["good", "bad", "skipped", "running", "left"]),
        line("broken", "file", "SyntaxError"),
        *(line("start", "good"), line("report", report("good")), line("finish", "good")),
        *(line("start", "bad"), line("report", report("bad")), line("report", report("bad", "teardown", "failed"))),
        line("finish", "bad"),
        *(line("start", "skipped"), line("report", report("skipped", "setup", "skipped")), line("finish", "skipped")),
        *(line("start", "running"), line("report", report("running", "setup"))),
        line("end"),
    ]
)


def test_what_became_of_each_test() -> None:
    read = Recording.read(WHOLE)
    assert (read.failed, read.passed, read.skipped) == (("bad",), frozenset({"good"}), frozenset({"skipped"}))
    assert (read.running, read.left, dict(read.broken)) == (("running",), 1, {"file": "SyntaxError"})
    assert (read.began, read.ended) == (True, True)
    assert read.of("good") == [
        Report("good", "call", "passed", 1.0, 0.5, {"image": 0.25}, "", (("Captured stdout call", "words"),))
    ]


@given(st.integers(0, len(WHOLE)))
def test_a_writer_that_is_killed_leaves_what_it_had_written(length: int) -> None:
    read = Recording.read(WHOLE[:length])
    whole = Recording.read(WHOLE)
    assert read.reports == whole.reports[: len(read.reports)]
    assert read.ended is (length == len(WHOLE))
    assert read.passed <= whole.passed


@given(st.text(st.characters()))
def test_any_name_comes_through(nodeid: str) -> None:
    """Line ends and half surrogate pairs, too."""
    written = line("start", nodeid)
    assert written.isascii()
    assert written.count("\n") == 1
    assert Recording.read(written).started == {nodeid}


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Zl", "Zp", "Cs"]), max_size=5000), max_size=400))
def test_a_long_text_keeps_its_beginning_and_its_end(lines: list[str]) -> None:
    text = "\n".join(lines)
    short = shortened(text)
    assert len(short.splitlines()) <= LINES_MAX + 1
    assert all(len(each) < 2100 for each in short.splitlines())
    if len(lines) <= LINES_MAX and all(len(each) <= 2000 for each in lines):
        assert short == "\n".join(text.splitlines())


def test_what_is_left_out_is_counted() -> None:
    text = "\n".join(map(str, range(1000)))
    assert shortened(text, 9).splitlines() == ["0", "1", "2", "... 991 lines left out ...", *map(str, range(994, 1000))]
    assert shortened("x" * 2001) == "x" * 2000 + " ... 1 characters left out"

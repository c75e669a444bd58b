"""Spans say what ran inside what, in which thread, and free lanes are used again."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terminal.spans import Recorder, untimed


def test_spans_nest() -> None:
    recorder = Recorder()
    with recorder.span("outer"):
        with recorder.span("inner", "first"):
            pass
        with recorder.span("inner", "second"):
            pass
    found = recorder.spans()
    assert [(span.path, span.detail, span.lane, span.depth) for span in found] == [
        (("outer",), "", 0, 0),
        (("outer", "inner"), "first", 0, 1),
        (("outer", "inner"), "second", 0, 1),
    ]
    outer, first, second = found
    assert 0 <= outer.begin <= first.begin <= first.end <= second.begin <= second.end <= outer.end
    assert outer.seconds == outer.end - outer.begin


def test_what_fails_is_recorded() -> None:
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError), recorder.span("division"):
        raise ZeroDivisionError
    assert [span.path for span in recorder.spans()] == [("division",)]


def test_threads_have_lanes_and_lie_below_what_was_running() -> None:
    recorder = Recorder()
    both = threading.Barrier(2)

    def work(name: str) -> None:
        with recorder.span("unpack", name), recorder.span("hash"):
            both.wait(10)

    with recorder.span("packages"):
        for _ in range(3):  # a new pool takes the lanes of the one before
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(work, ("a", "b")))
    with recorder.span("after"):
        pass
    found = recorder.spans()
    workers = [span for span in found if span.lane]
    assert {span.lane for span in workers} == {1, 2}
    assert {(span.path, span.depth) for span in workers} == {
        (("packages", "unpack"), 0),
        (("packages", "unpack", "hash"), 1),
    }
    for lane in (1, 2):
        outer = [span for span in workers if span.lane == lane and span.depth == 0]
        assert all(one.end <= two.begin for one, two in itertools.pairwise(outer))


def test_a_thread_that_works_aside_says_where_it_belongs() -> None:
    """What it begins late may well outlast the step that the main thread has come to."""
    recorder = Recorder()

    def work(below: tuple[str, ...]) -> None:
        with recorder.span("aside", below=below), recorder.span("inside", below=below):
            pass

    assert recorder.here() == ()
    with recorder.span("phase"):
        below = recorder.here()
        with recorder.span("step"):
            thread = threading.Thread(target=work, args=(below,))
            thread.start()
            thread.join()
    assert below == ("phase",)
    paths = {span.path for span in recorder.spans() if span.lane}
    assert paths == {("phase", "aside"), ("phase", "aside", "inside")}


@given(st.recursive(st.just([]), lambda inside: st.lists(inside, max_size=3), max_leaves=12))
def test_any_nesting_is_recorded(shape: list[object]) -> None:
    recorder = Recorder()

    def go(inside: list[object]) -> int:
        count = 1
        with recorder.span(str(len(inside))):
            for each in inside:
                assert isinstance(each, list)
                count += go(each)
        return count

    assert go(shape) == len(recorder.spans())
    assert all(span.depth == len(span.path) - 1 for span in recorder.spans())


def test_untimed_does_nothing() -> None:
    with untimed("anything", "at all"):
        pass

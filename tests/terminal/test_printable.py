"""Other people's words command no terminal, wherever they are printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terminal import Failure, printable, printable_lines, table
from terminal.failure import render

HOSTILE = "\x1b]0;mine\x07\x9b2J\u202e\x00"


@given(st.text())
def test_nothing_but_what_prints(text: str) -> None:
    assert printable(text).isprintable()
    assert printable_lines(text).replace("\n", "").replace("\t", "").isprintable()
    if text.isprintable():
        assert printable(text) == text


def test_a_table_and_a_failure_are_clean() -> None:
    assert table([[HOSTILE, "b\nc"]], ["A", "B"]).count("?") == 6
    failure = Failure(f"no: {HOSTILE}", where=HOSTILE, hint=HOSTILE)
    failure.__cause__ = ValueError(HOSTILE)
    assert all(line.isprintable() for line in render(failure, "prog").split("\n"))


@pytest.mark.parametrize("text", ["é", "日本", "a b"])
def test_people_s_own_letters_stay(text: str) -> None:
    assert table([[text]]) == text

"""Columns line up, and nothing trails."""

import pytest

from terminal import table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert table([["a", "bb", ""], ["ccc", "d", "e"]], ["X", "YYYY", "Z"]) == "X    YYYY  Z\na    bb\nccc  d     e"


def test_nothing_is_nothing() -> None:
    assert table([]) == ""
    assert table([], ["X", "Y"]) == "X  Y"


def test_a_row_of_another_length_is_a_bug() -> None:
    with pytest.raises(ValueError, match="shorter"):
        table([["a", "b"], ["c"]])

"""Framing: however the bytes come, the messages are the same, and no input is held for ever or breaks it."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from guest.lines import Lines, decode, encode

messages = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()))


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def fed(lines: Lines, pieces: list[bytes]) -> list[dict[str, Any]]:
    return [message for piece in pieces for message in lines.feed(piece)]


@given(messages)
def test_a_message_is_one_line_and_comes_back(message: dict[str, Any]) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == message


@given(st.lists(messages), st.lists(st.integers(min_value=0)))
def test_pieces_of_any_size_are_the_same_messages(said: list[dict[str, Any]], cuts: list[int]) -> None:
    data = b"".join(map(encode, said))
    assert fed(Lines(), in_pieces(data, cuts)) == said


@given(st.binary(), messages, st.lists(st.integers(min_value=0)))
def test_after_garbage_and_a_newline_one_is_understood(
    garbage: bytes, message: dict[str, Any], cuts: list[int]
) -> None:
    data = garbage + b"\n" + encode(message)
    assert fed(Lines(), in_pieces(data, cuts))[-1:] == [message]


@given(st.integers(40, 200), messages, st.lists(st.integers(min_value=0)))
def test_a_line_that_is_too_long_is_dropped_whole(size: int, message: dict[str, Any], cuts: list[int]) -> None:
    limit = 40
    long = b'{"a":"' + b"x" * (size - 8) + b'"}\n'
    short = b'{"b":1}\n'
    assert fed(Lines(limit), in_pieces(short + long + short, cuts)) == (
        [{"b": 1}, {"b": 1}] if len(long) > limit else [{"b": 1}, decode(long), {"b": 1}]
    )


def test_a_line_without_an_end_is_not_held() -> None:
    lines = Lines(1 << 10)
    for _ in range(100):
        assert lines.feed(b"x" * 1000) == []
        assert len(lines._part) < 1 << 10
    assert lines.feed(b'\n{"a":1}\n') == [{"a": 1}]


def test_what_is_no_object_is_no_message() -> None:
    lines = Lines()
    assert lines.feed(b'[1]\n1\n"a"\nnull\n{"a":\n\xff\xfe\n\n{"a":1}\n') == [{"a": 1}]


def test_nesting_without_end_is_no_message() -> None:
    assert decode(b"[" * 100_000) is None
    assert decode(b'{"a":' * 20_000) is None

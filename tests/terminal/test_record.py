"""JSON of files and other programs: whatever it is, a value of the right types or a ValueError."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terminal import record


@dataclass(frozen=True)
class Inner:
    """A part."""

    factor: float


@dataclass(frozen=True)
class Outer:
    """The whole."""

    name: str
    ports: tuple[int, ...]
    inner: Inner
    ready: bool = False
    path: str | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    other: Inner | None = None
    counts: dict[str, int | None] = field(default_factory=dict)


WHOLE = Outer("a", (1, 2), Inner(1.5), path="/x", pairs=((1, 2), (2, 1)), other=Inner(2), counts={"a": 1, "b": None})


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "Infinity", "[-Infinity]", "NaN", "1e999", "", "{", b"\xff\xfe{"]
)
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        record.parse(text)


def test_what_was_written_is_read() -> None:
    assert record.build(Outer, record.parse(json.dumps(asdict(WHOLE)))) == WHOLE


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"ports": 1},
        {"ports": "12"},
        {"ports": ["1"]},
        {"ports": [True]},
        {"inner": []},
        {"inner": {"factor": "1"}},
        {"inner": {}},
        {"ready": 1},
        {"path": 1},
        {"colour": 1},
        {"inner": {"factor": 10**400}},
        {"pairs": [[1]]},
        {"pairs": [[1, 2, 3]]},
        {"pairs": [[1, "2"]]},
        {"pairs": ["12"]},
        {"other": 1},
        {"other": {}},
        {"counts": []},
        {"counts": {"a": "1"}},
        {"counts": {"a": True}},
    ],
)
def test_a_field_of_another_type_is_a_value_error(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        record.build(Outer, {**asdict(WHOLE), **change})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.sampled_from(["name", "ports", "inner", "factor", "x"]), part),
)


@given(JSON)
def test_any_value_is_built_or_refused(value: object) -> None:
    try:
        built = record.build(Outer, record.parse(json.dumps(value)))
    except ValueError:
        return
    assert isinstance(built.name, str)
    assert all(type(port) is int for port in built.ports)

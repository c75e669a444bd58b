"""JSON that a file or another program holds, read without trust: state files are edited, cut short and swapped."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse(text: str | bytes | bytearray) -> Any:
    """The value of a JSON text. Raises ``ValueError`` for all else: nested too deeply, and numbers that JSON does not have
    (Infinity, NaN) or a float cannot hold, which Python takes and which break whoever counts with them."""
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        return _decoder().decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def build(kind: type[T], data: object) -> T:
    """The dataclass ``kind`` of the fields in the object ``data``, which must have the types that ``kind`` says.

    Those may be str, int, float, bool, None, unions of these, tuples of any length, and dataclasses (also built already). Raises ``ValueError``.
    """
    if not (isinstance(data, dict) and is_dataclass(kind)):
        raise ValueError(f"no {kind.__name__}")
    types = _types(kind)
    known = {field.name for field in fields(kind)}
    if unknown := data.keys() - known:
        raise ValueError(f"{kind.__name__} has no {min(map(str, unknown))}")
    try:
        return kind(**{name: _fitting(types[name], value, name) for name, value in data.items()})
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from None


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fitting(kind: Any, value: Any, name: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return value if isinstance(value, kind) else build(kind, value)
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_fitting(get_args(kind)[0], each, name) for each in value)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if type(value) not in kinds and not (type(value) is int and float in kinds):
        raise ValueError(f"{name} is of another type")
    return value


@cache
def _decoder() -> json.JSONDecoder:
    """Made once: events of etcd come as many small texts."""
    return json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number

"""JSON that a file or another program holds, read without trust: state files are edited, cut short and swapped."""

from __future__ import annotations

import builtins
import json
import math
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def parse(text: str | bytes | bytearray) -> Any:
    """The value of a JSON text. Raises ``ValueError`` for all else: nested too deeply, and numbers that JSON does not
    have (Infinity, NaN) or a float cannot hold, which Python accepts and which break calculations."""
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    try:
        return _decoder().decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def build(kind: type[T], data: object) -> T:
    """The dataclass ``kind`` of the fields in the object ``data``, which must have the types that ``kind`` declares.

    See :func:`fit`.

    Raises ``ValueError``.
    """
    if not (isinstance(data, dict) and is_dataclass(kind)):
        raise ValueError(f"no {kind.__name__}")
    types = _types(kind)
    known = {field.name for field in fields(kind)}
    if unknown := data.keys() - known:
        raise ValueError(f"{kind.__name__} has no {min(map(str, unknown))}")
    try:
        return kind(**{name: fit(types[name], value, name) for name, value in data.items()})
    except TypeError as error:  # a field is missing
        raise ValueError(str(error)) from None


@cache
def _types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def fit(kind: Any, value: object, name: str) -> Any:
    """``value``, called ``name`` in complaints, as one of type ``kind``.

    That may be str, int, float, bool, None, a union of these and one other, a tuple of one type or of a given length, a
    dict with str for keys, or a dataclass (also built already). Raises ``ValueError``.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if type(value) in kinds or (value is None and None in kinds):
        return value
    if type(value) is int and float in kinds:
        return _as_float(value)
    for each in kinds:
        inner = get_args(each)
        match get_origin(each), value:
            case (None, dict()) if is_dataclass(each) and isinstance(each, type):
                return build(each, value)
            case (builtins.tuple, list() | tuple()) if inner[1:] == (...,):
                return tuple(fit(inner[0], part, name) for part in value)
            case (builtins.tuple, list() | tuple()) if len(inner) == len(value):
                return tuple(fit(part, given, name) for part, given in zip(inner, value, strict=True))
            case (builtins.dict, dict()) if all(type(key) is str for key in value):
                return {key: fit(inner[1], part, f"{name}.{key}") for key, part in value.items()}
    raise ValueError(f"{name} is of another type")


def _as_float(value: int) -> int:
    try:
        float(value)
    except OverflowError:
        raise ValueError("a number is too large") from None
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

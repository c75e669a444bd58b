"""Settings that go into a file beside those of others: JSON objects, and lines ``NAME=value``. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from terminal import Failure, record

JSON = "json"
ENVIRONMENT = "environment"
_NAME = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")


def merge(kind: str, old: bytes, new: bytes) -> bytes:
    """``old`` with ``new`` in it; an empty ``old`` is nothing. Raises Failure if ``old`` is not of the kind."""
    if kind == ENVIRONMENT:
        return _environment(old.decode("utf-8", "replace"), new.decode()).encode()
    if not old.strip():
        return new
    try:
        there = record.parse(old)
    except ValueError:
        there = None
    if not isinstance(there, dict):
        raise Failure("the file is not a JSON object, so nothing can be added to it")
    return (json.dumps(_deep(there, record.parse(new)), indent=2, sort_keys=True) + "\n").encode()


def _deep(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Keys of ``new`` win, objects are merged, lists are replaced."""
    merged = dict(old)
    for key, value in new.items():
        there = merged.get(key)
        merged[key] = _deep(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return merged


def _environment(old: str, new: str) -> str:
    """Lines of ``new`` in the place of those that set the same name, the others at the end; all other lines stay."""
    wanted = {match[1]: line for line in new.splitlines() if (match := _NAME.match(line))}
    lines: list[str] = []
    for line in old.splitlines():
        match = _NAME.match(line)
        if match is None or match[1] not in wanted:
            lines.append(line)
        elif wanted[match[1]] not in lines:
            lines.append(wanted[match[1]])
    lines += [line for line in wanted.values() if line not in lines]
    return "".join(f"{line}\n" for line in lines)

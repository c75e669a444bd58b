"""The JSON shapes of API v1, and the body of a PUT.

Empty fields and empty lists are left out, as the original does. Our additions: ``statusReason`` of a unit, ``error``,
``start``, ``note`` and ``log`` of a unit state, ``hint`` of an error, and the answers of ``/why``, ``/progress`` and
``/events``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from fleet.model.entities import Desired, Machine, Unit, UnitState
from fleet.model.events import Batch, Event
from fleet.model.registry import ASK_MAX
from terminal import Failure, record
from unitfile.name import UnitName
from unitfile.text import Option, UnitFile, UnitFileError

BODY_SIZE_MAX = 4 << 20
"""Bytes of a request body: the largest unit file with room for JSON's escapes."""

PAGE_ROWS = 100
"""Rows of one page, the original's ``token_limit``."""

PROGRESS_UNITS_MAX = 1000
"""Units of one request for their progress."""

METADATA_CHANGES_MAX = 100
"""Keys that one PATCH may change: etcd accepts 128 in a transaction."""

METADATA_VALUE_MAX = 1024
"""Characters of one metadata value."""

_METADATA_PATH = re.compile(r"/([A-Za-z0-9_.-]{1,64})/metadata/([A-Za-z0-9_.-]{1,255})")

Json = dict[str, object]
Shape = TypeVar("Shape")


class BadRequest(Failure):
    """The API does not accept the request: HTTP 400."""


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """The body of a PUT.

    When absent, ``name`` is "" and ``desired`` ``None``; ``unitfile`` is ``None`` without options."""

    name: str
    unitfile: UnitFile | None
    desired: Desired | None

    @classmethod
    def parse(cls, body: bytes) -> UnitRequest:
        """Read the JSON of a PUT.

        Raises :class:`BadRequest`, or :class:`unitfile.text.UnitFileError` for the options."""
        return cls.of(_parsed(body, dict, "object"))

    @classmethod
    def of(cls, fields: Mapping[str, object]) -> UnitRequest:
        """As :meth:`parse`, of the object."""
        raw = fields.get("options") or []
        if not isinstance(raw, list):
            raise BadRequest("options is no list")
        wanted = _text(fields, "desiredState")
        try:
            desired = Desired(wanted) if wanted else None
        except ValueError:
            raise BadRequest(f"desiredState {wanted[:80]!r} is none of {', '.join(Desired)}") from None
        options = [_option(each) for each in raw]
        return cls(_text(fields, "name"), UnitFile.of(options) if options else None, desired)


def requested(body: bytes) -> dict[str, tuple[UnitFile | None, Desired]]:
    """The body of a POST to ``/ask``: text, if it is given, and desired state of each unit.

    Raises :class:`BadRequest`, or as :meth:`UnitRequest.parse`, with the unit's name."""
    raw = _parsed(body, dict, "object").get("units")
    if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
        raise BadRequest("units is no list of objects")
    if len(raw) > ASK_MAX:
        raise BadRequest(f"{len(raw)} units at once, {ASK_MAX} is the most")
    wanted: dict[str, tuple[UnitFile | None, Desired]] = {}
    for each in raw:
        try:
            unit = UnitRequest.of(each)
        except (BadRequest, UnitFileError) as error:
            raise BadRequest(str(error), where=str(each.get("name", ""))[:80] or None, hint=error.hint) from None
        name = str(UnitName.parse(unit.name))
        if unit.desired is None or name in wanted:
            raise BadRequest("desiredState is empty, or the unit is there twice", where=name)
        wanted[name] = (unit.unitfile, unit.desired)
    return wanted


@dataclass(frozen=True, slots=True)
class ProgressRequest:
    """The body of a POST to ``/progress``: units, each with the machine where it was last seen, or "".

    ``is_brief``: the texts are not wanted."""

    units: Mapping[str, str]
    is_brief: bool

    @classmethod
    def parse(cls, body: bytes) -> ProgressRequest:
        """Read the JSON. Raises :class:`BadRequest`, or :class:`unitfile.name.UnitNameError`."""
        fields = _parsed(body, dict, "object")
        raw = fields.get("units")
        if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
            raise BadRequest("units is no list of objects")
        if len(raw) > PROGRESS_UNITS_MAX:
            raise BadRequest(f"{len(raw)} units at once, {PROGRESS_UNITS_MAX} is the most")
        units = {str(UnitName.parse(_text(each, "name"))): _text(each, "machineID") for each in raw}
        return cls(units, fields.get("brief") is True)


def metadata_changes(body: bytes) -> dict[tuple[str, str], str]:
    """The body of ``PATCH /machines``: metadata by (machine, key), "" for what is removed; raises :class:`BadRequest`.

    It looks like JSON Patch (RFC 6902). The original's documents write ``"value": "x"``, its code wants
    ``"value": {"value": "x"}``: both are right here.
    """
    changes: dict[tuple[str, str], str] = {}
    for each in _parsed(body, list, "list"):
        if not isinstance(each, dict):
            raise BadRequest("an operation is no object")
        operation, path = _text(each, "op"), _text(each, "path")
        found = _METADATA_PATH.fullmatch(path)
        if found is None:
            raise BadRequest(f"path {path[:80]!r} is not /<machine id>/metadata/<key>")
        changes[found[1], found[2]] = _metadata_value(operation, each.get("value"))
    if len(changes) > METADATA_CHANGES_MAX:
        raise BadRequest(f"{len(changes)} keys at once, {METADATA_CHANGES_MAX} is the most")
    return changes


def _metadata_value(operation: str, value: object) -> str:
    if operation == "remove":
        return ""
    if operation not in ("add", "replace"):
        raise BadRequest(f"op {operation[:80]!r} is none of add, remove, replace")
    text = value.get("value") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(text) > METADATA_VALUE_MAX:
        raise BadRequest(
            f"a value must be text of 1 to {METADATA_VALUE_MAX} printable characters", hint="to take it away: op remove"
        )
    return text.strip()


def machine(value: Machine) -> Json:
    """A machine that is alive."""
    return _compact({"id": value.id, "primaryIP": value.ip, "metadata": dict(sorted(value.metadata.items()))})


def unit(value: Unit, *, current: str, machine_id: str, reason: str = "") -> Json:
    """A unit with its text. ``current`` "" leaves the current state out."""
    options = [{"section": each.section, "name": each.name, "value": each.value} for each in value.unitfile.options]
    return _compact(
        {
            "name": value.name,
            "options": options,
            "desiredState": value.desired.value,
            "currentState": current,
            "machineID": machine_id,
            "statusReason": reason,
        }
    )


def progress(
    value: Unit, *, current: str, machine_id: str, reason: str, states: Sequence[UnitState], is_brief: bool
) -> Json:
    """A unit, without its text if ``is_brief``, and the machines' reports about it."""
    shown = unit(value, current=current, machine_id=machine_id, reason=reason)
    if is_brief:
        shown.pop("options", None)
    return shown | _compact({"states": [state(each) for each in states]})


def why(value: Unit, *, current: str, machine_id: str, reason: str) -> Json:
    """The answer of ``/why``: a unit without its text, and the reason."""
    return _compact(
        {
            "name": value.name,
            "desiredState": value.desired.value,
            "currentState": current,
            "machineID": machine_id,
            "reason": reason,
        }
    )


def state(value: UnitState) -> Json:
    """A machine's report about a unit."""
    return _compact(
        {
            "name": value.name,
            "hash": value.hash,
            "machineID": value.machine,
            "systemdLoadState": value.load,
            "systemdActiveState": value.active,
            "systemdSubState": value.sub,
            "error": value.error,
            "start": value.start,
            "note": value.note,
            "log": list(value.log),
        }
    )


def event(batch: Batch, value: Event) -> Json:
    """One event, with what its batch has for all of them. ``time`` is UTC (RFC 3339)."""
    at = datetime.fromtimestamp(batch.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _compact(
        {
            "revision": batch.revision,
            "time": at,
            "kind": value.kind,
            "unit": value.unit,
            "machine": value.machine,
            "former": value.former,
            "by": batch.by,
            "reason": value.reason,
        }
    )


def error(code: int, message: str, hint: str | None = None) -> Json:
    """An error body."""
    return {"error": _compact({"code": code, "message": message, "hint": hint or ""})}


def _parsed(body: bytes, shape: type[Shape], name: str) -> Shape:
    try:
        found = record.parse(body)
    except ValueError:
        raise BadRequest("the body is not JSON") from None
    if not isinstance(found, shape):
        raise BadRequest(f"the body is no JSON {name}")
    return found


def _compact(fields: Json) -> Json:
    return {key: value for key, value in fields.items() if value not in ("", [], {})}


def _option(value: object) -> Option:
    if not isinstance(value, dict):
        raise BadRequest("an option is no object")
    return Option(_text(value, "section"), _text(value, "name"), _text(value, "value"))


def _text(fields: Mapping[str, object], name: str) -> str:
    found = fields.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise BadRequest(f"{name} is no text")
    return found

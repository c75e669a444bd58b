"""What the values in etcd look like: JSON objects with a version ``v``, one shape a kind of key.

A reader is strict about what it uses and lenient about what it does not know, so that a newer writer may add a field
without raising ``v``. Whatever cannot be used raises :class:`BrokenValue`; nothing else ever comes out of here,
whatever the bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from sys import intern

from fleet.model.entities import Desired, Machine, Placement, Unit, UnitState
from fleet.model.events import REASON_MAX, Batch, Event
from terminal import Failure, record
from unitfile.name import UnitName, UnitNameError
from unitfile.text import UnitFile, UnitFileError, hash_of, is_plain

VERSION = 1
"""Of every value. A reader skips any other version."""

SIZE_MAX = 4 << 20
"""Bytes of a value that are looked at: a unit file's cap with room for JSON's escapes."""

_TIME_END = 32503680000  # the year 3000, in Unix seconds
_REVISION_END = 1 << 63
_DESIRED = {each.value: each for each in Desired}
_MACHINE_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class BrokenValue(Failure):
    """A value does not have the format of its key."""


# Writing


def machine_bytes(machine: Machine) -> bytes:
    """The value of ``machines/<id>``."""
    return _dump({"id": machine.id, "ip": machine.ip, "metadata": dict(machine.metadata), "boot": machine.boot})


def metadata_bytes(machine: str, key: str, value: str) -> bytes:
    """The value of ``metadata/<machine>/<key>``."""
    return _dump({"machine": machine, "key": key, "value": value})


def unit_bytes(unit: Unit) -> bytes:
    """The value of ``units/<name>``."""
    return _dump({"name": unit.name, "desired": unit.desired.value, "hash": unit.hash, "text": unit.text})


def placement_bytes(placement: Placement) -> bytes:
    """The value of ``schedule/<machine>/<unit>``."""
    return _dump(
        {
            "unit": placement.unit,
            "machine": placement.machine,
            "desired": placement.desired.value,
            "hash": placement.hash,
            "everywhere": placement.everywhere,
            "reason": placement.reason,
            "text": placement.text,
        }
    )


def state_bytes(state: UnitState) -> bytes:
    """The value of ``states/<machine>/<unit>``."""
    return _dump(
        {
            "unit": state.name,
            "machine": state.machine,
            "load": state.load,
            "active": state.active,
            "sub": state.sub,
            "hash": state.hash,
            "reached": state.reached.value,
            "error": state.error,
            "start": state.start,
            "note": state.note,
            "log": list(state.log),
        }
    )


def status_bytes(reason: str) -> bytes:
    """The value of ``status/<unit>``."""
    return _dump({"reason": reason})


def leader_bytes(machine: str) -> bytes:
    """The value of ``engine/leader``."""
    return _dump({"machine": machine})


def batch_bytes(batch: Batch) -> bytes:
    """The value of a batch of events."""
    rows = [
        {
            "kind": each.kind,
            **({"unit": each.unit} if each.unit else {}),
            **({"machine": each.machine} if each.machine else {}),
            **({"former": each.former} if each.former else {}),
            **({"reason": each.reason[:REASON_MAX]} if each.reason else {}),
        }
        for each in batch.events
    ]
    return _dump({"at": batch.at, "by": batch.by, "events": rows})


def revision_bytes(revision: int) -> bytes:
    """The value of a key that holds a revision."""
    return _dump({"revision": revision})


# Reading: each takes the key without the prefix, and the value. What several values of a cluster have in common (a
# unit's name and text, a machine's id) is interned, so that a view of all of them holds it once.


def machine(key: str, value: bytes) -> Machine:
    """A machine that is alive."""
    fields = _load(value)
    found = Machine(machine_id(_text(fields, "id")), _text(fields, "ip"), _metadata(fields), _text(fields, "boot"))
    _same(key, f"machines/{found.id}")
    return found


def metadata(key: str, value: bytes) -> str:
    """A machine's metadata that was set at run time; "" for one that was removed."""
    fields = _load(value)
    _same(key, f"metadata/{machine_id(_text(fields, 'machine'))}/{_text(fields, 'key')}")
    return _text(fields, "value")


def unit(key: str, value: bytes) -> Unit:
    """A unit that a user submitted."""
    fields = _load(value)
    text = _text(fields, "text")
    try:
        name = str(UnitName.parse(_text(fields, "name")))
        if not is_plain(text):
            text = UnitFile.parse(text).serialize()
    except (UnitNameError, UnitFileError) as error:
        raise BrokenValue(str(error)) from error
    _same(key, f"units/{name}")
    return Unit(intern(name), intern(text), intern(hash_of(text)), _desired(fields, "desired"))


def placement(key: str, value: bytes) -> Placement:
    """An order to a machine. The text is kept unchanged: the agent writes it, and need not read it."""
    fields = _load(value)
    try:
        name = str(UnitName.parse(_text(fields, "unit")))
    except UnitNameError as error:
        raise BrokenValue(str(error)) from error
    found = Placement(
        unit=intern(name),
        machine=intern(machine_id(_text(fields, "machine"))),
        desired=_desired(fields, "desired"),
        text=intern(_text(fields, "text")),
        hash=intern(_text(fields, "hash")),
        everywhere=_flag(fields, "everywhere"),
        reason=intern(_text(fields, "reason")),
    )
    _same(key, f"schedule/{found.machine}/{found.unit}")
    return found


def broken_placement(machine: str, unit: str) -> Placement | None:
    """A placeholder for an order that cannot be read; ``None`` when the key is not ours either."""
    try:
        return Placement(str(UnitName.parse(unit)), machine_id(machine), Desired.LOADED, text="", hash="")
    except (UnitNameError, BrokenValue):
        return None


def state(key: str, value: bytes) -> UnitState:
    """A machine's report about a unit."""
    fields = _load(value)
    found = UnitState(
        name=intern(_text(fields, "unit")),
        machine=intern(_text(fields, "machine")),
        load=intern(_text(fields, "load")),
        active=intern(_text(fields, "active")),
        sub=intern(_text(fields, "sub")),
        hash=intern(_text(fields, "hash")),
        reached=_desired(fields, "reached"),
        error=_text(fields, "error"),
        start=_text(fields, "start"),
        note=_text(fields, "note"),
        log=_lines(fields, "log"),
    )
    _same(key, f"states/{found.machine}/{found.name}")
    return found


def status(_key: str, value: bytes) -> str:
    """The engine's explanation of a unit."""
    return _text(_load(value), "reason")


def leader(_key: str, value: bytes) -> str:
    """The machine of the leading engine."""
    return machine_id(_text(_load(value), "machine"))


def batch(_key: str, value: bytes) -> Batch:
    """A batch of events; revision and key are not in its value."""
    fields = _load(value)
    at, rows = fields.get("at"), fields.get("events")
    if isinstance(at, bool) or not isinstance(at, int | float) or not 0 <= at < _TIME_END:
        raise BrokenValue("at is no time")
    if not isinstance(rows, list) or not rows or not all(isinstance(each, dict) for each in rows):
        raise BrokenValue("events is no list of objects")
    events = (
        Event(
            intern(_text(each, "kind")),
            _text(each, "unit"),
            _text(each, "machine"),
            _text(each, "former"),
            _text(each, "reason"),
        )
        for each in rows
    )
    return Batch(float(at), _text(fields, "by"), tuple(events))


def revision(_key: str, value: bytes) -> int:
    """A revision."""
    found = _load(value).get("revision")
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < _REVISION_END:
        raise BrokenValue("revision is none")
    return found


def machine_id(text: str) -> str:
    """``text`` when it can be a machine's id and a part of a key; raises :class:`BrokenValue` otherwise."""
    if not _MACHINE_ID.fullmatch(text):
        raise BrokenValue(f"{text[:70]!r} is no machine id")
    return text


def _dump(fields: Mapping[str, object]) -> bytes:
    return json.dumps({"v": VERSION, **fields}, ensure_ascii=False, separators=(",", ":")).encode()


def _load(value: bytes) -> dict[str, object]:
    if len(value) > SIZE_MAX:
        raise BrokenValue(f"{len(value)} bytes, {SIZE_MAX} is the most")
    try:
        text = value.decode()
        fields = record.parse(text)
        if "\\u" in text:
            # Raises for half a surrogate pair, which would fail later, where it is written.
            json.dumps(fields, ensure_ascii=False).encode()
    except ValueError as error:
        raise BrokenValue("not JSON") from error
    if not isinstance(fields, dict):
        raise BrokenValue("JSON, but no object")
    version = fields.get("v")
    if version != VERSION or isinstance(version, bool):
        raise BrokenValue(f"version {version!r}, this program knows {VERSION}")
    return fields


def _text(fields: Mapping[str, object], name: str) -> str:
    found = fields.get(name, "")
    if not isinstance(found, str):
        raise BrokenValue(f"{name} is no text")
    return found


def _lines(fields: Mapping[str, object], name: str) -> tuple[str, ...]:
    found = fields.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise BrokenValue(f"{name} is no list of texts")
    return tuple(found)


def _flag(fields: Mapping[str, object], name: str) -> bool:
    found = fields.get(name, False)
    if not isinstance(found, bool):
        raise BrokenValue(f"{name} is neither true nor false")
    return found


def _desired(fields: Mapping[str, object], name: str) -> Desired:
    found = _DESIRED.get(_text(fields, name))
    if found is None:
        raise BrokenValue(f"{name} is none of {', '.join(Desired)}")
    return found


def _metadata(fields: Mapping[str, object]) -> dict[str, str]:
    found = fields.get("metadata", {})
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise BrokenValue("metadata is no object of texts")
    return dict(found)


def _same(key: str, expected: str) -> None:
    if key != expected:
        raise BrokenValue(f"belongs at {expected}")

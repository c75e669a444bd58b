"""The state of the cluster, or a part of it, in dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from sys import intern
from typing import Protocol, TypeVar

from etcd.protocol import KeyValue
from fleet.model import codec
from fleet.model.entities import Machine, Placement, Unit, UnitState

Key = TypeVar("Key")
Value = TypeVar("Value")


class Reader(Protocol):
    """What reads values: a :class:`fleet.model.registry.Registry`."""

    prefix: str

    def decoded(self, found: KeyValue, decode: Callable[[str, bytes], Value], /) -> Value | None:
        """See :meth:`fleet.model.registry.Registry.decoded`."""

    def forget(self, key: str, /) -> None:
        """See :meth:`fleet.model.registry.Registry.forget`."""


class Overview:
    """The state of the cluster in dicts.

    It is one read of the prefix, kept up to date with :meth:`put` and :meth:`delete`.

    Keys of ``placements`` and ``states`` are (machine, unit). ``revision`` is the last one that is in it.

    A value that cannot be read is not the same as none: ``alive`` has the ids of all machine keys, readable or not,
    with the revision that made each; ``ordered`` the revision of the last order that was made for each machine, which
    was alive then; ``unreadable`` the names of units whose value is broken (``units`` keeps what was last read of
    them); a broken order counts as one with an empty text, so that the engine writes it again. ``machines`` have their
    metadata merged: values set at run time override those of the machine, and a machine of which a part cannot be read
    is left out. ``posts`` has the machine of each post of engines that is held.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.revision = 0
        self.alive: dict[str, int] = {}
        self.ordered: dict[str, int] = {}
        self.unreadable: set[str] = set()
        self.machines: dict[str, Machine] = {}
        self.units: dict[str, Unit] = {}
        self.placements: dict[tuple[str, str], Placement] = {}
        self.states: dict[tuple[str, str], UnitState] = {}
        self.reasons: dict[str, str] = {}
        self.posts: dict[str, str] = {}
        self._registered: dict[str, Machine] = {}
        self._metadata: dict[str, dict[str, str | None]] = {}  # "" hides a machine's own, None cannot be read

    def put(self, found: KeyValue) -> None:
        """Take a key's new value."""
        kind, _, rest = found.key.removeprefix(self._reader.prefix).partition("/")
        decoded = self._reader.decoded
        match kind:
            case "machines":
                self.alive[rest] = found.create_revision
                _set(self._registered, rest, decoded(found, codec.machine))
                self._merge(rest)
            case "metadata":
                machine, key = _pair(rest)
                self._metadata.setdefault(machine, {})[key] = decoded(found, codec.metadata)
                self._merge(machine)
            case "units":
                unit = decoded(found, codec.unit)
                if unit is None:
                    self.unreadable.add(rest)
                else:
                    self.unreadable.discard(rest)
                    self.units[rest] = unit
            case "schedule":
                machine, name = _pair(rest)
                self.ordered[machine] = max(found.create_revision, self.ordered.get(machine, 0))
                order = decoded(found, codec.placement) or codec.broken_placement(machine, name)
                _set(self.placements, (machine, name), order)
            case "states":
                _set(self.states, _pair(rest), decoded(found, codec.state))
            case "status":
                _set(self.reasons, rest, decoded(found, codec.status))
            case "engine":
                self.posts[rest] = decoded(found, codec.leader) or ""

    def delete(self, key: str) -> None:
        """A key is gone."""
        self._reader.forget(key)
        kind, _, rest = key.removeprefix(self._reader.prefix).partition("/")
        match kind:
            case "machines":
                self.alive.pop(rest, None)
                self._registered.pop(rest, None)
                self._merge(rest)
            case "metadata":
                machine, name = _pair(rest)
                self._metadata.get(machine, {}).pop(name, None)
                self._merge(machine)
            case "units":
                self.unreadable.discard(rest)
                self.units.pop(rest, None)
            case "schedule":
                self.placements.pop(_pair(rest), None)
            case "states":
                self.states.pop(_pair(rest), None)
            case "status":
                self.reasons.pop(rest, None)
            case "engine":
                self.posts.pop(rest, None)

    def each(self, names: Sequence[str]) -> dict[str, tuple[Unit, str]]:
        """As :meth:`fleet.model.registry.Registry.each`."""
        return {
            name: (self.units[name], self.reasons.get(name, ""))
            for name in names
            if name in self.units and name not in self.unreadable
        }

    def on_machines(self, units: Mapping[str, str]) -> dict[str, tuple[list[Placement], list[UnitState]]]:
        """As :meth:`fleet.model.registry.Registry.on_machines`.

        A unit that is where it is believed to be costs one look at two dicts."""
        found: dict[str, tuple[list[Placement], list[UnitState]]] = {}
        machines = sorted(self.alive)
        for name, believed in units.items():
            order = self.placements.get((believed, name)) if believed in self.alive else None
            places = machines if order is None or order.everywhere else [believed]
            found[name] = (
                [order for place in places if (order := self.placements.get((place, name)))],
                [state for place in places if (state := self.states.get((place, name)))],
            )
        return found

    def _merge(self, machine: str) -> None:
        found = self._registered.get(machine)
        over = self._metadata.get(machine, {})
        if found is not None and over:
            merged = {key: value for key, value in found.metadata.items() if key not in over}
            merged.update((key, value) for key, value in over.items() if value)
            found = None if None in over.values() else replace(found, metadata=merged)
        _set(self.machines, machine, found)


def _pair(rest: str) -> tuple[str, str]:
    machine, _, unit = rest.partition("/")
    return intern(machine), intern(unit)


def _set(into: dict[Key, Value], key: Key, value: Value | None) -> None:
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value

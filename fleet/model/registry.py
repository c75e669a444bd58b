"""The cluster's state in etcd: the one place that knows fleet's keys and what their values mean.

Keys under one prefix (``/flotilla/fleet/`` by default), with who writes each:

=====================================  ===============================================================
``machines/<id>``                      the machine's agent, under its lease
``metadata/<id>/<key>``                the HTTP API; it overrides the machine's own, and outlives the machine
``units/<name>``                       the HTTP API
``schedule/<machine>/<unit>``          the leading engine, fenced
``states/<machine>/<unit>``            the machine's agent, under its lease
``status/<unit>``                      the leading engine, fenced: why a unit is nowhere, or where a global one is
``engine/leader``                      the leader, under a lease of its own
``engine/standby/<number>``            an engine that is ready to succeed, under a lease of its own
=====================================  ===============================================================

Beside them, under a prefix of its own, is the log of events (:mod:`fleet.model.eventlog`).

Values are JSON objects with a version ``v`` (see :mod:`fleet.model.codec`). A value of another version, or a broken
one, is skipped and listed by :meth:`Registry.problems`; it never stops anything.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TypeVar

from etcd.protocol import Compare, Etcd, KeyValue, Op, RangeResult
from fleet.model import codec
from fleet.model.entities import Desired, Machine, Placement, Unit, UnitState
from fleet.model.eventlog import EventLog
from fleet.model.events import Event, Kind
from fleet.model.overview import Overview
from fleet.model.requirements import check_unit
from fleet.model.vitals import Vitals
from terminal import Failure
from unitfile.text import UnitFile, UnitFileError

PREFIX = "/flotilla/fleet/"
LEADER = "leader"
"""The leader's post."""

VALUE_MAX = 1 << 20
"""Bytes of a unit's value. etcd takes 1.5 MiB a request.

The order for the unit, which says a little more, must fit too."""

ASK_MAX = 100
"""Units that may be changed in one transaction, if they are small enough to be one request to etcd."""

LOCAL = "local"
"""Who changes something, if it is a program on this machine."""

_ATTEMPTS = 8
_WIDE_MAX = 5_000
"""Pairs of machine and unit that are looked up one by one: 100 transactions, as a thousand machines cost for five
units. A whole cluster of 50,000 units takes etcd as long as 1,000 transactions do."""
_TXN_OPS = 100  # etcd's own limit of operations in one transaction is 128 (--max-txn-ops)
_LOG = logging.getLogger(__name__)

Value = TypeVar("Value")


class NoSuchUnit(Failure):
    """The cluster has no unit of that name."""

    def __init__(self, name: str) -> None:
        super().__init__("no such unit", where=name, hint="see the names with: fleetctl list-unit-files")


class UnitExists(Failure):
    """The cluster has a unit of that name already, with another text or desired state."""

    def __init__(self, name: str) -> None:
        super().__init__("a unit of that name exists already", where=name, hint="use --replace to give it another text")


class Contended(Failure):
    """Other writers changed the unit repeatedly while we tried to."""

    def __init__(self, name: str) -> None:
        super().__init__("the unit is being changed by others at the same time", where=name, hint="try again")


@dataclass(frozen=True, slots=True)
class Problem:
    """A value in etcd that was skipped: its key and what is wrong with it."""

    key: str
    message: str


class Registry:
    """Reads and changes of the cluster's state. Thread-safe as far as the client is.

    Any method may raise :class:`etcd.errors.Unavailable` when etcd cannot be reached in time. Changes are single
    transactions, so that two writers never leave a mixture; each writes into ``log`` what it changes and ``by`` whom.
    ``vitals`` are the numbers of this fleetd.
    """

    def __init__(self, client: Etcd, prefix: str = PREFIX, *, vitals: Vitals | None = None) -> None:
        if not prefix.startswith("/") or not prefix.endswith("/"):
            raise Failure("the key prefix must begin and end with a slash", where=repr(prefix))
        self.client = client
        self.prefix = prefix
        self.vitals = vitals or Vitals()
        self.log = EventLog(client, prefix, self.vitals)
        self.written = 0
        """The revision of the last change by the methods below."""
        self._problems: dict[str, Problem] = {}
        self._lock = threading.Lock()

    # Reading

    def machines(self) -> list[Machine]:
        """The machines that are alive, by id, with their merged metadata."""
        view = Overview(self)
        for part in ("machines/", "metadata/"):
            for each in self.ranged(self.prefix + part).kvs:
                view.put(each)
        return [view.machines[each] for each in sorted(view.machines)]

    def units(self) -> list[Unit]:
        """All units, by name."""
        return [unit for _, unit in self._range("units/", codec.unit)]

    def unit(self, name: str) -> Unit | None:
        """One unit; ``None`` when there is none of that name, or only a broken value."""
        return self._get(self.key_unit(name), codec.unit)

    def states(self, machine: str | None = None) -> list[UnitState]:
        """The machines' reports about units, by (machine, unit); only those of ``machine`` when given."""
        part = "states/" if machine is None else f"states/{machine}/"
        return [state for _, state in self._range(part, codec.state)]

    def states_of(self, unit: str) -> list[UnitState]:
        """The reports about one unit, by machine."""
        return self.on_machines({unit: ""})[unit][1]

    def on_machines(self, units: Mapping[str, str]) -> dict[str, tuple[list[Placement], list[UnitState]]]:
        """The orders for each unit and the reports about it, by machine, of machines that are alive.

        ``units`` has the machine where each is believed to be, or "". If that is right, it costs two keys, and two keys
        a machine otherwise. Where that would be more than reading everything, everything is read.
        """
        machines = [each.key.rpartition("/")[2] for each in self.client.range(self.prefix + "machines/").kvs]
        alive = set(machines)
        found = self._on([(machine, name) for name, machine in units.items() if machine in alive])
        lost = [name for name in units if not any(not each.everywhere for each in found.get(name, ((), ()))[0])]
        if len(lost) * len(machines) <= _WIDE_MAX:
            found |= self._on([(machine, name) for name in lost for machine in machines])
        else:
            found |= self._everywhere(set(lost), alive)
        return {name: found.get(name, ([], [])) for name in units}

    def _on(self, places: Sequence[tuple[str, str]]) -> dict[str, tuple[list[Placement], list[UnitState]]]:
        """Orders and reports of these (machine, unit); those of one unit at one revision, if there are not many."""
        found: dict[str, tuple[list[Placement], list[UnitState]]] = {}
        keys = [(self.key_schedule(*place), self.key_state(*place)) for place in places]
        for (_, name), (orders, states) in zip(places, self._pairs(keys), strict=True):
            here = found.setdefault(name, ([], []))
            here[0].extend(order for each in orders if (order := self.decoded(each, codec.placement)))
            here[1].extend(state for each in states if (state := self.decoded(each, codec.state)))
        return found

    def _pairs(self, keys: Sequence[tuple[str, str]]) -> Iterator[tuple[Sequence[KeyValue], Sequence[KeyValue]]]:
        """What is at these pairs of keys, each pair at one revision; many of them by several transactions."""
        for begin in range(0, len(keys), _TXN_OPS // 2):
            some = keys[begin : begin + _TXN_OPS // 2]
            answers = self.client.txn([], [Op.get(key) for pair in some for key in pair]).responses
            yield from ((one.kvs, other.kvs) for one, other in zip(answers[::2], answers[1::2], strict=True))

    def _everywhere(self, names: Set[str], alive: Set[str]) -> dict[str, tuple[list[Placement], list[UnitState]]]:
        found: dict[str, tuple[list[Placement], list[UnitState]]] = {}
        for _, order in self._range("schedule/", codec.placement, names):
            if order.machine in alive:
                found.setdefault(order.unit, ([], []))[0].append(order)
        for _, state in self._range("states/", codec.state, names):
            if state.machine in alive:
                found.setdefault(state.name, ([], []))[1].append(state)
        return found

    def each(self, names: Sequence[str]) -> dict[str, tuple[Unit, str]]:
        """Those of these units that exist, with the engine's explanation (see :meth:`unit_status`; "" for none)."""
        found: dict[str, tuple[Unit, str]] = {}
        keys = [(self.key_unit(name), self.key_status(name)) for name in names]
        for name, (units, reasons) in zip(names, self._pairs(keys), strict=True):
            unit = next((self.decoded(each, codec.unit) for each in units), None)
            if unit is not None:
                reason = next((self.decoded(each, codec.status) for each in reasons), None)
                found[name] = (unit, reason or "")
        return found

    def placements(self) -> dict[str, str]:
        """The machine of each placed unit. Global units are on many machines and are left out."""
        return {each.unit: each.machine for _, each in self._range("schedule/", codec.placement) if not each.everywhere}

    def unit_status(self, name: str) -> str | None:
        """The engine's explanation of a unit that has no order, or is global; ``None`` when there is none.

        Why any other is where it is, its order says.
        """
        return self._get(self.key_status(name), codec.status)

    def overview(self) -> Overview:
        """Everything at one revision, in one read."""
        found = self.ranged(self.prefix)
        view = Overview(self)
        for each in found.kvs:
            view.put(each)
        view.revision = found.revision
        return view

    def revision(self) -> int:
        """etcd's revision now; costs one small read."""
        return self.client.range(self.key_leader).revision

    def problems(self) -> list[Problem]:
        """Values that this registry has skipped and not read successfully since, by key."""
        with self._lock:
            return [self._problems[key] for key in sorted(self._problems)]

    # Changing units (the engine's and the agent's writes are in their own modules)

    def create_unit(self, unit: Unit, *, replace: bool = False, by: str = LOCAL) -> None:
        """Store a unit. With ``replace``, one of that name is overwritten in the same transaction.

        Raises :class:`UnitExists` (the same unit again is no error), and
        :class:`fleet.model.requirements.RequirementsError` or :class:`unitfile.name.UnitNameError` for a unit that no
        machine may run.
        """
        value = _unit_value(unit)
        key = self.key_unit(unit.name)
        events = [Event(Kind.REPLACED if replace else Kind.SUBMITTED, unit.name), *_requests(unit, Desired.INACTIVE)]
        ops = [Op.put(key, value), self.log.put(events, by)]
        if replace:
            self._wrote(self.client.txn([], ops).revision)
            return
        done = self.client.txn([Compare.version(key, "==", 0)], ops, [Op.get(key)])
        if done.succeeded:
            self._wrote(done.revision)
        elif [self.decoded(each, codec.unit) for each in done.responses[0].kvs] != [unit]:
            raise UnitExists(unit.name)

    def set_desired(self, name: str, desired: Desired, *, by: str = LOCAL) -> None:
        """Change a unit's desired state.

        Raises :class:`NoSuchUnit`, :class:`Contended`, or as :meth:`create_unit`."""
        key = self.key_unit(name)
        for _ in range(_ATTEMPTS):
            found = self.client.get(key)
            unit = None if found is None else self.decoded(found, codec.unit)
            if found is None or unit is None:
                raise NoSuchUnit(name)
            if unit.desired is desired:
                return
            changed = replace(unit, desired=desired)
            check_unit(changed)
            compare = [Compare.modified(key, "==", found.mod_revision)]
            events = _requests(changed, unit.desired)
            done = self.client.txn(compare, [Op.put(key, codec.unit_bytes(changed)), self.log.put(events, by)])
            if done.succeeded:
                self._wrote(done.revision)
                return
        raise Contended(name)

    def ask(self, wanted: Mapping[str, tuple[UnitFile | None, Desired]], *, by: str = LOCAL) -> None:
        """Create, replace or change up to :data:`ASK_MAX` units in one transaction: all of them, or none.

        Each is to have this text (``None``: the one that it has) and desired state. Raises :class:`NoSuchUnit`,
        :class:`Contended`, or as :meth:`create_unit`."""
        keys = [self.key_unit(name) for name in wanted]
        for _ in range(_ATTEMPTS):
            compares: list[Compare] = []
            ops: list[Op] = []
            events: list[Event] = []
            answers = self.client.txn([], [Op.get(key) for key in keys]).responses
            for (name, (unitfile, desired)), key, answer in zip(wanted.items(), keys, answers, strict=True):
                found = next(iter(answer.kvs), None)
                unit = None if found is None else self.decoded(found, codec.unit)
                if unitfile is not None:
                    changed = Unit.of(name, unitfile, desired)
                elif unit is not None:
                    changed = replace(unit, desired=desired)
                else:
                    raise NoSuchUnit(name)
                if changed != unit:
                    compares.append(Compare.modified(key, "==", 0 if found is None else found.mod_revision))
                    ops.append(Op.put(key, _named_value(changed)))
                    events += _changes(unit, changed)
            if not ops:
                return
            done = self.client.txn(compares, [*ops, self.log.put(events, by)])
            if done.succeeded:
                self._wrote(done.revision)
                return
        raise Contended(" ".join(wanted))

    def delete_unit(self, name: str, *, by: str = LOCAL) -> None:
        """Delete a unit; the engine and the agents then remove it from its machine. Raises :class:`NoSuchUnit`."""
        key = self.key_unit(name)
        # Read first: then a read, of which nothing can be lost, meets an etcd without a leader.
        if self.client.get(key) is None:
            raise NoSuchUnit(name)
        event = self.log.put([Event(Kind.DESTROYED, name)], by)
        done = self.client.txn(
            [Compare.version(key, ">", 0)], [Op.delete(key), Op.delete(self.key_status(name)), event]
        )
        if not done.succeeded:
            raise NoSuchUnit(name)
        self._wrote(done.revision)

    def set_metadata(self, changes: Mapping[tuple[str, str], str], *, by: str = LOCAL) -> None:
        """Set metadata of machines, alive or not, by (machine, key).

        "" takes a key away, also one that the machine itself has."""
        ops = [
            Op.put(f"{self.prefix}metadata/{machine}/{key}", codec.metadata_bytes(machine, key, value))
            for (machine, key), value in changes.items()
        ]
        events = [
            Event(Kind.METADATA, machine=machine, reason=f"{key}={value}" if value else f"without {key}")
            for (machine, key), value in changes.items()
        ]
        if ops:
            self._wrote(self.client.txn([], [*ops, self.log.put(events, by)]).revision)

    def _wrote(self, revision: int) -> None:
        with self._lock:
            self.written = max(self.written, revision)

    # Keys

    def key_machine(self, machine: str) -> str:
        """The key of a machine's registration."""
        return f"{self.prefix}machines/{machine}"

    def key_unit(self, name: str) -> str:
        """Where a unit's text and desired state are."""
        return f"{self.prefix}units/{name}"

    def key_schedule(self, machine: str, unit: str = "") -> str:
        """Where the order for a unit is; without ``unit``, the prefix of all orders to a machine."""
        return f"{self.prefix}schedule/{machine}/{unit}"

    def key_state(self, machine: str, unit: str = "") -> str:
        """The key of a machine's report about a unit; without ``unit``, the prefix of all its reports."""
        return f"{self.prefix}states/{machine}/{unit}"

    def key_status(self, name: str) -> str:
        """Where the engine explains a unit."""
        return f"{self.prefix}status/{name}"

    @property
    def key_leader(self) -> str:
        """Held by the leading engine."""
        return f"{self.prefix}engine/{LEADER}"

    def key_standby(self, number: int) -> str:
        """Held by an engine that is ready to succeed the leader."""
        return f"{self.prefix}engine/standby/{number}"

    def speaker(self, key: str) -> str | None:
        """The machine whose agent writes this key; ``None`` for a key of others."""
        kind, _, rest = key.removeprefix(self.prefix).partition("/")
        return rest.partition("/")[0] if kind in ("machines", "states") else None

    # Decoding

    def holder(self, found: KeyValue) -> str:
        """The machine that holds a post; "" when that cannot be read."""
        return self.decoded(found, codec.leader) or ""

    def decoded(self, found: KeyValue, decode: Callable[[str, bytes], Value]) -> Value | None:
        """The value of a key, or ``None`` after recording the problem; ``decode`` gets the key without the prefix."""
        try:
            value = decode(found.key.removeprefix(self.prefix), found.value)
        except codec.BrokenValue as error:
            self._note(found.key, error.message)
            return None
        self.forget(found.key)
        return value

    def ranged(self, prefix: str) -> RangeResult:
        """All keys that begin with ``prefix``; recorded problems of keys that are gone are dropped."""
        found = self.client.range(prefix)
        with self._lock:
            noted = [key for key in self._problems if key.startswith(prefix)]
            for key in set(noted) - {each.key for each in found.kvs} if noted else ():
                del self._problems[key]
        return found

    def _get(self, key: str, decode: Callable[[str, bytes], Value]) -> Value | None:
        found = self.client.get(key)
        if found is None:
            self.forget(key)
            return None
        return self.decoded(found, decode)

    def forget(self, key: str) -> None:
        """Drop the recorded problem of a key, if any: it was read successfully, or is gone."""
        if not self._problems:
            return
        with self._lock:
            self._problems.pop(key, None)

    def _range(
        self, part: str, decode: Callable[[str, bytes], Value], names: Set[str] | None = None
    ) -> list[tuple[str, Value]]:
        """Values of the keys that begin with ``part``; with ``names``, of those that end in one of them."""
        found = self.ranged(self.prefix + part).kvs
        if names is not None:
            found = tuple(each for each in found if each.key.rpartition("/")[2] in names)
        pairs = ((each.key, self.decoded(each, decode)) for each in found)
        return [(key, value) for key, value in pairs if value is not None]

    def _note(self, key: str, message: str) -> None:
        problem = Problem(key, message)
        with self._lock:
            new = self._problems.get(key) != problem
            self._problems[key] = problem
        if new:
            _LOG.warning("skipped %s: %s", key, message)


def _unit_value(unit: Unit) -> bytes:
    check_unit(unit)
    value = codec.unit_bytes(unit)
    if len(value) > VALUE_MAX:
        raise UnitFileError(f"the unit takes {len(value)} bytes in etcd, {VALUE_MAX} is the most")
    return value


def _named_value(unit: Unit) -> bytes:
    """The value of one of several units: what is wrong with it says with which."""
    try:
        return _unit_value(unit)
    except Failure as failure:
        failure.where = failure.where or unit.name
        raise


_REQUESTED = {Desired.LAUNCHED: Kind.STARTED, Desired.INACTIVE: Kind.UNLOADED}


def _requests(unit: Unit, former: Desired) -> list[Event]:
    """What it is called that a unit is to be in its desired state, and no longer in the former one."""
    if unit.desired is former:
        return []
    down = Kind.STOPPED if former is Desired.LAUNCHED else Kind.LOADED
    return [Event(_REQUESTED.get(unit.desired, down), unit.name)]


def _changes(unit: Unit | None, changed: Unit) -> list[Event]:
    """What it is called that a unit, if there was one, is now another."""
    if unit is None:
        return [Event(Kind.SUBMITTED, changed.name), *_requests(changed, Desired.INACTIVE)]
    replaced = [] if changed.hash == unit.hash else [Event(Kind.REPLACED, changed.name)]
    return [*replaced, *_requests(changed, unit.desired)]

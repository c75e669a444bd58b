"""The nouns of fleet, as values: machines, units, placements, states. Nothing here does I/O.

A *unit* is what a user wants (text and desired state). A *placement* is the engine's word to one machine: run this
text. A *unit state* is what that machine last said about it. What users see as the current state is derived from the
three.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from unitfile.text import UnitFile, hash_of

RUNNING = ("active", "reloading", "refreshing")
"""Active states of a unit that runs, or has been activated."""

STARTING = "starting"
"""``UnitState.start`` while the job runs, or waits for other units."""


class Desired(enum.StrEnum):
    """The state that a unit should reach; its current state has the same values (see :func:`current_state`)."""

    INACTIVE = "inactive"  # known to the cluster, on no machine
    LOADED = "loaded"  # on a machine, known to its systemd, not started
    LAUNCHED = "launched"  # started; whether it runs is systemd's word, not ours


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is alive. ``id`` is its machine-id; ``boot`` distinguishes two machines with the same id."""

    id: str
    ip: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    boot: str = ""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as its user submitted it: the canonical ``text`` of its unit file, and the ``hash`` of that.

    The text and not its options, since a cluster has many units, and almost nothing looks into them."""

    name: str
    text: str
    hash: str
    desired: Desired = Desired.INACTIVE

    @classmethod
    def of(cls, name: str, unitfile: UnitFile, desired: Desired = Desired.INACTIVE) -> Unit:
        """A unit with this unit file."""
        text = unitfile.serialize()
        return cls(name, text, hash_of(text), desired)

    @property
    def unitfile(self) -> UnitFile:
        """Its unit file, parsed each time."""
        return UnitFile.parse(self.text)


@dataclass(frozen=True, slots=True)
class Placement:
    """The engine's order to one machine: have this text in this desired state. It holds all that the agent needs.

    ``everywhere`` marks the orders for a global unit, one on each machine; ``reason`` is the sentence that explains the
    decision to a person.
    """

    unit: str
    machine: str
    desired: Desired
    text: str
    hash: str
    everywhere: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UnitState:
    """A machine's last report about a unit. ``load``, ``active`` and ``sub`` are systemd's states, "" when unknown.

    ``reached`` is how far the agent has come with its order; ``hash`` is that of the text that it has loaded; ``error``
    is the agent's trouble with the unit ("" for none).

    ``start`` is the result of the start job: :data:`STARTING` until it has ended, then systemd's word for it
    (``done``, ``failed``, ``dependency``, ...; org.freedesktop.systemd1(5), JobRemoved), or "" when the agent does not
    know it. With a result, the other fields are from after the job. ``note`` says why systemd's state is not as
    requested: a failure, or a condition that did not hold; ``log`` are the unit's last lines in the journal then.
    """

    name: str
    machine: str
    load: str = ""
    active: str = ""
    sub: str = ""
    hash: str = ""
    reached: Desired = Desired.LOADED
    error: str = ""
    start: str = ""
    note: str = ""
    log: tuple[str, ...] = ()


def current_state(unit: Unit, machine: str | None, states: Iterable[UnitState]) -> Desired:
    """A unit's progress: ``machine`` is where it is placed (``None``: nowhere), ``states`` are the machines' reports.

    A text that was replaced counts as loaded until its machine has let go of the former one, and so does a unit that
    was unloaded: only then may a client believe ``inactive``. Where it is to be loaded, it counts as inactive
    meanwhile: only when its machine has the new text may a client believe ``loaded``.
    """
    mine = [state for state in states if state.name == unit.name]
    for state in mine:
        if state.machine == machine:
            if state.hash == unit.hash or state.reached is Desired.INACTIVE:
                return state.reached
            return Desired.INACTIVE if unit.desired is Desired.LOADED else Desired.LOADED
    return Desired.LOADED if mine and machine is None else Desired.INACTIVE

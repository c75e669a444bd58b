"""What an agent does to one unit: a table from (order, what is here) to the next step, and the steps themselves.

=====================  ===================  ==========================  =================
the order says         here                 reached                     next step
=====================  ===================  ==========================  =================
(there is no order)    no unit file         --                          nothing
(there is no order)    a unit file          any                         unload
loaded or launched     no unit file         --                          load
loaded or launched     another text         any                         unload, then load
launched               the same text        loaded                      start
loaded                 the same text        launched                    stop
loaded or launched     the same text        what the order says         nothing
=====================  ===================  ==========================  =================

A unit that systemd restarts, that failed, or that was stopped by hand is not started again: ``launched`` means that it
was started once. ``Restart=`` in its file keeps it running. A unit that systemd refused to start was not started: it
stays at ``loaded``, and is tried again.
"""

from __future__ import annotations

import enum
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fleet.agent.unitstore import StoreError, UnitStore
from fleet.model.entities import Desired, Placement
from terminal import Failure
from unitfile.text import UnitFile, UnitFileError

_LOG = logging.getLogger(__name__)


class SystemdError(Failure):
    """systemd refused, or cannot be reached."""


class RefusedError(SystemdError):
    """systemd answered with an error; ``name`` is D-Bus's name for it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message or name)
        self.name = name


@dataclass(frozen=True, slots=True)
class SystemdState:
    """systemd's three states of a unit, as ``systemctl list-units`` shows them."""

    load: str = ""
    active: str = ""
    sub: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """systemd's data on a name before a unit of fleet gets it; the defaults are those of a free name."""

    load: str = "not-found"
    active: str = "inactive"
    fragment: str = ""
    """The path of its unit file.

    "" for a unit that has none, such as a mount of the kernel's or a slice that units ask for."""
    is_perpetual: bool = False
    """It runs as long as the machine and cannot be stopped: ``-.slice``, ``system.slice``, ``init.scope``,
    ``-.mount``."""
    members: tuple[str, ...] = ()
    """Of a slice: the units in it."""


class Systemd(Protocol):
    """The part of systemd that an agent needs. Calls block; all may raise :class:`SystemdError`. Thread-safe."""

    def reload(self) -> None:
        """Read unit files again; covers all that were on disk when this was called."""

    def known(self, unit: str) -> Known:
        """What a unit of this name is at the moment.

        It may come from a file, a template, a generator, the kernel or systemd itself."""

    def start(self, unit: str) -> str:
        """Request a start; returns the job as soon as systemd has accepted it. Raises :class:`RefusedError`."""

    def result(self, job: str) -> str:
        """Wait until a job of :meth:`start` has ended, as long as that takes, and return its result."""

    def stop(self, unit: str) -> None:
        """Stop a unit; returns when the stop job is done. A unit that systemd does not know is stopped already."""

    def enable(self, unit: str) -> None:
        """Apply ``[Install]`` until the next boot. A target that does not exist is no error."""

    def disable(self, unit: str) -> None:
        """Undo :meth:`enable`; no error when there is nothing to undo."""

    def forget_failure(self, unit: str) -> None:
        """``systemctl reset-failed``; no error when there is nothing to forget."""

    def states(self, units: Sequence[str]) -> dict[str, SystemdState]:
        """The states of these units. One that systemd does not know has load state ``not-found``."""

    def properties(self, unit: str) -> Mapping[str, object]:
        """All properties of a unit, as D-Bus has them; empty when systemd does not know it."""

    def journal(self, unit: str, invocation: str, since_us: int) -> Sequence[str]:
        """The last lines of the journal about one run of a unit, which began at ``since_us`` (microseconds since the
        epoch), or of systemd about the unit without an ``invocation``. Empty when the journal cannot be read."""

    def observe(self, unit: str, wanted: bool) -> None:
        """Report changes of this unit from now on, and keep what is known of it, or no longer."""

    def is_ending(self) -> bool:
        """Whether the machine shuts down or reboots: systemd stops all units."""


class Step(enum.Enum):
    """What to do next."""

    LOAD = "load"
    START = "start"
    STOP = "stop"
    UNLOAD = "unload"


@dataclass(frozen=True, slots=True)
class Here:
    """A unit on this machine: the hash of its file ("" for none), and the state it has reached (``None``: no file)."""

    hash: str = ""
    reached: Desired | None = None


def next_step(order: Placement | None, here: Here) -> Step | None:
    """The table above."""
    if order is None:
        return None if here.reached is None else Step.UNLOAD
    if here.reached is None:
        return Step.LOAD
    if here.hash != order.hash:
        return Step.UNLOAD
    if order.desired is Desired.LAUNCHED and here.reached is not Desired.LAUNCHED:
        return Step.START
    if order.desired is not Desired.LAUNCHED and here.reached is Desired.LAUNCHED:
        return Step.STOP
    return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a step: the state here now, and the error ("" for none).

    ``job`` is the job of a start that systemd accepted; ``is_refused`` is true if it did not."""

    unit: str
    step: Step
    here: Here
    error: str = ""
    job: str = ""
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """A start job has ended; ``result`` is "" when it is not known how."""

    unit: str
    job: str
    result: str


def await_end(unit: str, job: str, systemd: Systemd) -> Ended:
    """Wait for the end of a start job."""
    try:
        return Ended(unit, job, systemd.result(job))
    except SystemdError as error:
        _LOG.info("%s: the result of its start is not known: %s", unit, error)
        return Ended(unit, job, "")


class OrderError(Failure):
    """An order contradicts itself, or is not for this machine."""


def perform(step: Step, unit: str, order: Placement | None, here: Here, systemd: Systemd, store: UnitStore) -> Outcome:
    """Do one step. Errors of systemd, files or the order are in the outcome; the state here is then unchanged."""
    try:
        return _perform(step, unit, order, here, systemd, store)
    except (SystemdError, StoreError, OrderError) as error:
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        return Outcome(unit, step, here, f"cannot {step.value} it: {error}{cause}")


def _perform(step: Step, unit: str, order: Placement | None, here: Here, systemd: Systemd, store: UnitStore) -> Outcome:
    match step:
        case Step.LOAD:
            if order is None:
                raise OrderError("nothing says what to load", where=unit)
            return Outcome(unit, step, _load(unit, order, systemd, store))
        case Step.START:
            return _start(unit, here, systemd, store)
        case Step.STOP:
            systemd.stop(unit)
            store.mark_launched(unit, launched=False)
            return Outcome(unit, step, Here(here.hash, Desired.LOADED))
        case Step.UNLOAD:
            # The file is removed only when the unit has stopped: its ExecStop is in that file.
            systemd.stop(unit)
            systemd.disable(unit)
            systemd.observe(unit, wanted=False)
            store.remove(unit)
            systemd.reload()
            systemd.forget_failure(unit)
            return Outcome(unit, step, Here())


def _start(unit: str, here: Here, systemd: Systemd, store: UnitStore) -> Outcome:
    # What the user asks for is a new beginning: systemd must not count the failures before it (StartLimitBurst=).
    systemd.forget_failure(unit)
    try:
        job = systemd.start(unit)
    except RefusedError as refusal:
        return Outcome(unit, Step.START, here, f"systemd refuses to start it: {refusal}", is_refused=True)
    store.mark_launched(unit, launched=True)
    return Outcome(unit, Step.START, Here(here.hash, Desired.LAUNCHED), job=job)


def _load(unit: str, order: Placement, systemd: Systemd, store: UnitStore) -> Here:
    actual = hashlib.sha1(order.text.encode(), usedforsecurity=False).hexdigest()
    if actual != order.hash:
        raise OrderError(f"the order's text has hash {actual[:7]}, not {order.hash[:7]}", where=unit)
    try:
        installs = bool(UnitFile.parse(order.text).section("Install"))
    except UnitFileError as error:
        raise OrderError("the order's text is no unit file", where=unit) from error
    if taken := _taken(systemd.known(unit), unit, store):
        raise OrderError(f"this machine has a unit of that name already: {taken}", where=unit)
    store.write(unit, order.text)
    if installs:
        try:
            systemd.enable(unit)
        except SystemdError as error:
            # Not being started by a target is a smaller loss than not running at all.
            _LOG.warning("%s runs, but is not enabled: %s", unit, error.on_one_line)
    systemd.reload()  # behind the links of [Install], too: units that are loaded already have new dependencies by them
    systemd.observe(unit, wanted=True)
    return Here(order.hash, Desired.LOADED)


def _taken(known: Known, unit: str, store: UnitStore) -> str:
    """Why the name is the machine's own.

    "" if fleet may have it. Our unit would change theirs, and our stop would stop it."""
    if known.load == "not-found":
        return ""
    if known.is_perpetual:
        return "it runs as long as the machine does"
    if known.load == "masked":
        return "it is masked"
    if known.fragment:
        return "" if store.is_ours(unit, known.fragment) else known.fragment
    if unit.endswith(".slice"):
        # systemd makes a slice on demand: units of fleet may have caused that before their slice came.
        theirs = sorted(set(known.members) - store.units().keys())
        return f"{theirs[0]} is in it" if theirs else ""
    return "" if known.active in ("inactive", "failed") else f"it is {known.active}"

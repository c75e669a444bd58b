"""A systemd unit on a node, as a test holds it.

It has a state, a journal, and a wait that ends as soon as success is impossible.

    node.unit("web.service").wait_active(within=20)

Properties are those of systemd's D-Bus interface (org.freedesktop.systemd1(5)), as ``systemctl show`` prints them.
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from typing import Protocol

from terminal import Failure

JOURNAL_LINES = 30
POLL_S = 0.5
STATE = ("LoadState", "ActiveState", "SubState", "Result", "Job", "NRestarts")


class Machine(Protocol):
    """What a unit needs of the node that it is on (:class:`cluster.client.node.Node`)."""

    name: str
    factor: float

    def ask(self, command: str) -> str:
        """What ``command`` prints there, run as root."""
        ...

    def journal(self, *, unit: str, lines: int) -> str:
        """The last ``lines`` of the journal of ``unit``."""
        ...


class UnitFailed(Failure, AssertionError):  # noqa: N818 - what happened to the unit
    """A unit that a test waited for will not become active, or did not in time; the message has its journal's end."""


@dataclass(frozen=True, slots=True)
class UnitState:
    """What systemd reports about a unit.

    ``job`` is the queued job's number, 0 for none; ``restarts`` counts those that systemd did itself.
    """

    load: str
    active: str
    sub: str
    result: str
    job: int
    restarts: int

    def __str__(self) -> str:
        notes = [f"result {self.result}"] if self.result not in ("", "success") else []
        notes += ["a job is queued"] if self.job else []
        notes += [f"restarted {self.restarts} times"] if self.restarts else []
        return f"{self.active} ({self.sub})" + "".join(f", {note}" for note in notes)

    @property
    def hopeless(self) -> str | None:
        """Why it will not become active without intervention; None if it may, or is."""
        if self.load in ("not-found", "bad-setting", "error", "masked"):
            return f"it cannot be loaded: {self.load}"
        if self.active == "failed":
            return f"it has failed: {self.result}"
        if self.active == "inactive" and not self.job:
            return "it is inactive, and no job is queued that would start it"
        return None


class Unit:
    """The unit ``name`` of ``node``; it need not exist."""

    def __init__(self, node: Machine, name: str) -> None:
        self.node = node
        self.name = name

    def properties(self, *names: str) -> dict[str, str]:
        """The unit's properties as ``systemctl show`` has them: those named, else all. Raises :class:`Failure`."""
        chosen = "".join(f" --property={shlex.quote(name)}" for name in names)
        return parse(self.node.ask(f"systemctl show{chosen} -- {shlex.quote(self.name)}"))

    def state(self) -> UnitState:
        """What it does now. Raises :class:`Failure`."""
        return state_of(self.properties(*STATE))

    def journal(self, lines: int = JOURNAL_LINES) -> str:
        """The last lines of its journal. Raises :class:`Failure`."""
        return self.node.journal(unit=self.name, lines=lines)

    def wait_active(self, within: float = 30.0) -> UnitState:
        """Return when it is active; ``within`` seconds with hardware, scaled by the accelerator.

        Raises :class:`UnitFailed` with its journal: at once if it has failed, or is inactive with no job queued, or
        cannot be loaded. While the node does not answer, it waits.
        """
        seconds = within * self.node.factor
        begin = time.monotonic()
        while True:
            found = self._glance()
            if isinstance(found, UnitState):
                if found.active in ("active", "reloading", "refreshing"):
                    return found
                if (why := found.hopeless) is not None:
                    raise self._failed(why, found)
            if time.monotonic() - begin >= seconds:
                raise self._failed(f"it is not active within {seconds:.0f} s", found)
            time.sleep(POLL_S)

    def _glance(self) -> UnitState | str:
        """Its state, or why the node did not answer."""
        try:
            return self.state()
        except Failure as trouble:
            return f"out of sight ({trouble})"

    def _failed(self, why: str, last: UnitState | str) -> UnitFailed:
        try:
            journal = self.journal()
        except Failure as trouble:
            journal = f"(its journal cannot be read: {trouble})"
        return UnitFailed(f"{self.name}: {why}; it is {last}; its journal:\n{indented(journal)}", where=self.node.name)


def parse(text: str) -> dict[str, str]:
    """``systemctl show``'s lines; a value may have more than one, which then do not look like ``Name=``."""
    found: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if separator and name.isidentifier():
            last = name
            # Some properties (ExecStart=, Environment files) come more than once.
            found[name] = f"{found[name]}\n{value}" if name in found else value
        elif last:
            found[last] += f"\n{line}"
    return found


def state_of(properties: dict[str, str]) -> UnitState:
    """The state in ``properties``; what is missing is empty or 0."""
    return UnitState(
        load=properties.get("LoadState", ""),
        active=properties.get("ActiveState", ""),
        sub=properties.get("SubState", ""),
        result=properties.get("Result", ""),
        job=_number(properties.get("Job", "")),
        restarts=_number(properties.get("NRestarts", "")),
    )


def indented(text: str) -> str:
    """``text`` set off from what surrounds it."""
    return "\n".join(f"  | {line}" for line in text.splitlines()) or "  | (nothing)"


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0

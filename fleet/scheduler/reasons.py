"""Why the scheduler did what it did, as data; sentences are made here and nowhere else."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

_SHOWN_MAX = 6


class Reject(enum.StrEnum):
    """Why one machine cannot take one unit."""

    OTHER_MACHINE = "other machine"  # detail: the id that MachineID asks for
    LACKS_METADATA = "lacks metadata"  # detail: key=value, or key=a|b
    PEER_ELSEWHERE = "peer elsewhere"  # detail: the unit that MachineOf names
    CONFLICT = "conflict"  # detail: a unit on that machine
    REPLACED = "replaced"  # detail: the unit on that machine that replaces it


class Why(enum.StrEnum):
    """Why a decision was made."""

    LEAST_LOADED = "least loaded"  # placed where the fewest units are, of the machines that fit
    EVERYWHERE = "everywhere"  # a global unit, placed on a machine that fits
    CHANGED = "changed"  # the unit's text or desired state changed
    UNWANTED = "unwanted"  # its desired state is inactive
    DESTROYED = "destroyed"  # the unit is gone
    MACHINE_GONE = "machine gone"  # its machine has vanished for long enough
    UNFIT = "unfit"  # its machine no longer fits: see the rejection
    DUPLICATE = "duplicate"  # it is on another machine as well


@dataclass(frozen=True, slots=True, order=True)
class Rejection:
    """One machine's refusal; ``detail`` depends on the kind (see :class:`Reject`)."""

    kind: Reject
    detail: str


_ONE: Mapping[Reject, str] = {
    Reject.OTHER_MACHINE: "is not machine {}",
    Reject.LACKS_METADATA: "lacks metadata {}",
    Reject.PEER_ELSEWHERE: "does not have {}, which MachineOf names",
    Reject.CONFLICT: "conflicts with {}",
    Reject.REPLACED: "has {}, which replaces it",
}
_MANY: Mapping[Reject, str] = {
    Reject.OTHER_MACHINE: "are not machine {}",
    Reject.LACKS_METADATA: "lack metadata {}",
    Reject.PEER_ELSEWHERE: "do not have {}, which MachineOf names",
    Reject.CONFLICT: "conflict with {}",
    Reject.REPLACED: "have {}, which replaces it",
}


def described(counts: Mapping[Rejection, int]) -> str:
    """Refusals with how many machines made each: ``2 lack metadata disk=ssd, 1 conflicts with redis@1.service``."""
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    parts = [
        f"{count} {(_ONE if count == 1 else _MANY)[each.kind].format(each.detail)}"
        for each, count in ranked[:_SHOWN_MAX]
    ]
    if len(ranked) > _SHOWN_MAX:
        parts.append(f"{sum(count for _, count in ranked[_SHOWN_MAX:])} have other reasons")
    return ", ".join(parts)


def sentence(why: Why, rejection: Rejection | None = None) -> str:
    """Why a unit left a machine."""
    return why.value if rejection is None else f"its machine {_ONE[rejection.kind].format(rejection.detail)}"


def no_machine(counts: Mapping[Rejection, int]) -> str:
    """Why a unit is nowhere."""
    return f"no machine: {described(counts)}" if counts else "no machine: none is alive"


def waits_for(machine: str) -> str:
    """Why a unit is not placed yet although a machine fits."""
    return f"waiting until machine {machine} has stopped it"


def least_loaded(count: int, left: tuple[str, Why] | None = None, avoided: str = "") -> str:
    """Why a unit is where it is.

    ``count`` is how many the machine had before, ``left`` the machine that it comes from, ``avoided`` one that would
    have been better and is in doubt."""
    text = f"placed where the fewest units were ({count}) of the machines that fit"
    if avoided:
        text += f", without machine {avoided}, which led and may be dead"
    return text if left is None else f"moved from machine {left[0]} ({left[1].value}); {text}"


def everywhere() -> str:
    """The same for one machine's copy of a global unit."""
    return "a global unit, placed on every machine that fits"


def global_summary(placed: int, alive: int, counts: Mapping[Rejection, int]) -> str:
    """The state of a global unit as a whole."""
    text = f"global: on {placed} of {alive} machine{'' if alive == 1 else 's'}"
    return f"{text}; {described(counts)}" if counts else text

"""What is wrong with the network on purpose.

:class:`Faults` holds the :class:`~cluster.model.impairment.Impairment` of each direction that has one.

Pure values. Ports are numbers: a node's own, and :data:`HOST` for this computer. An ordered :data:`Pair` is (from, to),
so that a link has two, each with troubles of its own. Numbers are seconds, shares between 0 and 1, and bits per second;
people write ``75ms``, ``20%`` and ``1mbit``, which :func:`seconds`, :func:`share` and :func:`bits_per_s` read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.model.impairment import RATES, WHOLE, Impairment
from terminal import UsageFailure, did_you_mean

Pair = tuple[int, int]
"""(from, to), port numbers."""
HOST = 0
"""The switch's port that is this computer."""


@dataclass(frozen=True, slots=True)
class Faults:
    """The impairment of each ordered pair that has one."""

    impairments: Mapping[Pair, Impairment] = field(default_factory=dict)

    def worsening(self, pairs: Iterable[Pair], impairment: Impairment) -> Faults:
        """These faults and ``impairment`` on top of what ``pairs`` suffer already."""
        worse = {pair: self.of(*pair).with_(impairment) for pair in pairs}
        return Faults({pair: each for pair, each in {**self.impairments, **worse}.items() if each != WHOLE})

    def cutting(self, source: int, target: int, *, one_way: bool = False) -> Faults:
        """These faults and the link from ``source`` to ``target`` cut, in both directions unless ``one_way``."""
        return self.worsening([(source, target)] if one_way else both_ways(source, target), Impairment(cut=True))

    def healing(self, source: int, target: int) -> Faults:
        """These faults with both directions between the two ports whole again."""
        whole = both_ways(source, target)
        return Faults({pair: each for pair, each in self.impairments.items() if pair not in whole})

    def of(self, source: int, target: int) -> Impairment:
        """What frames from ``source`` to ``target`` suffer; :data:`WHOLE` if nothing."""
        return self.impairments.get((source, target), WHOLE)

    def drops(self, source: int, target: int) -> bool:
        """Whether every frame from ``source`` to ``target`` is lost."""
        return self.of(source, target).cut


def both_ways(one: int, other: int) -> frozenset[Pair]:
    """Both directions between two ports."""
    return frozenset({(one, other), (other, one)})


def port_name(port: int) -> str:
    """How people call a port."""
    return "host" if port == HOST else f"node-{port}"


def no_port(text: object, names: Sequence[str], where: str = "") -> UsageFailure:
    """The failure for a node that is not among ``names``.

    It suggests names with the same number only: node-9 is no typing error for node-1.
    """
    number = re.sub(r"\D", "", str(text))
    near = did_you_mean(str(text), [name for name in names if re.sub(r"\D", "", name) == number])
    there = f"there are: {', '.join(names)}"
    return UsageFailure(f"there is no node {text!r}{where}", hint=f"{near} {there}" if near else there)


# What people write


class _Unit(NamedTuple):
    factor: float
    suffix: str


_NUMBER = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z%/]*)", re.IGNORECASE)
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def seconds(value: str | float, what: str = "delay") -> float:
    """``"75ms"``, ``"1.5s"``, or a number of seconds. Raises :class:`UsageFailure`, which calls it ``what``."""
    if not isinstance(value, str):
        return float(value)
    number, unit = _parts(value)
    if unit not in _SECONDS:
        raise UsageFailure(f"{what} {value!r}: a time has a number and a unit", hint="'75ms', '1.5s', '200us'")
    return number * _SECONDS[unit]


def share(value: str | float, what: str = "loss") -> float:
    """``"20%"``, ``"0.2"``, or a number between 0 and 1. Raises :class:`UsageFailure`, which calls it ``what``."""
    if not isinstance(value, str):
        return float(value)
    number, unit = _parts(value)
    if unit not in ("", "%") or number > (100 if unit else 1):
        raise UsageFailure(f"{what} {value!r}: a share is between 0% and 100%", hint="'20%', or 0.2")
    return number / 100 if unit else number


def bits_per_s(value: str | float, what: str = "rate") -> int:
    """``"1mbit"``, ``"500kbit/s"``, or a number of bits a second.

    Raises :class:`UsageFailure`, which calls it ``what``.
    """
    if not isinstance(value, str):
        return round(value)
    number, unit = _parts(value)
    unit = unit.removesuffix("/s").removesuffix("ps")
    if unit not in RATES:
        raise UsageFailure(f"{what} {value!r}: a rate has a number and a unit", hint="'1mbit', '500kbit', '9600bit'")
    return round(number * RATES[unit])


def _parts(text: str) -> tuple[float, str]:
    """Number and unit; the unit is "?" if ``text`` is not a number with a unit."""
    match = _NUMBER.fullmatch(text.strip())
    return (float(match[1]), match[2].lower()) if match else (0.0, "?")

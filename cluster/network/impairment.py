"""What is wrong with the network on purpose: an :class:`Impairment` of one direction between two ports, and :class:`Faults`, all of them.

Pure values. Ports are numbers: a node's own, and :data:`HOST` for this computer. An ordered :data:`Pair` is (from, to), so that a link has
two, each with troubles of its own. Numbers are seconds, shares between 0 and 1, and bits per second; people write ``75ms``, ``20%``
and ``1mbit``, which :func:`seconds`, :func:`share` and :func:`bits_per_s` read.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from terminal import UsageFailure, did_you_mean

Pair = tuple[int, int]
"""(from, to), port numbers."""
HOST = 0
"""The switch's port that is this computer."""
DELAY_S_MAX = 60.0
"""TCP gives a connection up after minutes: whoever wants more wants a cut."""
RATE_BPS_MIN = 1000
"""A full frame takes twelve seconds at this rate."""
RATE_BPS_MAX = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class Impairment:
    """What happens to the frames of one direction. The default is a link with nothing wrong.

    Raises :class:`UsageFailure` if a value is out of range.
    """

    cut: bool = False
    delay_s: float = 0.0
    """Every frame arrives so much later."""
    jitter_s: float = 0.0
    """The delay varies by up to this much, up and down (evenly); frames keep their order."""
    loss: float = 0.0
    """This share of frames is lost."""
    duplicate: float = 0.0
    """This share arrives twice."""
    reorder: float = 0.0
    """This share is overtaken by what was sent later."""
    corrupt: float = 0.0
    """This share has one byte changed."""
    rate_bps: int | None = None
    """No more than so many bits a second; None: no limit."""

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder", "corrupt"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageFailure(f"{name} {getattr(self, name):g}: a share is between 0 and 1", hint="'20%', or 0.2")
        for name in ("delay", "jitter"):
            if not 0 <= (value := getattr(self, f"{name}_s")) <= DELAY_S_MAX:
                raise UsageFailure(
                    f"{name} {value:g} s: from 0 to {DELAY_S_MAX:g} s", hint="'75ms', '1.5s'; or cut the link"
                )
        if self.jitter_s > self.delay_s:
            raise UsageFailure(
                f"jitter {self.jitter_s:g} s is more than the delay of {self.delay_s:g} s: no frame arrives before it was sent",
                hint="a delay at least as long as its jitter",
            )
        if self.rate_bps is not None and not RATE_BPS_MIN <= self.rate_bps <= RATE_BPS_MAX:
            raise UsageFailure(
                f"rate {self.rate_bps} bit/s: from 1 kbit/s to 1 Tbit/s", hint="'1mbit', or cut the link"
            )

    def with_(self, other: Impairment) -> Impairment:
        """Both at once: delays add up, a frame must survive either, the lower rate holds."""
        rates = [each.rate_bps for each in (self, other) if each.rate_bps is not None]
        shares = {
            name: round(1 - (1 - getattr(self, name)) * (1 - getattr(other, name)), 12)
            for name in ("loss", "duplicate", "reorder", "corrupt")
        }
        return Impairment(
            cut=self.cut or other.cut,
            delay_s=min(self.delay_s + other.delay_s, DELAY_S_MAX),
            jitter_s=min(self.jitter_s + other.jitter_s, DELAY_S_MAX),
            rate_bps=min(rates) if rates else None,
            **shares,
        )

    def data(self) -> dict[str, Any]:
        """What differs from a whole link, for JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}

    def __str__(self) -> str:
        """As options of ``cluster fault degrade``, in words: "delay 75ms, loss 20%"."""
        if self.cut:
            return "cut"
        words = [f"{name} {_seconds_text(getattr(self, f'{name}_s'))}" for name in ("delay", "jitter")]
        words += [f"{name} {getattr(self, name) * 100:g}%" for name in ("loss", "duplicate", "reorder", "corrupt")]
        kept = [word for word in words if word.split()[1] not in ("0ms", "0%")]
        return ", ".join(kept + ([f"rate {_rate_text(self.rate_bps)}"] if self.rate_bps is not None else [])) or "whole"


WHOLE = Impairment()


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
    """The failure for a node that is not among ``names``. Near is what has the same number: node-9 is no typing error for node-1."""
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
_RATES = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}


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
    """``"1mbit"``, ``"500kbit/s"``, or a number of bits a second. Raises :class:`UsageFailure`, which calls it ``what``."""
    if not isinstance(value, str):
        return round(value)
    number, unit = _parts(value)
    unit = unit.removesuffix("/s").removesuffix("ps")
    if unit not in _RATES:
        raise UsageFailure(f"{what} {value!r}: a rate has a number and a unit", hint="'1mbit', '500kbit', '9600bit'")
    return round(number * _RATES[unit])


def _parts(text: str) -> tuple[float, str]:
    """Number and unit; the unit "?" for what is no number with a unit."""
    match = _NUMBER.fullmatch(text.strip())
    return (float(match[1]), match[2].lower()) if match else (0.0, "?")


def _seconds_text(value: float) -> str:
    return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"


def _rate_text(value: int) -> str:
    name, factor = next((unit for unit in reversed(_RATES.items()) if value >= unit[1]), ("bit", 1))
    return f"{value / factor:g}{name}"

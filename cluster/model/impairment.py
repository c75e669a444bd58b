"""An :class:`Impairment`: what is wrong on purpose with one direction between two ports of the network. A pure value.

Numbers are seconds, shares between 0 and 1, and bits per second.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from terminal import UsageFailure

DELAY_S_MAX = 60.0
"""TCP gives a connection up after minutes: for more, use a cut."""
RATE_BPS_MIN = 1000
"""A full frame takes twelve seconds at this rate."""
RATE_BPS_MAX = 10**12
RATES = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
"""Units of a rate as people write them, in bits a second."""


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
                f"jitter {self.jitter_s:g} s is more than the delay of {self.delay_s:g} s: "
                "no frame arrives before it was sent",
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

    def data(self) -> dict[str, bool | int | float]:
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


def _seconds_text(value: float) -> str:
    return f"{value:g}s" if value >= 1 else f"{value * 1000:g}ms"


def _rate_text(value: int) -> str:
    name, factor = next((unit for unit in reversed(RATES.items()) if value >= unit[1]), ("bit", 1))
    return f"{value / factor:g}{name}"

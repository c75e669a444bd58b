"""A node's wall clock as a test or a command holds it, ``node.clock``::

with node.clock.step(-3600):
    ...                       # it is an hour ago there
node.clock.strobe(60, period_s=0.5, duration_s=20)
"""

from __future__ import annotations

from cluster.client.fault import Fault, recorded
from cluster.model.protocol import Ask, Begun, NodeRequest, StepClock, StrobeClock
from terminal import UsageFailure

STEP_S_MAX = 50 * 365 * 86400
STEP_DEADLINE_S = 30.0
"""With hardware: the guest does it in a moment, but may be busy."""


class Clock:
    """Faults of one node's clock. They add up; a node that is switched off and on has the right time again."""

    def __init__(self, node: int, ask: Ask, factor: float) -> None:
        """``ask`` sends requests to the supervisor; ``node`` takes ``factor`` times as long as hardware."""
        self._node, self._ask, self._deadline_s = node, ask, STEP_DEADLINE_S * factor

    def step(self, seconds: float) -> Fault:
        """Step the wall clock and the hardware clock by so many seconds, back if negative.

        When healed, they are right. Raises :class:`Failure`.
        """
        _require(seconds)
        return self._fault(StepClock(self._node, seconds))

    def strobe(self, seconds: float, *, period_s: float = 1.0, duration_s: float = 30.0) -> Fault:
        """Step the wall clock by ``seconds`` and back to the right time, in turns.

        Each turn lasts ``period_s``; all ends after ``duration_s`` or when healed.

        Returns at once. Raises :class:`Failure`.
        """
        _require(seconds)
        if not 0.05 <= period_s <= duration_s:
            raise UsageFailure(f"a strobe with a period of {period_s:g} s for {duration_s:g} s", hint="0.05 s or more")
        return self._fault(StrobeClock(self._node, seconds, period_s, duration_s))

    def _fault(self, request: NodeRequest[Begun]) -> Fault:
        return recorded(self._ask, self._ask(request, deadline_s=self._deadline_s), self._deadline_s)


def _require(seconds: float) -> None:
    if not 0 < abs(seconds) <= STEP_S_MAX:
        raise UsageFailure(f"a step of {seconds:g} s", hint="-3600 is an hour back; 50 years at most")

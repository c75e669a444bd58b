"""A watch: conditions that come true one after the other, and units that must not fail meanwhile.

It reports, so the host need not poll."""

from __future__ import annotations

from functools import partial

from guest import manager
from guest.command import Send
from guest.condition import condition, value
from guest.conversation import Answered, Conversation, Question
from guest.lines import Message
from guest.loop import Loop

CONDITIONS_MAX = 64
UNITS_MAX = 64
INTERVAL_S_MIN = 0.05


class Watch:
    """Checks every ``interval`` seconds the first condition that is not true yet, and the number of failed units.

    Sends ``{"id": N, "held": INDEX}``, ``{"id": N, "failed": [UNIT...]}`` when those change, and in the end
    ``{"id": N, "exit": 0}``.
    """

    def __init__(self, number: int, request: Message, loop: Loop, send: Send) -> None:
        """Raises KeyError, TypeError, ValueError for an invalid request."""
        self.number = number
        self._loop, self._send = loop, send
        self._conditions = [condition(wanted) for wanted in request["conditions"]]
        self._units = [str(unit) for unit in request.get("units", [])]
        self._interval_s = max(float(request["interval"]), INTERVAL_S_MIN)
        if not 0 < len(self._conditions) <= CONDITIONS_MAX or len(self._units) > UNITS_MAX:
            raise ValueError("too many conditions or units, or none")
        self._held = 0
        self._next_at = 0.0
        self._asking: dict[str, Conversation] = {}
        self._states: dict[str, bool] = {}
        self._reported: list[str] = []

    @property
    def is_over(self) -> bool:
        """Whether all conditions have come true."""
        return self._held == len(self._conditions)

    def tick(self, now: float) -> float:
        """Check, if it is time; returns when the next check is due (both on the monotonic clock)."""
        for conversation in list(self._asking.values()):
            conversation.tick(now)
        if now >= self._next_at:
            self._next_at = now + self._interval_s
            self._look()
            if self._units and not self.is_over:
                self._ask("count", manager.failed_units(), self._counted)
        return self._next_at

    def receive(self, _: Message) -> None:
        """Raises ValueError: a watch is begun and dropped, and receives no messages in between."""
        raise ValueError("a watch takes no input")

    def drop(self) -> None:
        """Forget it."""
        for conversation in self._asking.values():
            conversation.close()
        self._asking.clear()

    def _look(self) -> None:
        while not self.is_over and "condition" not in self._asking:
            now = self._conditions[self._held]
            if now.look is not None and now.look():
                self._hold()
            else:
                if now.question is not None:
                    self._ask("condition", now.question, self._heard)
                return

    def _heard(self, heard: bytes | None) -> None:
        holds = self._conditions[self._held].holds
        assert holds is not None
        if heard is not None and holds(heard):
            self._hold()
            self._look()

    def _hold(self) -> None:
        self._send({"id": self.number, "held": self._held})
        self._held += 1
        if self.is_over:
            self.drop()
            self._send({"id": self.number, "exit": 0})

    def _counted(self, heard: bytes | None) -> None:
        # Usually none has failed, and that costs one request.
        if heard is not None and value(heard) not in (None, 0):
            for unit in self._units:
                self._ask(f"unit {unit}", manager.active_state(unit), partial(self._stated, unit))

    def _stated(self, unit: str, heard: bytes | None) -> None:
        self._states[unit] = heard is not None and value(heard) == "failed"
        failed = [unit for unit in self._units if self._states.get(unit)]
        if failed != self._reported:
            self._reported = failed
            self._send({"id": self.number, "failed": failed})

    def _ask(self, what: str, question: Question, answered: Answered) -> None:
        if what in self._asking:
            return

        def done(heard: bytes | None) -> None:
            del self._asking[what]
            answered(heard)

        conversation = self._asking[what] = Conversation(question, self._loop, done)
        conversation.begin()

"""Waiting for something to become true, with what was seen last in the error if it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from terminal import Failure

T = TypeVar("T")

NOT_YET = (AssertionError, Failure, OSError, ValueError, LookupError)
"""What a predicate raises if it is called too early: the node is not back yet, or its answer is incomplete.

Any other exception is an error of the caller.
"""
PAUSE_S = 0.5
SHOWN_MAX = 2000
"""Characters of an answer in an error."""


class NeverHappened(Failure, AssertionError):  # noqa: N818 - what did not happen
    """What was waited for did not come true in time; the message has the last answer and the last trouble."""


def eventually(predicate: Callable[[], T], seconds: float, *, what: str = "", pause_s: float = PAUSE_S) -> T:
    """The first true result of ``predicate``. It may raise one of :data:`NOT_YET`, which means "not yet".

    It is called at least once, and once more at the end. Raises :class:`NeverHappened` after ``seconds``, with ``what``
    as the name of the condition.
    """
    begin = time.monotonic()
    tries = 0
    trouble: BaseException | None = None
    last = "no answer"
    while True:
        is_last = time.monotonic() - begin >= seconds
        tries += 1
        try:
            answer = predicate()
            if answer:
                return answer
            last, trouble = f"last answer: {_short(repr(answer))}", None
        except NOT_YET as error:
            last, trouble = f"last trouble: {type(error).__name__}: {_short(str(error))}", error
        if is_last:
            name = what or getattr(predicate, "__name__", "it").replace("<lambda>", "it")
            raise NeverHappened(
                f"{name}: not within {seconds:.0f} s ({tries} tries); {last}",
                hint="within= is scaled by the accelerator",
            ) from trouble
        time.sleep(min(pause_s, max(0.0, seconds - (time.monotonic() - begin))))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]} ... ({len(text)} characters)"

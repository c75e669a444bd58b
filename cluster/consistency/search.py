"""Is there an order?

A search decides linearizability (Herlihy and Wing, 1990), and shows what is wrong as small as possible.

Wing and Gong ("Testing and verifying concurrent objects", 1993) try, at each point of the history, each operation that
is under way. Lowe ("Testing for linearizability", 2017) adds two things, which make long histories feasible: remember
the configurations met (state, operations under way that took effect), and let operations take effect just in time, when
some return demands it. So the search is one pass over the history with a set of configurations, which stays small as
long as few clients are at work at once. The return at which it becomes empty is where the history goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias

from cluster.consistency.history import Operation, table
from cluster.consistency.models import IMPOSSIBLE, Model, S

CONFIGURATIONS_MAX = 200_000
"""At one return: some hundred MB. Dozens of operations under way at once lead to more."""
_DRAWN_MAX = 4
"""Of the states that the object may be in."""

Configuration: TypeAlias = tuple[S, frozenset[int]]


class TooManyOrders(Exception):  # noqa: N818 - neither right nor wrong: not decided
    """The search would not end: too many operations of unknown outcome, or too many clients, on one key."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A history without an order, and the operation that fits nowhere.

    It is a part of the given one in which no operation can be left out.

    An operation of that part may be "unknown" where the given history has "ok": its return was later than the trouble.
    """

    history: tuple[Operation, ...]
    culprit: Operation
    states: tuple[str, ...]
    """What the object may have been, in words, before the culprit; some of them if there are many."""
    text: str
    """All of this for people."""

    def __str__(self) -> str:
        return self.text


def check(history: Iterable[Operation], model: Model[S]) -> Violation | None:
    """None if there is an order of ``history`` (of one key), else what is wrong with it.

    Raises :class:`TooManyOrders`, and ValueError for an invalid history.
    """
    happened = [operation for operation in history if operation.outcome != "fail"]
    _require_sane(happened)
    stuck = _stuck_at(_needed(happened, model), model)
    if stuck is None:
        return None
    smallest = _smallest(_first_wrong(happened, stuck, model), model)
    culprit = _stuck_at(smallest, model)
    assert culprit is not None, "a history is only made smaller as long as it is wrong"
    rest = [each for each in smallest if each is not culprit]
    states = _states(rest, culprit, model)
    shown = table(smallest, lambda each: f"{model.describe(each)}{' (unknown)' if each.outcome == 'unknown' else ''}")
    conflict = ", or ".join(states[:_DRAWN_MAX]) + (", or ..." if len(states) > _DRAWN_MAX else "")
    text = (
        f"no order of these {len(smallest)} operations on {culprit.key!r} explains what clients saw:\n{shown}\n"
        f"client {culprit.process} says: {model.describe(culprit)}. "
        f"But all that time, whatever the order of the others, {conflict}"
    )
    return Violation(tuple(smallest), culprit, tuple(states[:_DRAWN_MAX]), text)


def _require_sane(history: Sequence[Operation]) -> None:
    keys = {operation.key for operation in history}
    if len(keys) > 1:
        raise ValueError(f"one key at a time, please, not {sorted(keys)}")
    busy: dict[int, float] = {}
    for operation in sorted(history, key=lambda each: each.invoked):
        if operation.returned < operation.invoked or operation.invoked < busy.get(operation.process, operation.invoked):
            raise ValueError(f"client {operation.process} does one thing at a time, and this is another: {operation}")
        busy[operation.process] = operation.returned


def _needed(history: list[Operation], model: Model[S]) -> list[Operation]:
    """``history`` without the unknown operations that cannot matter: each left doubles the work."""
    while True:
        kept = [
            each
            for each in history
            if each.outcome == "ok" or not model.is_unneeded(each, (other for other in history if other is not each))
        ]
        if len(kept) == len(history):
            return kept
        history = kept


def _stuck_at(history: Sequence[Operation], model: Model[S]) -> Operation | None:
    """The operation at whose return no order is left; None if there is one to the end."""
    for moment in _moments(history, model):
        if not moment.configurations:
            return moment.operation
    return None


def _states(rest: Sequence[Operation], culprit: Operation, model: Model[S]) -> list[str]:
    """What the object may be, in words, between the culprit's call and return if the culprit itself does nothing."""
    found = {model.initial}
    for moment in _moments(rest, model):
        if moment.time > culprit.returned:
            break
        if moment.time <= culprit.invoked:
            found.clear()
        found.update(state for state, _ in _reachable(moment, rest, model))
    return sorted({model.describe_state(state) for state in found})


@dataclass(frozen=True, slots=True)
class _Moment(Generic[S]):
    """Just after a call or return."""

    time: float
    operation: Operation
    configurations: set[Configuration[S]]
    under_way: frozenset[int]


def _moments(history: Sequence[Operation], model: Model[S]) -> Iterator[_Moment[S]]:
    """Go through calls and returns; ends when no configuration is left."""
    # A call at the instant of a return counts as concurrent with it: clocks are not finer than that.
    events = sorted(
        [(each.invoked, 0, number) for number, each in enumerate(history)]
        + [(each.returned, 1, number) for number, each in enumerate(history) if each.outcome == "ok"]
    )
    configurations: set[Configuration[S]] = {(model.initial, frozenset())}
    under_way: frozenset[int] = frozenset()
    for time, is_return, number in events:
        if is_return:
            configurations = _demand(number, configurations, under_way, history, model)
            under_way -= {number}
        else:
            under_way |= {number}
        yield _Moment(time, history[number], configurations, under_way)
        if not configurations:
            return


def _reachable(moment: _Moment[S], history: Sequence[Operation], model: Model[S]) -> set[Configuration[S]]:
    """All configurations that what is under way can make of those of ``moment``."""
    seen = set(moment.configurations)
    ahead = list(seen)
    while ahead:
        new = set(_steps(ahead.pop(), moment.under_way, history, model)) - seen
        seen |= new
        ahead.extend(new)
    return seen


def _steps(
    configuration: Configuration[S], under_way: frozenset[int], history: Sequence[Operation], model: Model[S]
) -> Iterator[Configuration[S]]:
    """The configurations after one more operation under way took effect."""
    state, done = configuration
    for each in under_way - done:
        after = model.step(state, history[each])
        if after is not IMPOSSIBLE:
            yield after, done | {each}


def _demand(
    number: int,
    configurations: set[Configuration[S]],
    under_way: frozenset[int],
    history: Sequence[Operation],
    model: Model[S],
) -> set[Configuration[S]]:
    """The configurations in which operation ``number`` has taken effect, with it taken out: it is over."""
    satisfied: set[Configuration[S]] = set()
    seen = set(configurations)
    ahead = list(configurations)
    while ahead:
        configuration = ahead.pop()
        state, done = configuration
        if number in done:
            satisfied.add((state, done - {number}))
            continue
        for found in _steps(configuration, under_way, history, model):
            if found not in seen:
                seen.add(found)
                ahead.append(found)
        if len(seen) > CONFIGURATIONS_MAX:
            raise TooManyOrders(
                f"{len(under_way)} operations under way at once on {history[number].key!r}: "
                "use fewer clients, or more keys"
            )
    return satisfied


def _first_wrong(history: list[Operation], stuck: Operation, model: Model[S]) -> list[Operation]:
    """``history``, which has no order, as it was known when it first had none.

    Not before the return of ``stuck``, but perhaps later: at ``stuck``, results counted that arrived only afterwards.
    """
    moments = sorted(each.returned for each in history if each.outcome == "ok" and each.returned >= stuck.returned)
    known = (_until(history, moment) for moment in moments)
    return next((found for found in known if _stuck_at(found, model) is not None), history)


def _until(history: list[Operation], moment: float) -> list[Operation]:
    """``history`` as it was known then."""
    return [
        each if each.end <= moment else replace(each, outcome="unknown", result=None)
        for each in history
        if each.invoked <= moment
    ]


def _smallest(history: list[Operation], model: Model[S]) -> list[Operation]:
    """``history``, which has no order, without all operations that can be left out.

    They go one by one as long as it still has none, for the same reason.

    Only unneeded operations may go: without a write, a read of its value would be wrong for a reason that the history
    never had.
    """
    ordered = sorted(history, key=lambda each: each.invoked, reverse=True)
    step = max(len(ordered) // 2, 1)
    while True:
        before = len(ordered)
        at = 0
        while at < len(ordered):
            left = _without(ordered, ordered[at : at + step], model)
            if len(left) < len(ordered) and _stuck_at(left, model) is not None:
                ordered = left
            else:
                at += step
        if step > 1:
            step //= 2
        elif len(ordered) == before:
            return sorted(ordered, key=lambda each: each.invoked)


def _without(history: list[Operation], chunk: Sequence[Operation], model: Model[S]) -> list[Operation]:
    """``history`` without those of ``chunk`` that the rest does not need."""
    left = list(history)
    for each in chunk:
        rest = [other for other in left if other is not each]
        if model.is_unneeded(each, rest):
            left = rest
    return left

"""The checker against histories whose answer is known: runs of a real object are right, and a dumb twin judges any
other.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.consistency import GrowSet, Lock, Model, Operation, Register, TooManyOrders, Violation, by_key, check
from cluster.consistency import search as searching
from cluster.consistency.history import dump, load
from cluster.consistency.models import IMPOSSIBLE


def did(
    process: int, kind: str, argument: Any, result: Any, invoked: float, returned: float, outcome: Any = "ok"
) -> Operation:
    return Operation(
        process=process,
        kind=kind,
        key="k",
        argument=argument,
        result=result,
        invoked=invoked,
        returned=returned,
        outcome=outcome,
    )


def write(process: int, value: int, invoked: float, returned: float, outcome: str = "ok") -> Operation:
    return did(process, "write", value, None, invoked, returned, outcome)


def read(process: int, value: int | None, invoked: float, returned: float) -> Operation:
    return did(process, "read", None, value, invoked, returned)


def cas(
    process: int, old: int, new: int, found: int, invoked: float, returned: float, outcome: str = "ok"
) -> Operation:
    return did(process, "cas", (old, new), found, invoked, returned, outcome)


def violation(history: Sequence[Operation], model: Model[Any]) -> Violation:
    found = check(history, model)
    assert found is not None
    return found


# --- a dumb twin -----------------------------------------------------------------------------------------------------


def has_an_order(history: Sequence[Operation], model: Model[Any]) -> bool:
    """By definition: some choice of the unknown operations, in some order that respects real time, that the model could
    have gone through.
    """
    history = [each for each in history if each.outcome != "fail"]
    known = [each for each in history if each.outcome == "ok"]
    unknown = [each for each in history if each.outcome == "unknown"]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *chosen]):
                if any(later.end < earlier.invoked for earlier, later in itertools.combinations(order, 2)):
                    continue
                state: Any = model.initial
                for each in order:
                    state = model.step(state, each)
                    if state is IMPOSSIBLE:
                        break
                else:
                    return True
    return False


@st.composite
def intervals(draw: st.DrawFn, count: int) -> list[tuple[int, float, float]]:
    """(process, invoked, returned): each process does one thing at a time."""
    free: dict[int, int] = {}
    found = []
    for _ in range(count):
        process = draw(st.integers(0, 2))
        invoked = free.get(process, 0) + draw(st.integers(0, 3))
        returned = invoked + draw(st.integers(1, 6))
        free[process] = returned + 1
        found.append((process, float(invoked), float(returned)))
    return found


OUTCOMES = st.sampled_from(["ok", "ok", "ok", "ok", "unknown", "fail"])
FEW = st.integers(0, 2)


@st.composite
def any_history(
    draw: st.DrawFn, kinds: dict[str, tuple[st.SearchStrategy[Any], st.SearchStrategy[Any]]]
) -> list[Operation]:
    found = []
    for process, invoked, returned in draw(intervals(draw(st.integers(1, 5)))):
        kind = draw(st.sampled_from(sorted(kinds)))
        argument, result = kinds[kind]
        outcome = draw(OUTCOMES)
        answer = draw(result) if outcome == "ok" else None
        found.append(did(process, kind, draw(argument), answer, invoked, returned, outcome))
    return found


NOTHING = st.none()
KINDS: dict[str, tuple[Model[Any], Any]] = {
    "register": (
        Register(),
        {"write": (FEW, NOTHING), "read": (NOTHING, NOTHING | FEW), "cas": (st.tuples(FEW, FEW), NOTHING | FEW)},
    ),
    "set": (
        GrowSet(),
        {"add": (FEW, NOTHING), "read": (NOTHING, st.frozensets(FEW).map(lambda each: tuple(sorted(each))))},
    ),
    "lock": (
        Lock(),
        {
            "acquire": (NOTHING, st.integers(0, 4)),
            "release": (st.integers(1, 4), st.booleans()),
            "guarded": (st.integers(1, 4), st.booleans()),
        },
    ),
    "lock that does not expire": (
        Lock(expires=False),
        {
            "acquire": (NOTHING, st.integers(0, 4)),
            "release": (st.integers(1, 4), st.booleans()),
            "guarded": (st.integers(1, 4), st.booleans()),
        },
    ),
}


@pytest.mark.parametrize("name", KINDS)
@given(data=st.data())
def test_it_agrees_with_the_definition(name: str, data: st.DataObject) -> None:
    model, kinds = KINDS[name]
    history = data.draw(any_history(kinds))
    found = check(history, model)
    assert (found is None) == has_an_order(history, model)
    if found is not None:
        # What is shown is wrong itself, a part of what was given, and nothing in it can be spared.
        assert not has_an_order(found.history, model)
        given_calls = {(each.process, each.invoked) for each in history}
        assert {(each.process, each.invoked) for each in found.history} <= given_calls
        for each in found.history:
            rest = [other for other in found.history if other is not each]
            assert not model.is_unneeded(each, rest) or has_an_order(rest, model)


def test_what_a_later_return_says_is_part_of_what_is_wrong() -> None:
    """Until client 1 hears that it changed nothing, it may have put the 1 there that client 0 found."""
    changed_nothing = did(1, "cas", (0, 1), None, 0, 4)
    found = violation([write(0, 0, 0, 1), cas(0, 0, 0, 1, 2, 3), read(0, None, 4, 5), changed_nothing], Register())
    assert not has_an_order(found.history, Register())


# --- runs of a real object -------------------------------------------------------------------------------------------


def lived(seed: int, model: Model[Any], count: int = 60, clients: int = 4) -> list[Operation]:
    """A history that is right: each operation takes effect at one instant of its own between call and return."""
    dice = random.Random(seed)
    calls: list[tuple[float, Operation]] = []
    for process in range(clients):
        now = dice.random()
        for number in range(count // clients):
            invoked, effect, returned = sorted(now + dice.expovariate(1) for _ in range(3))
            value = 1000 * process + number
            kind, argument = drawn(dice, model, value)
            outcome = dice.choices(["ok", "unknown", "fail"], [16, 2, 1])[0]
            if outcome == "unknown":  # it takes effect long after its client gave up, or never
                effect = returned + dice.choice([-0.1, 5, 10_000]) * dice.random()
            calls.append((max(effect, invoked), did(process, kind, argument, None, invoked, returned, outcome)))
            now = returned
    state: Any = model.initial
    found = []
    for _, call in sorted(calls, key=lambda each: each[0]):
        done = call
        if call.outcome == "fail":
            found.append(done)
            continue
        if call.outcome == "ok":
            done = replace(call, result=answer(model, state, call))
        after = model.step(state, done)
        state = state if after is IMPOSSIBLE else after
        found.append(done)
    dice.shuffle(found)
    return found


def drawn(dice: random.Random, model: Model[Any], value: int) -> tuple[str, Any]:
    if isinstance(model, Register):
        kind = dice.choice(["write", "read", "cas"])
        return kind, {"write": value, "read": None, "cas": (dice.choice([None, value - 1, value - 1000]), value)}[kind]
    kind = dice.choice(["add", "read"])
    return kind, value if kind == "add" else None


def answer(model: Model[Any], state: Any, call: Operation) -> Any:
    if call.kind in ("write", "add"):
        return None
    return state if isinstance(model, Register) else tuple(sorted(state))


@pytest.mark.parametrize("model", [Register(), GrowSet()], ids=["register", "set"])
@given(st.integers())
def test_what_a_real_object_did_is_accepted(model: Model[Any], seed: int) -> None:
    assert check(lived(seed, model), model) is None


@given(st.integers())
def test_a_stale_read_is_rejected(seed: int) -> None:
    """After two writes, one after the other, no client may read what was there before."""
    history = lived(seed, Register())
    end = max(each.returned for each in history)
    history += [write(90, -1, end + 1, end + 2), write(91, -2, end + 3, end + 4), read(92, -1, end + 5, end + 6)]
    assert check(history, Register()) is not None
    assert check(history[:-1], Register()) is None


def elements(read: Operation) -> tuple[int, ...]:
    """What it found."""
    assert isinstance(read.result, tuple)
    return read.result


@given(st.integers())
def test_a_lost_add_is_rejected(seed: int) -> None:
    history = lived(seed, GrowSet(), count=24)
    end = max(each.returned for each in history)
    acked = [each for each in history if each.kind == "add" and each.outcome == "ok"]
    everything = {each.argument for each in acked if isinstance(each.argument, int)}
    seen = {one for each in history if each.kind == "read" and each.outcome == "ok" for one in elements(each)}
    final = did(99, "read", None, tuple(sorted(everything | seen)), end + 1, end + 2)
    assert check([*history, final], GrowSet()) is None
    for lost in acked[:3]:
        short = replace(final, result=tuple(one for one in elements(final) if one != lost.argument))
        assert check([*history, short], GrowSet()) is not None


def test_a_compare_and_set_done_twice_is_rejected() -> None:
    """An answer was lost and the request sent again: the second time it undoes what another did in between."""
    history = [
        write(1, 1, 0, 1),
        cas(2, 1, 2, 1, 2, 3),
        write(1, 1, 4, 5),
        read(3, 2, 6, 7),
    ]
    assert violation(history, Register()).culprit == history[-1]
    assert check([*history[:3], cas(2, 1, 2, 1, 5.5, 5.8), history[3]], Register()) is None


class TestRegister:
    """What may be and what may not."""

    def test_a_read_during_a_write_may_see_either(self) -> None:
        for value in (None, 1):
            assert check([write(1, 1, 0, 10), read(2, value, 2, 3)], Register()) is None

    def test_what_was_seen_cannot_be_unseen(self) -> None:
        history = [write(1, 1, 0, 10), read(2, 1, 2, 3), read(3, None, 4, 5)]
        assert violation(history, Register()).culprit == history[-1]

    def test_an_unknown_write_may_come_late_but_once(self) -> None:
        late = write(1, 1, 0, 1, "unknown")
        assert check([late, write(2, 2, 2, 3), read(2, 2, 4, 5), read(3, 1, 6, 7)], Register()) is None
        twice = [late, write(2, 2, 2, 3), read(3, 1, 4, 5), write(2, 3, 6, 7), read(3, 1, 8, 9)]
        assert violation(twice, Register()).culprit == twice[-1]

    def test_a_failed_write_was_not_there(self) -> None:
        assert check([write(1, 1, 0, 1, "fail"), read(2, 1, 2, 3)], Register()) is not None

    def test_an_unknown_swap_needs_its_value(self) -> None:
        assert check([write(1, 1, 0, 1), cas(2, 1, 2, 0, 2, 3, "unknown"), read(3, 2, 4, 5)], Register()) is None
        assert check([write(1, 5, 0, 1), cas(2, 1, 2, 0, 2, 3, "unknown"), read(3, 2, 4, 5)], Register()) is not None


class TestLock:
    """Tokens keep holders apart, not clocks."""

    def test_a_holder_that_slept_is_refused(self) -> None:
        history = [
            did(1, "acquire", None, 5, 0, 1),
            did(2, "acquire", None, 9, 20, 21),
            did(2, "guarded", 9, True, 22, 23),
            did(1, "guarded", 5, False, 24, 25),
            did(1, "release", 5, False, 26, 27),
            did(2, "release", 9, True, 28, 29),
        ]
        assert check(history, Lock()) is None

    def test_two_at_once_are_found(self) -> None:
        history = [
            did(1, "acquire", None, 5, 0, 1),
            did(2, "acquire", None, 9, 20, 21),
            did(1, "guarded", 5, True, 24, 25),
        ]
        assert "no client holds" not in str(violation(history, Lock()))
        assert "token 9 holds it" in str(violation(history, Lock()))

    def test_a_token_is_given_once(self) -> None:
        history = [did(1, "acquire", None, 5, 0, 1), did(2, "acquire", None, 5, 2, 3), did(1, "guarded", 5, True, 4, 5)]
        assert check(history, Lock()) is not None

    def test_without_leases_no_client_takes_what_is_held(self) -> None:
        history = [
            did(1, "acquire", None, 5, 0, 1),
            did(2, "acquire", None, 9, 2, 3),
            did(1, "release", 5, True, 9, 10),
        ]
        assert check(history, Lock()) is not None or check(history[:2], Lock()) is None
        assert check(history, Lock(expires=False)) is not None


# --- what is shown ---------------------------------------------------------------------------------------------------

STALE = """\
no order of these 3 operations on 'k' explains what clients saw:
client 90     0.000 s  write -1    |-|
client 91     2.000 s  write -2        |-|
client 92     4.000 s  read -> -1          |-|
client 92 says: read -> -1. But all that time, whatever the order of the others, its value is -2"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_counterexample_is_small_and_can_be_read(seed: int) -> None:
    history = lived(seed, Register(), count=100)
    end = max(each.returned for each in history)
    history += [write(90, -1, end + 1, end + 2), write(91, -2, end + 3, end + 4), read(92, -1, end + 5, end + 6)]
    history += [replace(each, invoked=each.invoked + end + 7, returned=each.returned + end + 7) for each in history]
    assert str(violation(history, Register())) == STALE


def test_a_lost_add_is_shown() -> None:
    history = [did(1, "add", 1, None, 0, 1), did(2, "add", 2, None, 0.5, 2), did(3, "read", None, (2,), 3, 4)]
    assert str(violation(history, GrowSet())) == (
        "no order of these 3 operations on 'k' explains what clients saw:\n"
        "client 1     0.000 s  add 1        |---|\n"
        "client 2     0.500 s  add 2          |---|\n"
        "client 3     3.000 s  read -> {2}          |-|\n"
        "client 3 says: read -> {2}. But all that time, whatever the order of the others, it holds {1, 2}"
    )


# --- edges -----------------------------------------------------------------------------------------------------------


def test_long_histories_are_decided_fast() -> None:
    assert check(lived(1, Register(), count=3000, clients=5), Register()) is None


def test_what_would_not_end_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "CONFIGURATIONS_MAX", 1000)
    history = [did(number, "add", number, None, 0, 1) for number in range(12)]
    with pytest.raises(TooManyOrders, match="12 operations under way at once on 'k'"):
        check([*history, did(99, "read", None, tuple(range(12)), 2, 3)], GrowSet())


def test_an_empty_history_is_right() -> None:
    assert check([], Register()) is None


def test_a_client_does_one_thing_at_a_time() -> None:
    with pytest.raises(ValueError, match="client 1 does one thing at a time"):
        check([write(1, 1, 0, 5), write(1, 2, 3, 6)], Register())


def test_keys_are_judged_apart() -> None:
    history = [replace(write(1, 1, 0, 1), key="b"), replace(read(2, None, 2, 3), key="a")]
    with pytest.raises(ValueError, match="one key at a time"):
        check(history, Register())
    assert {key: len(part) for key, part in by_key(history).items()} == {"a": 1, "b": 1}


@given(st.integers())
def test_a_history_survives_a_file(seed: int) -> None:
    for model in (Register(), GrowSet()):
        history = lived(seed, model, count=12)
        assert load(dump(history)) == history


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", '{"process": 1}', '{"process":1,"kind":"read","key":"k","invoked":0,"returned":1,"outcome":"so"}'],
)
def test_a_broken_file_names_the_line(line: str) -> None:
    with pytest.raises(ValueError, match="line 2 of the history is no operation"):
        load(f"{dump([read(1, 1, 0, 1)])}{line}\n")

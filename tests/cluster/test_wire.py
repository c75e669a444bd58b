"""What becomes of frames on an impaired wire: the clock is a number, the dice have a seed."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.model.impairment import Impairment
from cluster.network.transit import FRAME_COST_BYTES, HELD_BACK_S_MIN, TURN_S_MAX, UNDER_WAY_BYTES_MAX, Schedule, Wire

FRAME = bytes(range(200)) * 5
seeds = st.integers(0, 2**32)
shares = st.sampled_from([0.0, 0.1, 0.5, 1.0])
impairments = st.builds(
    lambda delay, jitter, **rest: Impairment(delay_s=delay, jitter_s=delay * jitter, **rest),
    delay=st.sampled_from([0.0, 0.01, 0.3]),
    jitter=shares,
    loss=shares,
    duplicate=shares,
    reorder=shares,
    corrupt=shares,
    rate_bps=st.sampled_from([None, 1000, 10**6, 10**9]),
)
traffic = st.lists(st.tuples(st.floats(0, 0.1), st.integers(14, 1514)), max_size=60)


def frames(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") + FRAME for number in range(count)]


def arrivals(wire: Wire, sent: list[bytes], gap_s: float = 0.001) -> list[tuple[float, bytes]]:
    """(when, frame) of all that arrives if frames are sent at this pace, in order of arrival."""
    schedule, arrived = Schedule(), []
    for number, frame in enumerate(sent):
        for due, copy in wire.carry(number * gap_s, frame):
            schedule.put(due, wire, copy)
    while (now := schedule.next_due) is not None:
        arrived += [(now, frame) for _, frame in schedule.take_due(now)]
    return arrived


def wire(impairment: Impairment, seed: int = 1) -> Wire:
    return Wire((1, 2), impairment, seed)


def test_a_delay_is_exact_and_keeps_the_order() -> None:
    sent = frames(50)
    arrived = arrivals(wire(Impairment(delay_s=0.075)), sent)
    assert [frame for _, frame in arrived] == sent
    assert [when for when, _ in arrived] == pytest.approx([number * 0.001 + 0.075 for number in range(50)])


@given(seeds)
def test_jitter_stays_within_its_bounds_and_keeps_the_order(seed: int) -> None:
    sent = frames(100)
    arrived = arrivals(wire(Impairment(delay_s=0.1, jitter_s=0.05), seed), sent, gap_s=0.2)
    assert [frame for _, frame in arrived] == sent
    delays = [when - number * 0.2 for number, (when, _) in enumerate(arrived)]
    assert all(0.05 - 1e-9 <= delay <= 0.15 + 1e-9 for delay in delays)
    assert max(delays) - min(delays) > 0.05
    close = arrivals(wire(Impairment(delay_s=0.1, jitter_s=0.1), seed), sent, gap_s=0)
    assert [frame for _, frame in close] == sent


IMPAIRED: dict[str, Callable[[float], Impairment]] = {
    "loss": lambda share: Impairment(loss=share),
    "duplicate": lambda share: Impairment(duplicate=share),
    "reorder": lambda share: Impairment(reorder=share),
    "corrupt": lambda share: Impairment(corrupt=share),
}


@pytest.mark.parametrize("name", IMPAIRED)
@pytest.mark.parametrize("share", [0.02, 0.2, 0.9])
def test_shares_are_as_requested(name: str, share: float) -> None:
    count = 20_000
    one = wire(IMPAIRED[name](share), seed=7)
    schedule = Schedule()
    for number in range(count):
        for due, copy in one.carry(number, FRAME):
            schedule.put(due, one, copy)
        schedule.take_due(number + 0.5)
    met = {
        "loss": one.fate.lost,
        "duplicate": one.fate.duplicated,
        "reorder": one.fate.reordered,
        "corrupt": one.fate.corrupted,
    }
    assert met.pop(name) == pytest.approx(share * count, abs=5 * (count * share * (1 - share)) ** 0.5)
    assert not any(met.values())


def test_a_lost_frame_does_not_arrive_and_a_doubled_one_does_twice() -> None:
    assert arrivals(wire(Impairment(loss=1)), frames(10)) == []
    assert len(arrivals(wire(Impairment(duplicate=1)), frames(10))) == 20


@given(seeds)
def test_corruption_changes_one_byte(seed: int) -> None:
    sent = frames(30)
    arrived = arrivals(wire(Impairment(corrupt=1), seed), sent)
    for before, (_, after) in zip(sent, arrived, strict=True):
        assert len(before) == len(after)
        assert sum(one != other for one, other in zip(before, after, strict=True)) == 1


@given(seeds)
def test_reordered_frames_are_overtaken_but_not_for_ever(seed: int) -> None:
    sent = frames(200)
    one = wire(Impairment(reorder=0.2), seed)
    arrived = arrivals(one, sent)
    assert sorted(frame for _, frame in arrived) == sent
    assert one.fate.reordered
    assert [frame for _, frame in arrived] != sent
    for when, frame in arrived:
        assert when - int.from_bytes(frame[:4], "big") * 0.001 <= HELD_BACK_S_MIN + 1e-9


def test_a_rate_is_kept_and_what_waits_too_long_is_dropped() -> None:
    """Ten seconds of twice the rate: half arrives, at the rate, each no later than a router's queue lets it wait."""
    rate, size = 1_000_000, 1004
    count = 2 * 10 * rate // (8 * size)
    gap = 10 / count
    one = wire(Impairment(rate_bps=rate))
    arrived = arrivals(one, frames(count), gap)
    assert len(arrived) * size * 8 / arrived[-1][0] == pytest.approx(rate, rel=0.01)
    assert one.fate.overflowed == count - len(arrived)
    waits = [when - int.from_bytes(frame[:4], "big") * gap for when, frame in arrived]
    assert max(waits) <= TURN_S_MAX + size * 8 / rate + 1e-9
    assert max(waits) > 0.9 * TURN_S_MAX


def test_a_rate_lower_than_one_frame_a_second_still_passes_one_after_the_other() -> None:
    arrived = arrivals(wire(Impairment(rate_bps=1000)), frames(4), gap_s=10)
    assert [when for when, _ in arrived] == pytest.approx([8.032, 18.032, 28.032, 38.032])


def test_no_more_is_under_way_than_the_bound() -> None:
    one = wire(Impairment(delay_s=60))
    count = UNDER_WAY_BYTES_MAX // 1004 + 100
    assert sum(len(one.carry(0, frame)) for frame in frames(count)) == UNDER_WAY_BYTES_MAX // 1004
    assert one.fate.overflowed > 0
    assert one.under_way_bytes <= UNDER_WAY_BYTES_MAX


@given(impairments, seeds, traffic)
def test_the_same_seed_and_frames_meet_the_same_fate_and_nothing_comes_from_nowhere(
    impairment: Impairment, seed: int, sent: list[tuple[float, int]]
) -> None:
    def story() -> tuple[list[list[tuple[float, bytes]]], Wire]:
        one, now, all_arrivals = wire(impairment, seed), 0.0, []
        for gap, size in sent:
            now += gap
            all_arrivals.append(one.carry(now, bytes(size)))
            assert all(due >= now for due, _ in all_arrivals[-1])
        return all_arrivals, one

    (first, one), (second, _) = story(), story()
    assert first == second
    fate, copies = one.fate, sum(map(len, first))
    assert fate.frames == len(sent)
    assert copies + fate.lost + fate.overflowed == len(sent) + fate.duplicated
    assert one.under_way_bytes == sum(max(len(frame), FRAME_COST_BYTES) for each in first for _, frame in each)


def test_pairs_have_dice_of_their_own_and_a_new_seed_is_new_luck() -> None:
    def luck(one: Wire) -> list[bool]:
        return [bool(one.carry(number, FRAME)) for number in range(100)]

    half = Impairment(loss=0.5)
    there, back = Wire((1, 2), half, 3), Wire((2, 1), half, 3)
    expected = luck(Wire((1, 2), half, 3))
    assert luck(back) != expected
    assert luck(there) == expected
    there.become(half, 3)
    assert luck(there) != expected  # it goes on where it was
    there.become(half, 4)
    assert luck(there) == luck(Wire((1, 2), half, 4))


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=40), st.floats(0, 10))
def test_the_schedule_gives_what_is_due_in_order_and_keeps_the_rest(
    entries: list[tuple[float, bool]], now: float
) -> None:
    wires = {which: Wire((1, 2 + which), Impairment(delay_s=10), 0) for which in (False, True)}
    schedule = Schedule()
    for number, (due, which) in enumerate(entries):
        schedule.put(due, wires[which], number.to_bytes(4, "big"))
    expected = sorted(range(len(entries)), key=lambda number: entries[number][0])
    taken = [int.from_bytes(frame, "big") for _, frame in schedule.take_due(now)]
    assert taken == [number for number in expected if entries[number][0] <= now]
    rest = [int.from_bytes(frame, "big") for frame in schedule.take_all_of(wires[True])]
    assert rest == [number for number in expected if entries[number][0] > now and entries[number][1]]
    assert all(which is wires[False] for which, _ in schedule.take_due(100))
    assert schedule.next_due is None


def test_the_dice_of_the_whole_process_are_left_alone() -> None:
    random.seed(5)
    expected = random.random()
    random.seed(5)
    arrivals(wire(Impairment(loss=0.5, corrupt=0.5)), frames(20))
    assert random.random() == expected


def test_short_frames_do_not_take_more_room_than_long_ones() -> None:
    one = wire(Impairment(delay_s=60))
    assert sum(len(one.carry(0, bytes(14))) for _ in range(100_000)) == UNDER_WAY_BYTES_MAX // FRAME_COST_BYTES

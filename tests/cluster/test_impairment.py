"""Impairments as values, and what people write for them."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.model.impairment import WHOLE, Impairment
from cluster.network.impairment import Faults, bits_per_s, both_ways, seconds, share
from terminal import UsageFailure, record

shares = st.integers(0, 100).map(lambda percent: percent / 100)
impairments = st.builds(
    lambda delay, jitter, **rest: Impairment(delay_s=delay / 100, jitter_s=min(delay, jitter) / 100, **rest),
    delay=st.integers(0, 1000),
    jitter=st.integers(0, 1000),
    cut=st.booleans(),
    loss=shares,
    duplicate=shares,
    reorder=shares,
    corrupt=shares,
    rate_bps=st.none() | st.integers(1000, 10**9),
)
pairs = st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(lambda pair: pair[0] != pair[1])


def near(one: Impairment, other: Impairment) -> bool:
    return all(getattr(one, f.name) == pytest.approx(getattr(other, f.name)) for f in dataclasses.fields(Impairment))


@pytest.mark.parametrize(
    ("text", "value"), [("75ms", 0.075), ("1.5s", 1.5), ("200us", 0.0002), ("1 m", 60), (".5S", 0.5), (0.3, 0.3)]
)
def test_times(text: str | float, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("20%", 0.2), ("0.2", 0.2), ("100%", 1), ("0", 0), (0.3, 0.3), ("0.1 %", 0.001)]
)
def test_shares(text: str | float, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1mbit", 10**6),
        ("500kbit/s", 500_000),
        ("9600bit", 9600),
        ("1.5Gbit", 1_500_000_000),
        ("2mbps", None),
        (5000, 5000),
    ],
)
def test_rates(text: str | float, value: int | None) -> None:
    if value is None:
        with pytest.raises(UsageFailure, match="a rate has a number and a unit"):
            bits_per_s(text)  # bits or bytes? whoever writes it may mean either
    else:
        assert bits_per_s(text) == value


@pytest.mark.parametrize("text", ["", "75", "ms", "-1ms", "75 parsecs", "1,5s", "nan", "1e3s"])
def test_what_is_no_time_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(UsageFailure, match=r"^jitter .*a time has a number and a unit"):
        seconds(text, "jitter")


@pytest.mark.parametrize("text", ["", "20", "120%", "1.2", "half", "-5%"])
def test_what_is_no_share_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(UsageFailure, match=r"^reorder .*between 0% and 100%"):
        share(text, "reorder")


@pytest.mark.parametrize("text", ["", "1", "fast", "0x10mbit", "mbit"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageFailure, match=r"^rate .*a number and a unit"):
        bits_per_s(text)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"loss": 1.5}, "loss 1.5: a share is between 0 and 1"),
        ({"corrupt": -0.1}, "corrupt -0.1"),
        ({"delay_s": 61}, "delay 61 s: from 0 to 60 s"),
        ({"delay_s": float("nan")}, "delay nan s"),
        ({"delay_s": 0.1, "jitter_s": 0.2}, "no frame arrives before it was sent"),
        ({"rate_bps": 1}, "rate 1 bit/s: from 1 kbit/s"),
    ],
)
def test_values_that_cannot_be_are_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageFailure, match=complaint):
        Impairment(**wrong)


def test_an_impairment_is_printed_as_people_write_it() -> None:
    bad = Impairment(delay_s=0.075, jitter_s=0.05, loss=0.2, duplicate=0.01, rate_bps=1_500_000)
    assert str(bad) == "delay 75ms, jitter 50ms, loss 20%, duplicate 1%, rate 1.5mbit"
    assert str(Impairment(delay_s=2)) == "delay 2s"
    assert str(Impairment(cut=True)) == "cut"
    assert str(WHOLE) == "whole"
    assert bad.data() == {"delay_s": 0.075, "jitter_s": 0.05, "loss": 0.2, "duplicate": 0.01, "rate_bps": 1_500_000}


def test_two_impairments_at_once() -> None:
    both = Impairment(delay_s=0.1, loss=0.5, rate_bps=2000).with_(Impairment(delay_s=0.2, loss=0.5, rate_bps=1000))
    assert near(both, Impairment(delay_s=0.3, loss=0.75, rate_bps=1000))
    assert Impairment(cut=True).with_(WHOLE).cut


@given(impairments, impairments, impairments)
def test_the_order_of_faults_does_not_matter_and_a_whole_link_adds_nothing(
    one: Impairment, two: Impairment, three: Impairment
) -> None:
    assert near(one.with_(two), two.with_(one))
    assert near(one.with_(two).with_(three), one.with_(two.with_(three)))
    assert near(one.with_(WHOLE), one)


@given(impairments)
def test_json_keeps_an_impairment(impairment: Impairment) -> None:
    assert record.build(Impairment, impairment.data()) == impairment


@given(st.lists(st.tuples(st.frozensets(pairs), impairments)))
def test_faults_of_several_pairs_do_not_touch_each_other(
    story: list[tuple[frozenset[tuple[int, int]], Impairment]],
) -> None:
    faults = Faults()
    for chosen, impairment in story:
        before = faults
        faults = faults.worsening(chosen, impairment)
        for pair in {*before.impairments, *faults.impairments}:
            expected = before.of(*pair).with_(impairment) if pair in chosen else before.of(*pair)
            assert faults.of(*pair) == expected
    assert WHOLE not in faults.impairments.values()
    for one, other in list(faults.impairments):
        faults = faults.healing(one, other)
    assert faults == Faults()


def test_a_cut_has_two_directions_unless_one_way_and_heals() -> None:
    both = Faults().cutting(1, 2)
    assert both.drops(1, 2)
    assert both.drops(2, 1)
    assert not both.drops(1, 3)
    one = Faults().cutting(1, 2, one_way=True)
    assert one.drops(1, 2)
    assert not one.drops(2, 1)
    assert both.healing(2, 1) == Faults()
    assert both_ways(1, 2) == {(1, 2), (2, 1)}

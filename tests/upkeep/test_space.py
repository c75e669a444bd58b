"""What goes: never what runs or is used, nothing too early, the longest idle first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upkeep.space import ENDED, Container, Fill, Holdings, Image, idle_since, order

IDS = st.integers(0, 5).map(lambda number: f"sha256:{number}")
STATES = st.sampled_from(["created", "running", "paused", "restarting", "removing", "exited", "dead", "new word"])
CONTAINERS = st.builds(
    Container, st.uuids().map(str), st.text(max_size=3), IDS, STATES, st.integers(0, 9), st.booleans()
)
IMAGES = st.builds(Image, IDS, st.lists(st.text(max_size=3), max_size=2).map(tuple), st.integers(0, 9), st.booleans())
HOLDINGS = st.builds(
    Holdings, st.lists(CONTAINERS, max_size=6), st.lists(IMAGES, max_size=6, unique_by=lambda each: each.id)
)


@given(HOLDINGS)
def test_what_runs_is_used_or_kept_never_goes(holdings: Holdings) -> None:
    idle = set(holdings.idle())
    for container in holdings.containers:
        assert (container in idle) == (container.state in ("exited", "dead") and not container.kept)
    staying = [each for each in holdings.containers if each not in idle]
    for image in holdings.images:
        assert (image in idle) == (not image.kept and all(each.image != image.id for each in staying))


@given(HOLDINGS, st.dictionaries(IDS, st.floats(0, 1000)), st.floats(0, 1000), st.floats(0, 1000))
def test_nothing_goes_before_it_has_rested(
    holdings: Holdings, before: dict[str, float], now: float, rest_s: float
) -> None:
    idle = holdings.idle()
    since = idle_since(idle, before, now)
    assert set(since) == {each.id for each in idle}
    assert all(start <= now for start in since.values())
    due = order(idle, since, now, rest_s)
    assert {each.id for each in due} == {each.id for each in idle if now - since[each.id] >= rest_s}
    kinds = [isinstance(each, Image) for each in due]
    assert kinds == sorted(kinds), "containers first: their images are free then"
    for kind in (Container, Image):
        times = [since[each.id] for each in due if isinstance(each, kind)]
        assert times == sorted(times), "the longest idle first"


@given(HOLDINGS, st.randoms(use_true_random=False))
def test_the_order_is_not_that_of_docker_s_lists(holdings: Holdings, random: object) -> None:
    idle = list(holdings.idle())
    since = idle_since(idle, {}, 0)
    expected = order(idle, since, 0, 0)
    random.shuffle(idle)  # type: ignore[attr-defined]
    assert order(idle, since, 0, 0) == expected


def test_a_container_that_starts_again_is_idle_from_then() -> None:
    ended = Container("c", "c", "i", "exited", 0)
    known = idle_since(Holdings([ended], []).idle(), {}, 10)
    assert known == {"c": 10}
    running = Holdings([Container("c", "c", "i", "running", 0)], [])
    known = idle_since(running.idle(), known, 20)
    assert known == {}
    assert idle_since(Holdings([ended], []).idle(), known, 30) == {"c": 30}


def test_ended_is_what_docker_s_own_prune_takes_but_for_what_has_yet_to_start() -> None:
    assert "created" not in ENDED


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
def test_what_the_file_system_keeps_counts_as_full(used: int, available: int, kept: int) -> None:
    fill = Fill.of("/var", 4096, used + available + kept, available + kept, available)
    assert fill.size_bytes == 4096 * (used + available)
    assert 0 <= fill.percent <= 100
    if used and not available:
        assert fill.percent == 100

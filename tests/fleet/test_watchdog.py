"""fleetd reports to systemd's watchdog that it lives as long as its loops advance, and no longer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.watchdog import Watchdog, timeout_s
from tests.eventually import eventually

TTL_S = 9.0  # so a tick is a second


def watchdog() -> Watchdog:
    return Watchdog(lambda _: None, ttl_s=TTL_S)


def test_systemd_waits_for_a_third_of_the_lease() -> None:
    assert timeout_s(30) == 10
    assert timeout_s(3) == 3, "less is a hiccup"


def test_a_loop_hangs_when_it_stands_still_for_longer_than_its_patience() -> None:
    seen = watchdog()
    agent, engine = seen.loop("agent", 2), seen.loop("engine", 600)
    for _ in range(100):
        agent.passed()
        assert seen.tick() == []
    assert [seen.tick() for _ in range(3)] == [[], [], ["agent"]]
    agent.passed()
    assert seen.tick() == []
    engine.passed()


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=50), st.integers(1, 5), st.integers(1, 5))
def test_each_loop_has_to_advance_by_itself(rounds: list[tuple[bool, bool]], one: int, other: int) -> None:
    seen = watchdog()
    loops = [seen.loop("0", one), seen.loop("1", other)]
    still = [0, 0]
    for passed in rounds:
        for number, loop in enumerate(loops):
            if passed[number]:
                loop.passed()
            still[number] = 0 if passed[number] else still[number] + 1
        assert seen.tick() == [str(each) for each in (0, 1) if still[each] > (one, other)[each]]


def test_reports_come_until_a_loop_hangs() -> None:
    said: list[str] = []
    seen = Watchdog(said.append, ttl_s=0.3)  # systemd waits for three seconds
    loop = seen.loop("agent", 0.5)
    seen.start()
    try:
        assert said[0] == "WATCHDOG_USEC=3000000\nWATCHDOG=1"

        def goes_on() -> bool:
            loop.passed()
            return said.count("WATCHDOG=1") >= 4

        eventually(goes_on)
        assert "WATCHDOG=trigger" not in said
        eventually(lambda: said[-1] == "WATCHDOG=trigger")
    finally:
        seen.stop()

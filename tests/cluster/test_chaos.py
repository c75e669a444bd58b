"""Plans of faults: the same for the same seed, within what was allowed; and storms, which heal whatever happens."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.client.fault import Fault
from cluster.network import partition
from cluster.testing import chaos
from cluster.testing.chaos import MENU, Damage, Plan, Step, Storm, draw, has_majority
from terminal import Failure, UsageFailure
from tests.eventually import WITHIN_S, eventually

pytestmark = pytest.mark.slow


def overlapping(plan: Plan, at: float) -> list[Step]:
    return [step for step in plan.steps if step.at <= at <= step.back_at]


PLANS = st.builds(
    draw,
    seed=st.integers(0, 1 << 32),
    nodes=st.integers(1, 7).map(lambda count: range(1, count + 1)),
    seconds=st.sampled_from([5.0, 30.0]),
    menu=st.lists(st.sampled_from(sorted(MENU)), min_size=1, unique=True),
    keep_majority=st.booleans(),
    gap_s=st.sampled_from([0.5, 3.0]),
    boot_s=st.sampled_from([0.0, 20.0]),
)


class TestPlan:
    """:func:`draw`."""

    @given(PLANS)
    def test_it_is_in_time_and_ends_healed(self, plan: Plan) -> None:
        for step in plan.steps:
            assert 0 <= step.at < step.heal_at <= plan.seconds
            assert step.heal_at <= step.back_at
        assert [step.at for step in plan.steps] == sorted(step.at for step in plan.steps)

    @given(PLANS)
    def test_a_node_is_down_for_one_reason_at_a_time(self, plan: Plan) -> None:
        for node in plan.nodes:
            times = [(step.at, step.back_at) for step in plan.steps if node in step.damage.down]
            assert all(one[1] < other[0] for one, other in itertools.pairwise(times))

    @given(PLANS)
    def test_a_clock_belongs_to_a_machine_that_runs(self, plan: Plan) -> None:
        """From the step to its healing; a machine that is switched on has to boot first."""
        for clock in [step for step in plan.steps if step.kind == "clock"]:
            for step in plan.steps:
                if clock.arguments[0] in step.damage.down:
                    assert step.back_at < clock.at or clock.heal_at < step.at

    @given(st.integers(0, 1 << 32), st.integers(1, 7), st.sampled_from([0.0, 20.0]))
    def test_a_majority_is_kept(self, seed: int, count: int, boot_s: float) -> None:
        plan = draw(seed=seed, nodes=range(1, count + 1), seconds=30, gap_s=0.5, boot_s=boot_s)
        for step in plan.steps:
            for at in (step.at, step.heal_at):
                assert has_majority(plan.nodes, [other.damage for other in overlapping(plan, at)])

    def test_without_that_it_may_be_lost(self) -> None:
        plans = [draw(seed=seed, nodes=[1, 2, 3], seconds=60, keep_majority=False) for seed in range(20)]
        worst = [[other.damage for other in overlapping(plan, step.at)] for plan in plans for step in plan.steps]
        assert not all(has_majority([1, 2, 3], damages) for damages in worst)

    @given(PLANS)
    def test_it_describes_itself(self, plan: Plan) -> None:
        lines = str(plan).splitlines()
        assert lines[0].startswith(f"chaos with seed {plan.seed}: {len(plan.steps)} faults")
        assert len(lines) == 1 + len(plan.steps)

    def test_the_seed_decides(self) -> None:
        same = [draw(seed=3, nodes=[1, 2, 3], seconds=60) for _ in range(2)]
        assert same[0] == same[1]
        assert draw(seed=4, nodes=[1, 2, 3], seconds=60) != same[0]

    def test_every_kind_is_drawn(self) -> None:
        plan = draw(seed=1, nodes=range(1, 6), seconds=5000, keep_majority=False)
        assert {step.kind for step in plan.steps} == set(MENU)

    def test_it_can_be_read(self) -> None:
        assert str(draw(seed=7, nodes=[1, 2, 3], seconds=30)) == GOLDEN

    @pytest.mark.parametrize(
        ("wrong", "complaint"),
        [
            (lambda: draw(seed=1, nodes=[1, 2, 3], seconds=30, menu=["flood"]), "there is no fault 'flood'"),
            (lambda: draw(seed=1, nodes=[1, 2, 3], seconds=30, menu=[]), "needs nodes, kinds"),
            (lambda: draw(seed=1, nodes=[], seconds=30), "needs nodes"),
            (lambda: draw(seed=1, nodes=[1, 2, 3], seconds=30, gap_s=0), "times above 0"),
            (lambda: draw(seed=1, nodes=[1, 2, 3], seconds=30, length_s=(5, 2)), "times above 0"),
        ],
    )
    def test_mistakes_are_reported(self, wrong: Callable[[], Plan], complaint: str) -> None:
        with pytest.raises(UsageFailure, match=complaint):
            wrong()


class TestMajority:
    """:func:`has_majority`."""

    @pytest.mark.parametrize(
        ("damages", "kept"),
        [
            ([], True),
            ([Damage(down=frozenset({1}))], True),
            ([Damage(down=frozenset({1})), Damage(down=frozenset({2}))], False),
            ([Damage(pairs=partition.isolated([1, 2, 3], 1))], True),
            ([Damage(pairs=frozenset({(1, 2)}))], True),
            ([Damage(pairs=frozenset({(1, 2), (2, 3), (3, 1)}))], False),
            ([Damage(down=frozenset({1})), Damage(pairs=frozenset({(2, 3)}))], False),
        ],
    )
    def test_of_three(self, damages: list[Damage], kept: bool) -> None:
        assert has_majority([1, 2, 3], damages) is kept


class TestEstranged:
    """:func:`chaos.estranged`."""

    def test_who_was_apart_and_for_how_long(self) -> None:
        cut = Step(0, 5, "isolate", (3,), Damage(pairs=partition.isolated([1, 2, 3], 3)), 5)
        killed = Step(3, 8, "kill", (3,), Damage(down=frozenset({3})), 18)
        clock = Step(0, 5, "clock", (1, 5.0), Damage(), 5)
        felt = {cut: (100.0, 105.5), killed: (103.0, 108.0), clock: (100.0, None)}
        found = chaos.estranged([1, 2, 3], felt, 2.0, 200.0)
        assert found[1] == found[2] == []
        assert min(begin for begin, _ in found[3]) == 100.0
        assert max(end for _, end in found[3]) == 108.0 + 10 + 2
        assert all(begin <= 103.0 <= end or begin > 102 for begin, end in found[3])

    def test_without_a_majority_all_are(self) -> None:
        dark = Step(0, 5, "blackout", (), Damage(down=frozenset({1, 2, 3})), 5)
        assert chaos.estranged([1, 2, 3], {dark: (10.0, None)}, 1.0, 30.0) == {
            node: [(10.0, 31.0)] for node in (1, 2, 3)
        }


class Things:
    """Stand-ins for what a step breaks; records what happened to them."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.broken: set[Step] = set()
        self.heal: Callable[[Step], None] = self.broken.discard

    def apply(self, step: Step) -> Fault:
        self.story.append(f"begin {step.kind}")
        self.broken.add(step)

        def heal() -> None:
            self.heal(step)
            self.story.append(f"end {step.kind}")

        return Fault(step.kind, heal)


def plan_of(*times: tuple[float, float, str]) -> Plan:
    steps = tuple(Step(at, heal_at, kind, (1,), Damage(), heal_at) for at, heal_at, kind in times)
    return Plan(1, (1, 2, 3), 1, steps)


class TestStorm:
    """:class:`Storm`."""

    def test_it_carries_out_the_plan_in_order(self) -> None:
        things = Things()
        with Storm(plan_of((0, 0.1, "kill"), (0.05, 0.3, "cut"), (0.1, 0.2, "pause")), things.apply) as storm:
            assert storm.wait(WITHIN_S)
        assert things.story == ["begin kill", "begin cut", "end kill", "begin pause", "end pause", "end cut"]
        assert not things.broken

    def test_an_early_end_heals(self) -> None:
        things = Things()
        with Storm(plan_of((0, 600, "kill"), (0, 600, "cut"), (300, 600, "pause")), things.apply) as storm:
            eventually(lambda: len(things.story) == 2)
            assert not storm.wait(0)
        assert things.story == ["begin kill", "begin cut", "end cut", "end kill"]

    def test_a_failed_test_heals_and_keeps_its_own_trouble(self) -> None:
        things = Things()
        with pytest.raises(AssertionError, match="mine"), Storm(plan_of((0, 600, "kill")), things.apply) as storm:
            storm.troubles.append(Failure("not this"))
            eventually(lambda: things.story)
            raise AssertionError("mine")
        assert not things.broken

    def test_a_fault_that_does_not_work_is_reported(self) -> None:
        def apply(step: Step) -> Fault:
            raise Failure(f"node-1 is off, {step.kind}")

        with pytest.raises(Failure, match="node-1 is off"), Storm(plan_of((0, 0.1, "pause")), apply) as storm:
            storm.wait(WITHIN_S)

    def test_healing_is_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(chaos, "HEAL_PAUSE_S", 0.0)
        things, tries = Things(), 0

        def heal(step: Step) -> None:
            nonlocal tries
            tries += 1
            if tries < chaos.HEAL_TRIES:
                raise Failure("busy")
            things.broken.discard(step)

        things.heal = heal
        with Storm(plan_of((0, 0.01, "kill")), things.apply) as storm:
            assert storm.wait(WITHIN_S)
        assert not things.broken

    def test_no_thread_stays(self) -> None:
        before = threading.active_count()
        with Storm(plan_of((0, 0.01, "kill")), Things().apply):
            pass
        assert threading.active_count() == before


GOLDEN = """\
chaos with seed 7: 14 faults on 3 nodes in 30 s
    1.2 s  to    3.8 s  kill node-3
    1.5 s  to    4.5 s  clock node-1 -120 s
    4.1 s  to    6.4 s  isolate node-1
    5.1 s  to    9.5 s  clock node-3 -5 s
    5.4 s  to   12.5 s  clock node-2 -120 s
    7.8 s  to   13.8 s  isolate node-3
    9.5 s  to   19.3 s  clock node-1 +120 s
   10.0 s  to   12.6 s  slow-disk node-3
   12.6 s  to   18.5 s  clock node-2 -120 s
   18.0 s  to   23.8 s  partition {node-1, node-3} {node-2}
   21.2 s  to   29.8 s  slow-disk node-2
   25.0 s  to   28.3 s  bridge node-1
   27.0 s  to   30.0 s  isolate node-2
   27.3 s  to   30.0 s  clock node-1 -120 s"""

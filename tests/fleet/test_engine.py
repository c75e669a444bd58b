"""How a plan becomes transactions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etcd.fake import FakeEtcd
from etcd.protocol import Op
from fleet.engine.chronicle import of_plan
from fleet.engine.writes import BYTES_MAX, OPS_MAX, batches, described
from fleet.model.entities import Desired, Placement
from fleet.model.registry import Registry
from fleet.scheduler.reasons import Reject, Rejection, Why
from fleet.scheduler.schedule import Decision, Plan

REGISTRY = Registry(FakeEtcd())


def order(unit: str, machine: str, text: str = "") -> Decision:
    return Decision(unit, machine, Why.LEAST_LOADED, Placement(unit, machine, Desired.LOADED, text, ""))


def written(plan: Plan) -> list[list[Op]]:
    return [ops for ops, _ in batches(REGISTRY, plan, {})]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 250)), max_size=8, unique_by=lambda each: each[0]))
def test_batches_fit_and_lose_nothing(sizes: list[tuple[int, int]]) -> None:
    decisions = tuple(
        order(f"u{number:02}.service", f"m{machine:03}") for number, count in sizes for machine in range(count)
    )
    made = written(Plan(decisions, tuple((f"u{number:02}.service", "x") for number, _ in sizes)))
    assert all(0 < len(batch) <= OPS_MAX for batch in made)
    keys = [op.key for batch in made for op in batch]
    assert len(keys) == len(set(keys)) == len(decisions) + len(sizes)


def test_a_move_is_one_transaction() -> None:
    away = [Decision(f"{number:03}.service", "a", Why.MACHINE_GONE) for number in range(90)]
    back = [order(f"{number:03}.service", "b") for number in range(90)]
    for batch in written(Plan(tuple(away + back), ())):
        units = [op.key.rpartition("/")[2] for op in batch]
        assert all(units.count(unit) == 2 for unit in units)


def test_bytes_are_bounded_too() -> None:
    made = written(Plan(tuple(order(f"{number}.service", "a", "x" * 700_000) for number in range(3))))
    assert [len(batch) for batch in made] == [1, 1, 1]
    assert all(sum(len(op.value_bytes) for op in batch) < BYTES_MAX for batch in made)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 250)), max_size=8, unique_by=lambda each: each[0]))
def test_each_unit_s_events_are_with_its_last_operation(sizes: list[tuple[int, int]]) -> None:
    decisions = tuple(
        order(f"u{number:02}.service", f"m{machine:03}") for number, count in sizes for machine in range(count)
    )
    plan = Plan(decisions)
    made = list(batches(REGISTRY, plan, of_plan(plan, ())))
    assert sorted(event.unit for _, events in made for event in events) == sorted(
        f"u{number:02}.service" for number, _ in sizes
    )
    for unit in {each.unit for each in decisions}:
        carried = [index for index, (ops, _) in enumerate(made) if any(op.key.endswith(f"/{unit}") for op in ops)]
        said = [index for index, (_, events) in enumerate(made) if any(event.unit == unit for event in events)]
        assert said == [max(carried)]


def test_decisions_in_words() -> None:
    assert described(order("x.service", "a")) == "x.service goes to a: least loaded"
    assert described(Decision("x.service", "a", Why.MACHINE_GONE)) == "x.service leaves a: machine gone"
    unfit = Decision("x.service", "a", Why.UNFIT, None, Rejection(Reject.CONFLICT, "y.service"))
    assert described(unfit) == "x.service leaves a: conflict y.service"

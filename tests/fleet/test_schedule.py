"""The scheduler: properties that hold for any cluster, and the rules one by one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import TypedDict, TypeVar, Unpack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.model.entities import Desired, Machine, Placement, Unit
from fleet.scheduler.index import Index, Spec
from fleet.scheduler.reasons import Reject, Rejection, Why
from fleet.scheduler.schedule import ClusterView, Plan, Scheduler, decide
from tests.fleet.clusters import (
    applied,
    clusters,
    machines,
    on,
    placement,
    refusal,
    requirements,
    unit,
    units,
    untouchable,
)

K = TypeVar("K")
V = TypeVar("V")

Change = Machine | Unit | str
"""What is new of a cluster; a name is that of a machine or of a unit that is gone."""


class Past(TypedDict, total=False):
    """What a :class:`ClusterView` has beside machines and units."""

    doubted: str
    evicted: frozenset[str]
    unreadable: frozenset[str]
    placements: Mapping[tuple[str, str], Placement]
    present: frozenset[tuple[str, str]]
    explanations: Mapping[str, str]


class TestProperties:
    """What must hold whatever the cluster looks like."""

    @pytest.mark.slow
    @given(clusters())
    @settings(max_examples=200)
    def test_no_constraint_is_violated_on_a_live_machine(self, cluster: ClusterView) -> None:
        after = applied(cluster, decide(cluster))
        for (machine, name), order in after.placements.items():
            if machine in after.machines and not untouchable(after, name):
                assert refusal(after, after.units[name], machine) in ("", *_untouchable_neighbours(after, machine)), (
                    order
                )

    @given(clusters())
    @settings(max_examples=150)
    def test_planning_again_changes_nothing(self, cluster: ClusterView) -> None:
        after = applied(cluster, decide(cluster))
        assert decide(after) == Plan()

    @given(clusters(), st.randoms(use_true_random=False))
    def test_the_answer_does_not_depend_on_the_order_of_the_input(self, cluster: ClusterView, random: Random) -> None:
        def shuffled(mapping: Mapping[K, V]) -> dict[K, V]:
            items = list(mapping.items())
            random.shuffle(items)
            return dict(items)

        other = replace(
            cluster,
            machines=shuffled(cluster.machines),
            units=shuffled(cluster.units),
            placements=shuffled(cluster.placements),
        )
        assert decide(other) == decide(cluster)

    @given(
        clusters(),
        st.lists(
            st.one_of(machines, units, st.sampled_from("abcde"), st.sampled_from(["db.service", "web.service"])),
            max_size=8,
        ),
    )
    @settings(max_examples=150)
    def test_incremental_equals_from_scratch(self, cluster: ClusterView, changes: list[Change]) -> None:
        """A scheduler that follows changes decides after each what a new one would."""
        scheduler = Scheduler.of(cluster)
        for change in [None, *changes]:
            cluster = _changed(cluster, scheduler, change)
            plan = scheduler.plan()
            assert plan == decide(cluster), f"after {change}"
            cluster = applied(cluster, plan)

    @given(clusters())
    @settings(max_examples=150)
    def test_a_unit_moves_only_with_cause(self, cluster: ClusterView) -> None:
        """Whatever is taken off a machine is unwanted, gone, a duplicate, on an evicted machine, or refused there."""
        plan = decide(cluster)
        for decision in plan.decisions:
            if decision.placement is not None:
                continue
            known = cluster.units.get(decision.unit)
            match decision.why:
                case Why.DESTROYED:
                    assert known is None
                case Why.UNWANTED:
                    assert known is not None
                    assert known.desired is Desired.INACTIVE
                case Why.MACHINE_GONE:
                    assert decision.machine in cluster.evicted
                    assert decision.machine not in cluster.machines
                case Why.DUPLICATE:
                    assert len([1 for _, name in cluster.placements if name == decision.unit]) > 1
                case Why.UNFIT:
                    assert decision.machine in cluster.machines
                    assert known is not None
                    if decision.rejection is not None and decision.rejection.kind is Reject.OTHER_MACHINE:
                        assert refusal(cluster, known, decision.machine) == "machine"
                case _:
                    pytest.fail(f"{decision} takes a unit away")

    @given(clusters())
    @settings(max_examples=200)
    def test_a_unit_that_can_be_placed_is_placed(self, cluster: ClusterView) -> None:
        """A wanted unit without a machine has none that fits, or waits for a machine to let go of it."""
        after = applied(cluster, decide(cluster))
        placed = {name for _, name in after.placements}
        for name, each in after.units.items():
            wanted = requirements(each)
            if (
                name in placed
                or untouchable(after, name)
                or wanted is None
                or wanted.global_
                or each.desired is Desired.INACTIVE
            ):
                continue
            waits = any(
                where in after.machines and (where, name) not in after.placements
                for where, spoken in after.present
                if spoken == name
            )
            for machine in after.machines:
                replaced = any(
                    "Replaces" in after.units[other].unitfile.serialize()
                    for other in on(after, machine)
                    if other in after.units
                )
                assert waits or replaced or refusal(after, each, machine), f"{name} fits {machine}"
            assert after.explanations[name]

    @given(st.integers(2, 12), st.integers(0, 40))
    def test_a_machine_in_doubt_gets_nothing_where_another_fits(self, hosts: int, count: int) -> None:
        cluster = ClusterView(
            machines={f"m{n:02}": Machine(f"m{n:02}") for n in range(hosts)},
            units={f"u{n}.service": unit(f"u{n}.service") for n in range(count)},
            doubted="m01",
        )
        loads = {machine: len(on(applied(cluster, decide(cluster)), machine)) for machine in cluster.machines}
        assert loads.pop("m01") == 0
        assert sum(loads.values()) == count
        assert max(loads.values()) - min(loads.values()) <= 1

    @given(st.integers(1, 12), st.integers(0, 40))
    def test_without_constraints_the_load_is_even(self, hosts: int, count: int) -> None:
        cluster = ClusterView(
            machines={f"m{n:02}": Machine(f"m{n:02}") for n in range(hosts)},
            units={f"u{n}.service": unit(f"u{n}.service") for n in range(count)},
        )
        after = applied(cluster, decide(cluster))
        loads = [len(on(after, machine)) for machine in after.machines]
        assert sum(loads) == count
        assert max(loads) - min(loads) <= 1


def _untouchable_neighbours(cluster: ClusterView, machine: str) -> tuple[str, ...]:
    """A unit that is left alone may stand beside one that it conflicts with; nothing can be done about it."""
    return ("conflict",) if any(untouchable(cluster, name) for name in on(cluster, machine)) else ()


def _changed(cluster: ClusterView, scheduler: Scheduler, change: Change | None) -> ClusterView:
    """Report a change to the scheduler, and make the same change in the view."""
    if change is None:
        return cluster
    if isinstance(change, Machine):
        scheduler.set_machine(change)
        return replace(cluster, machines={**cluster.machines, change.id: change}, evicted=cluster.evicted - {change.id})
    if isinstance(change, str) and change.endswith(".service"):
        scheduler.drop_unit(change)
        known = {name: each for name, each in cluster.units.items() if name != change}
        return replace(cluster, units=known, unreadable=cluster.unreadable - {change})
    if isinstance(change, str):
        if change in cluster.machines:
            scheduler.drop_machine(change)
            return replace(cluster, machines={key: each for key, each in cluster.machines.items() if key != change})
        scheduler.evict_machine(change)
        return replace(cluster, evicted=cluster.evicted | {change})
    scheduler.set_unit(change)
    return replace(
        cluster,
        units={**cluster.units, change.name: change},
        unreadable=cluster.unreadable - {change.name},
    )


def world(*known: Unit, alive: str = "abc", **more: Unpack[Past]) -> ClusterView:
    """A small cluster of machines named by letters."""
    return ClusterView(
        machines={each: Machine(each, metadata={"disk": "ssd"} if each == "a" else {}) for each in alive},
        units={each.name: each for each in known},
        **more,
    )


def where(cluster: ClusterView) -> dict[str, str]:
    """unit -> machines, as text."""
    after = applied(cluster, decide(cluster))
    found: dict[str, str] = {}
    for machine, name in sorted(after.placements):
        found[name] = found.get(name, "") + machine
    return found


class TestRules:
    """The rules, one example each."""

    def test_least_loaded_then_lowest_id(self) -> None:
        assert where(world(unit("1.service"), unit("2.service"), unit("3.service"), unit("4.service"))) == {
            "1.service": "a",
            "2.service": "b",
            "3.service": "c",
            "4.service": "a",
        }

    def test_a_machine_in_doubt_gets_what_fits_nowhere_else(self) -> None:
        units = (unit("1.service"), unit("2.service"), unit("3.service"), unit("4.service", "MachineID=a"))
        cluster = world(*units, doubted="a")
        assert where(cluster) == {"1.service": "b", "2.service": "c", "3.service": "b", "4.service": "a"}
        reasons = {each.unit: each.placement.reason for each in decide(cluster).decisions if each.placement}
        assert reasons["1.service"].endswith(", without machine a, which led and may be dead")
        assert "without" not in reasons["4.service"]

    def test_metadata(self) -> None:
        assert where(world(unit("u.service", "MachineMetadata=disk=ssd"), unit("a.service"))) == {
            "a.service": "a",
            "u.service": "a",
        }

    def test_conflicts_is_symmetric(self) -> None:
        first = unit("a.service")
        second = unit("b.service", "Conflicts=a.*")
        assert where(world(first, second, alive="x")) == {"a.service": "x"}
        assert where(world(unit("a.service", "Conflicts=b.*"), unit("b.service"), alive="x")) == {"a.service": "x"}

    def test_a_unit_is_in_no_conflict_with_itself(self) -> None:
        """But each with the others of its pattern, which is how one asks for one per machine."""
        assert where(world(unit("a.service", "Conflicts=a.*"), alive="x")) == {"a.service": "x"}
        both = (unit("app@1.service", "Conflicts=db.* app@*"), unit("app@2.service", "Conflicts=app@* db.*"))
        assert len(where(world(*both, alive="x"))) == 1
        assert set(where(world(*both, alive="xy")).values()) == {"x", "y"}

    def test_global_goes_everywhere_and_to_newcomers(self) -> None:
        every = unit("g.service", "Global=true")
        cluster = world(every, alive="ab")
        after = applied(cluster, decide(cluster))
        assert where(cluster) == {"g.service": "ab"}
        joined = replace(after, machines={**after.machines, "c": Machine("c")})
        plan = decide(joined)
        assert [(each.machine, each.why) for each in plan.decisions] == [("c", Why.EVERYWHERE)]
        assert plan.explanations == (("g.service", "global: on 3 of 3 machines"),)

    def test_machine_of_follows(self) -> None:
        lead, follow = unit("z.service"), unit("a.service", "MachineOf=z.service")
        assert where(world(lead, follow)) == {"a.service": "a", "z.service": "a"}
        moved = world(
            lead,
            follow,
            alive="bc",
            evicted=frozenset("a"),
            placements={("a", each.name): placement(each, "a") for each in (lead, follow)},
        )
        assert where(moved) == {"a.service": "b", "z.service": "b"}

    def test_replaces_moves_the_other(self) -> None:
        old, new = unit("old.service"), unit("new.service", "Replaces=old.service", run="/bin/new")
        cluster = world(
            old,
            new,
            alive="ab",
            placements={
                ("a", "old.service"): placement(old, "a"),
                ("b", "x.service"): placement(unit("x.service"), "b"),
            },
        )
        cluster = replace(cluster, units={**cluster.units, "x.service": unit("x.service")})
        assert where(cluster) == {"new.service": "a", "old.service": "b", "x.service": "b"}

    def test_units_that_replace_each_other_in_a_ring_stay(self) -> None:
        ring = [
            unit("1.service", "Replaces=2.service"),
            unit("2.service", "Replaces=3.service"),
            unit("3.service", "Replaces=1.service"),
        ]
        assert where(world(*ring, alive="a")) == {"1.service": "a", "2.service": "a", "3.service": "a"}

    def test_a_machine_that_is_away_keeps_its_units_until_it_is_evicted(self) -> None:
        one = unit("u.service")
        orders = {("gone", "u.service"): placement(one, "gone")}
        assert decide(world(one, placements=orders)) == Plan()
        plan = decide(world(one, placements=orders, evicted=frozenset(["gone"])))
        assert [(each.machine, each.why) for each in plan.decisions] == [
            ("a", Why.LEAST_LOADED),
            ("gone", Why.MACHINE_GONE),
        ]
        order = plan.decisions[0].placement
        assert order is not None
        assert order.reason == (
            "moved from machine gone (machine gone); placed where the fewest units were (0) of the machines that fit"
        )
        assert plan.explanations == (), "the order says it"

    def test_words_about_a_unit_that_has_an_order_are_taken_back(self) -> None:
        """Also those that an earlier version wrote for each unit."""
        plan = decide(world(unit("u.service"), explanations={"u.service": "no machine: none is alive"}))
        assert [each.machine for each in plan.decisions] == ["a"]
        assert plan.explanations == (("u.service", None),)

    def test_a_unit_that_leaves_a_live_machine_waits_until_it_is_stopped_there(self) -> None:
        one = unit("u.service", "MachineMetadata=disk=ssd")
        left = world(
            one,
            alive="ab",
            placements={("b", "u.service"): placement(one, "b")},
            present=frozenset([("b", "u.service")]),
        )
        plan = decide(left)
        assert [(each.machine, each.placement) for each in plan.decisions] == [("b", None)]
        assert plan.explanations == (("u.service", "waiting until machine b has stopped it"),)
        assert where(replace(applied(left, plan), present=frozenset())) == {"u.service": "a"}

    def test_a_changed_text_is_written_in_place(self) -> None:
        old, new = unit("u.service"), unit("u.service", run="/bin/other")
        plan = decide(
            world(new, placements={("c", "u.service"): placement(old, "c")}, explanations={"u.service": "test"})
        )
        assert [(each.machine, each.why) for each in plan.decisions] == [("c", Why.CHANGED)]
        assert plan.decisions[0].placement is not None
        assert plan.decisions[0].placement.hash == new.unitfile.hash()

    def test_a_broken_value_leaves_the_unit_where_it_is(self) -> None:
        orders = {("a", "u.service"): placement(unit("u.service"), "a")}
        assert decide(world(unreadable=frozenset(["u.service"]), placements=orders)) == Plan()
        assert (
            decide(world(unreadable=frozenset(["u.service"]), placements=orders, alive="b", evicted=frozenset("a")))
            == Plan()
        )

    def test_a_template_is_never_placed(self) -> None:
        assert where(world(unit("u@.service"))) == {}


class TestExplanations:
    """Why a unit is nowhere, in words and for each machine."""

    def explained(self, cluster: ClusterView, name: str) -> str:
        return applied(cluster, decide(cluster)).explanations[name]

    def test_each_reason_is_counted(self) -> None:
        cluster = world(
            unit("redis@1.service"),
            unit("u.service", "MachineMetadata=disk=ssd\nConflicts=redis@*"),
        )
        assert (
            self.explained(cluster, "u.service")
            == "no machine: 2 lack metadata disk=ssd, 1 conflicts with redis@1.service"
        )

    def test_no_machine_at_all(self) -> None:
        assert self.explained(world(unit("u.service"), alive=""), "u.service") == "no machine: none is alive"

    def test_other_machine(self) -> None:
        assert (
            self.explained(world(unit("u.service", "MachineID=zz")), "u.service") == "no machine: 3 are not machine zz"
        )

    def test_a_peer_that_is_nowhere(self) -> None:
        reason = self.explained(world(unit("u.service", "MachineOf=p.service"), alive="a"), "u.service")
        assert reason == "no machine: 1 does not have p.service, which MachineOf names"

    def test_a_section_that_cannot_be_read(self) -> None:
        reason = self.explained(world(unit("u.service", "Conflict=x")), "u.service")
        assert reason == "u.service line 5: [X-Fleet] has no option Conflict"


def test_a_global_unit_costs_the_machines_that_lack_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine's other units are looked at, and once it is everywhere, it costs other plans nothing."""
    asked: list[str] = []
    settled: list[str] = []
    rejection, settle = Index.rejection, Scheduler._settle

    def counted(index: Index, spec: Spec, machine: str) -> Rejection | None:
        asked.append(spec.name)
        return rejection(index, spec, machine)

    def watched(scheduler: Scheduler, machine: str) -> None:
        settled.append(machine)
        settle(scheduler, machine)

    monkeypatch.setattr(Index, "rejection", counted)
    monkeypatch.setattr(Scheduler, "_settle", watched)
    scheduler = Scheduler.of(world(*(unit(f"{number}.service") for number in range(30)), alive="abcdefghij"))
    scheduler.plan()
    settled.clear()
    scheduler.set_unit(unit("global.service", "Global=true"))
    assert len(scheduler.plan().decisions) == asked.count("global.service") == 10
    assert settled == []
    scheduler.set_unit(unit("x.service"))
    scheduler.plan()
    scheduler.set_machine(Machine("k"))
    assert [each.machine for each in scheduler.plan().decisions] == ["k"]
    assert asked.count("global.service") == 11


def test_five_thousand_units_on_five_hundred_machines() -> None:
    """Filling the cluster takes seconds at most, and a change afterwards far less than a second (measured: see docs)."""
    alive = {f"{n:08x}": Machine(f"{n:08x}", metadata={"zone": str(n % 4)}) for n in range(500)}
    known = {
        name: unit(name, f"Conflicts=app{n % 500}@*\nMachineMetadata=zone={n % 4}" if n % 2 else "")
        for n in range(5000)
        for name in [f"app{n % 500}@{n}.service"]
    }
    cluster = ClusterView(machines=alive, units=known)
    scheduler = Scheduler.of(cluster)
    begin = time.process_time()
    plan = scheduler.plan()
    filled = time.process_time() - begin
    assert len(plan.decisions) == 5000
    scheduler.set_unit(unit("one-more.service"))
    begin = time.process_time()
    assert len(scheduler.plan().decisions) == 1
    one = time.process_time() - begin
    print(f"fill {filled:.3f} s, one more {one * 1000:.2f} ms")
    assert filled < 5
    assert one < 0.25

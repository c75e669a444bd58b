"""The one next step of etcd's membership: its rules one by one, then a cluster that suffers whatever chance brings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discovery.upkeep.plan import (
    IN_SYNC,
    SIZES,
    Health,
    History,
    Limits,
    Node,
    Seen,
    Sight,
    Step,
    natural,
    next_step,
    size_for,
    standing,
    wanted,
)
from etcd.protocol import Member

LIMITS = Limits(absent_s=60, stalled_s=300)
INDEX = 1000


def url(number: int) -> str:
    return f"http://10.77.0.{number}:2380"


def node(number: int, **fields: Any) -> Node:
    return Node(f"node-{number}", (url(number),), f"machine-{number}", **fields)


def voter(number: int, **fields: Any) -> Seen:
    return Seen(number, **{"name": f"node-{number}", "urls": (url(number),), "reached": INDEX, **fields})


def learner(number: int, **fields: Any) -> Seen:
    return voter(number, learner=True, **fields)


def absent(number: int, quiet_s: float = 61) -> Seen:
    return voter(number, healthy=False, quiet_s=quiet_s, reached=0)


def alive(*numbers: int) -> frozenset[str]:
    return frozenset(f"machine-{number}" for number in numbers)


NODES = tuple(map(node, range(1, 5)))
WHOLE = Sight(1, tuple(map(voter, (1, 2, 3))), NODES, alive(1, 2, 3, 4))
LOST = WHOLE._replace(members=(voter(1), voter(2), absent(3)), alive=alive(1, 2, 4))


def step(sight: Sight) -> Step:
    return next_step(sight, LIMITS)


def nothing(sight: Sight) -> str:
    found = step(sight)
    assert found.kind == "nothing", found
    return found.reason


def test_what_is_whole_is_left_alone() -> None:
    assert nothing(WHOLE) == "3 voters, as there should be, and all are healthy"


def test_a_member_that_is_gone_with_its_machine_is_removed_by_its_id() -> None:
    assert step(LOST) == Step("remove", "node-3 is gone, and so is its machine", 3, "node-3", (url(3),))


@pytest.mark.parametrize(
    ("doubt", "change"),
    [
        ("its machine is alive", {"alive": alive(1, 2, 3, 4)}),
        ("it is not known which machines are alive", {"alive": None}),
        ("it has not been absent for 60 s", {"members": (voter(1), voter(2), absent(3, 59))}),
        ("its machine is not known", {"nodes": (*NODES[:2], NODES[3])}),
        ("leases prove nothing now", {"alive": alive(1, 4)}),
        ("leases prove nothing now", {"alive": frozenset()}),
        ("no other node could take its place", {"alive": alive(1, 2)}),
        ("no other node could take its place", {"nodes": NODES[:3]}),
        ("1 of 2 voters are healthy, which is no quorum", {"members": (voter(1), absent(3))}),
        ("1 of 3 voters are healthy", {"members": (voter(1), absent(2), absent(3))}),
        (
            "node-4, node-5 are not healthy",
            {"members": (*map(voter, (1, 2, 3)), absent(4), absent(5)), "alive": alive(1, 2, 3, 6)},
        ),
    ],
)
def test_with_doubt_it_stays(doubt: str, change: dict[str, Any]) -> None:
    assert doubt in nothing(LOST._replace(**change))


def test_a_node_that_says_that_its_data_is_gone_leaves_no_doubt_and_may_come_again_itself() -> None:
    sight = Sight(1, (voter(1), voter(2), absent(3, 0)), (node(1), node(2), node(3, lost=3)), alive(1, 2, 3))
    assert step(sight) == Step("remove", "node-3 has lost its data", 3, "node-3", (url(3),))
    assert step(sight._replace(members=sight.members[:2], target=3)).node == "node-3"
    former = sight._replace(nodes=(node(1), node(2), node(3, lost=7)))
    assert "its machine is alive" in nothing(former), "what it has lost is another member than this one"


def test_its_place_is_taken_by_a_learner_that_is_promoted_when_it_has_all() -> None:
    two = LOST._replace(members=(voter(1), voter(2)))
    assert step(two) == Step("add", "2 of 3 voters, and node-4 is there", 0, "node-4", (url(4),))
    for waiting in (
        learner(4, name="", healthy=False, reached=0),
        learner(4, reached=INDEX * IN_SYNC - 1),
        learner(4, healthy=False),
    ):
        assert nothing(two._replace(members=(*two.members, waiting))).startswith("waits for node-4")
    ready = two._replace(members=(*two.members, learner(4)))
    assert step(ready) == Step("promote", "node-4 has what the others have", 4, "node-4", (url(4),))


def test_while_another_is_not_healthy_none_is_promoted_or_added() -> None:
    members = (*map(voter, (1, 2, 3)), absent(4), learner(6))
    sight = Sight(1, members, tuple(map(node, range(1, 11))), alive(*range(1, 11)))
    assert nothing(sight) == "node-6 is promoted when node-4 is healthy"
    assert "node-4 is not healthy, but" in nothing(sight._replace(members=members[:-1]))


def test_a_learner_that_gains_nothing_is_evicted_and_another_is_tried_first() -> None:
    stuck = learner(4, name="", healthy=False, reached=0, still_s=300)
    nodes = (*NODES, node(5))
    sight = LOST._replace(members=(voter(1), voter(2), stuck), nodes=nodes, alive=alive(1, 2, 4, 5))
    assert step(sight) == Step("evict", "node-4 has gained nothing for 300 s", 4, "node-4", (url(4),))
    after = sight._replace(members=sight.members[:2], nodes=(*NODES[:3], node(4, failed=1), node(5)))
    assert step(after).node == "node-5"
    assert step(after._replace(alive=alive(1, 2, 4))).node == "node-4", "rather the same than none"


def test_a_learner_that_lost_its_data_is_evicted_at_once() -> None:
    members = (voter(1), voter(2), learner(4, healthy=False, reached=0))
    assert step(LOST._replace(members=members, nodes=(*NODES[:3], node(4, lost=4)))).kind == "evict"


@pytest.mark.parametrize(("nodes", "size"), [(1, 1), (2, 1), (3, 3), (9, 3), (10, 5), (99, 5)])
def test_sizes(nodes: int, size: int) -> None:
    assert size_for(nodes) == size
    sight = Sight(1, (voter(1),), tuple(map(node, range(1, nodes + 1))), alive(*range(1, nodes + 1)))
    assert wanted(sight) == size
    assert step(sight).kind == ("nothing" if size == 1 else "add")


def test_fewer_only_by_a_set_size_and_never_the_leader() -> None:
    five = Sight(5, tuple(map(voter, range(1, 6))), tuple(map(node, range(1, 6))), alive(*range(1, 6)))
    assert nothing(five).startswith("5 voters")
    assert step(five._replace(size=3)) == Step("remove", "5 voters, and 3 are set", 4, "node-4", (url(4),))
    four = five._replace(members=five.members[1:])
    assert "no other node is there" in nothing(four._replace(target=5, alive=alive(2, 3, 4, 5))), "it was five"
    two = Sight(1, (voter(1), voter(2)), (node(1), node(2)), alive(1, 2))
    assert nothing(two).startswith("2 voters"), "a cluster of two that was made so stays so"


def test_what_is_said_of_each_member() -> None:
    lost = voter(3, healthy=False)
    assert standing(WHOLE, WHOLE.members[0]) == "leader, healthy"
    assert standing(WHOLE, voter(2)) == "voter, healthy"
    assert standing(WHOLE, learner(4, name="")) == "learner, not started yet"
    assert standing(WHOLE, lost) == "voter, does not answer, its machine is alive"
    assert standing(LOST, lost) == "voter, does not answer, its machine has no lease"
    assert standing(LOST._replace(alive=None), lost) == "voter, does not answer"
    assert standing(LOST._replace(nodes=(node(3, lost=3),)), lost) == "voter, its data is gone"


def test_names_are_sorted_as_people_do() -> None:
    assert sorted(["node-10", "node-9", "b", "node"], key=natural) == ["b", "node", "node-9", "node-10"]


def test_a_history_counts_from_the_first_look() -> None:
    history, members = History(), [Member(number, f"n{number}", (url(number),), ()) for number in (1, 2)]
    looks = {1: Health(healthy=True, reached=100)}
    assert [each.quiet_s for each in history.seen(members, looks, 1000.0)] == [0, 0]
    assert [each.quiet_s for each in history.seen(members, looks, 1010.0)] == [0, 10]
    back = looks | {2: Health(healthy=True, reached=10)}
    assert [each.quiet_s for each in history.seen(members, back, 1011.0)] == [0, 0]
    assert [each.quiet_s for each in history.seen(members, looks, 1012.0)] == [0, 1]
    assert [each.id for each in history.seen(members[:1], looks, 1013.0)] == [1]
    assert [each.quiet_s for each in history.seen(members, looks, 1020.0)] == [0, 0], "it was gone meanwhile"


def test_progress_is_what_brings_a_learner_nearer_to_its_promotion() -> None:
    history, members = History(), [Member(1, "a", (url(1),), ()), Member(2, "", (url(2),), (), learner=True)]

    def still(index: int, now: float, newest: int = 100) -> float:
        looks = {1: Health(healthy=True, reached=newest), 2: Health(healthy=True, reached=index)}
        return history.seen(members, looks, now)[1].still_s

    assert still(0, 0) == 0
    assert still(0, 50) == 50
    assert still(10, 60) == 0
    assert still(10, 70) == 10
    assert still(95, 80) == 0
    assert still(99, 90) == 10, "it has had all it needed since then"


# By chance


@dataclass
class World:
    """Nodes that fail, come back, or lose their data; members as etcd would list them, and upkeep that looks at them."""

    count: int
    founders: int
    now: float = 0.0
    up: set[int] = field(default_factory=set)
    data: dict[int, int] = field(default_factory=dict)
    """Node -> the id of the member whose data it has."""
    members: dict[int, tuple[int, bool]] = field(default_factory=dict)
    """Id -> (node, whether it is a learner)."""
    unleased: set[int] = field(default_factory=set)
    target: int = 0
    leader: int = 0
    ids: int = 100
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        self.up = set(range(self.count))
        for number in range(self.founders):
            self.members[number + 1] = (number, False)
            self.data[number] = number + 1

    def voters(self) -> list[int]:
        return [each for each, (_, learner) in self.members.items() if not learner]

    def is_healthy(self, member: int) -> bool:
        number = self.members[member][0]
        return number in self.up and self.data.get(number) == member

    def has_quorum(self) -> bool:
        voters = self.voters()
        return sum(map(self.is_healthy, voters)) * 2 > len(voters)

    def look(self) -> Step:
        """One round of whoever leads."""
        healthy = [each for each in self.voters() if self.is_healthy(each)]
        if not self.has_quorum():
            return Step("nothing", "no leader")
        if self.leader not in healthy:
            self.leader, self.history = healthy[0], History()
        listed = [
            Member(
                one, f"n{number}" if self.data.get(number) == one or not learner else "", (url(number),), (), learner
            )
            for one, (number, learner) in self.members.items()
        ]
        looks = {one: Health(self.is_healthy(one), INDEX if self.is_healthy(one) else 0) for one in self.members}
        owner = {number: one for one, (number, _) in self.members.items()}
        nodes = tuple(
            Node(
                *(f"n{number}", (url(number),), f"machine-{number}"),
                owner[number] if number in self.up and number in owner and self.data.get(number) is None else 0,
            )
            for number in range(self.count)
        )
        living = frozenset(f"machine-{number}" for number in self.up - self.unleased)
        sight = Sight(self.leader, self.history.seen(listed, looks, self.now), nodes, living, 0, self.target)
        self.target = wanted(sight)
        found = next_step(sight, LIMITS)
        self.check(found)
        self.act(found)
        return found

    def check(self, found: Step) -> None:
        """What no step may do."""
        unwell = [each for each in self.voters() if not self.is_healthy(each)]
        learners = len(self.members) - len(self.voters())
        if found.kind == "add":
            assert not learners, "two changes in flight"
            assert not unwell
        elif found.kind == "promote":
            assert self.is_healthy(found.member), "a learner without data would vote"
            assert not unwell
        elif found.kind == "remove":
            assert not learners, "two changes in flight"
            assert unwell in ([], [found.member]), "while another one is not healthy"
            number = self.members[found.member][0]
            assert found.member != self.leader
            assert self.data.get(number) != found.member or number not in self.up - self.unleased, "it was alive"
        elif found.kind == "evict":
            assert self.members[found.member][1], "a voter is not evicted"

    def act(self, found: Step) -> None:
        if found.kind == "add":
            self.ids += 1
            self.members[self.ids] = (int(found.node[1:]), True)
        elif found.kind == "promote":
            self.members[found.member] = (self.members[found.member][0], False)
        elif found.kind in ("remove", "evict"):
            number, _ = self.members.pop(found.member)
            if number in self.up:
                self.data.pop(number, None)  # set aside; one that is down does so when it comes back
        assert self.has_quorum(), f"{found} cost the quorum"

    def join(self, number: int) -> None:
        """A node that is up finds that it was added, or removed."""
        mine = [one for one, (owner, _) in self.members.items() if owner == number]
        if self.data.get(number) not in (None, *mine):
            del self.data[number]
        if mine and number not in self.data and mine[0] > 100 and self.members[mine[0]][1]:
            self.data[number] = mine[0]


EVENTS = ("kill", "start", "wipe", "join", "lease", "lease back", "wait", "wait long")


@given(
    st.integers(1, 7),
    st.sampled_from(SIZES),
    st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 6)), max_size=60),
)
@settings(max_examples=300)
def test_chance_never_costs_the_quorum_and_the_membership_heals(
    count: int, founders: int, events: list[tuple[str, int]]
) -> None:
    world = World(count, min(founders, count))
    for event, chosen in events:
        number = chosen % count
        if event == "kill":
            world.up.discard(number)
        elif event == "start":
            world.up.add(number)
            world.join(number)
        elif event == "wipe":
            world.data.pop(number, None)
        elif event == "join" and number in world.up:
            world.join(number)
        elif event == "lease":
            world.unleased.add(number)
        elif event == "lease back":
            world.unleased.discard(number)
        world.now += {"wait": 10, "wait long": 100}.get(event, 1)
        if world.has_quorum():
            world.look()
    if not world.has_quorum():
        return
    # All that is left is well from now on, and machines that are down have no lease: it comes to rest, and whole.
    world.unleased.clear()
    down = {each for each in world.voters() if not world.is_healthy(each)}
    for _ in range(200):
        for number in world.up:
            world.join(number)
        world.now += 30
        found = world.look()
    assert found.kind == "nothing", found
    if len(down) <= 1:
        able = min(wanted_of(world), len(world.up))
        assert sum(map(world.is_healthy, world.voters())) >= able, (found, world)


def wanted_of(world: World) -> int:
    return max(size_for(world.count), world.target)

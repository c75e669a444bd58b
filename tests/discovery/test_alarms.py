"""What ends etcd's alarms, decided from every mixture of members that agree, differ and do not answer."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.alarms import Seen, Sight, Step, alarms_in, lacks_room, minority, plan
from etcd.maintenance import CORRUPT, NOSPACE, Alarm, HashAt

A, B, LATER = HashAt(1, 5), HashAt(2, 5), HashAt(3, 6)


def sight(*hashes: HashAt | None, alarms: tuple[Alarm, ...], leader: int = 1, compacted: int = 0) -> Sight:
    members = tuple(Seen(number, f"node-{number}", size=100, hash=each) for number, each in enumerate(hashes, 1))
    return Sight(leader, members, alarms, revision=9, compacted=compacted)


def kinds(steps: tuple[Step, ...]) -> list[tuple[str, int]]:
    return [(step.kind, step.member) for step in steps]


def test_no_alarm_no_step() -> None:
    assert plan(sight(A, A, B, alarms=())).steps == ()


def test_no_space_compacts_defragments_followers_first_and_disarms() -> None:
    alarms = (Alarm(2, NOSPACE), Alarm(3, NOSPACE))
    decided = plan(sight(A, A, A, alarms=alarms, leader=2))
    assert kinds(decided.steps) == [
        ("compact", 0),
        ("defragment", 1),
        ("defragment", 3),
        ("defragment", 2),
        ("disarm", 0),
        ("disarm", 0),
    ]
    assert decided.steps[0].revision == 9
    assert [step.alarm for step in decided.steps[-2:]] == list(alarms)
    again = plan(sight(A, A, A, alarms=alarms, leader=2, compacted=9))
    assert again.steps == decided.steps[1:], "what is compacted is not compacted again"
    nothing = [each._replace(used=96) for each in sight(A, A, A, alarms=()).members]
    later = plan(Sight(2, tuple(nothing), alarms, revision=9, compacted=9))
    assert later.steps == decided.steps[-2:], "nor defragmented, if that would give nothing back"
    assert plan(Sight(2, tuple(nothing), alarms, revision=10, compacted=9)).steps[1:] == decided.steps[1:]


def test_no_space_waits_for_all_members() -> None:
    decided = plan(sight(A, None, A, alarms=(Alarm(1, NOSPACE),)))
    assert decided.steps == ()
    assert "node-2 does not answer" in decided.reason


def test_no_space_leaves_learners_alone() -> None:
    members = (*sight(A, A, A, alarms=()).members, Seen(4, "node-4", learner=True))
    decided = plan(Sight(1, members, (Alarm(1, NOSPACE),), revision=9, compacted=9))
    assert kinds(decided.steps) == [("defragment", 2), ("defragment", 3), ("defragment", 1), ("disarm", 0)]


def test_room_is_measured_against_the_quota() -> None:
    assert lacks_room([80, 89], 100) == ""
    assert "delete keys" in lacks_room([10, 90], 100)
    assert lacks_room([10, 90], 0) == "", "the quota is not known"


@pytest.mark.parametrize("leader", [1, 2, 3])
def test_the_minority_is_removed_also_if_it_leads(leader: int) -> None:
    decided = plan(sight(A, B, A, alarms=(Alarm(2, CORRUPT),), leader=leader))
    assert kinds(decided.steps) == [("remove", 2)]
    assert "node-2" in decided.reason


def test_who_etcd_blames_does_not_matter() -> None:
    """Its leader blames the followers, even if it is the one that is damaged."""
    assert kinds(plan(sight(B, A, A, alarms=(Alarm(2, CORRUPT), Alarm(3, CORRUPT)))).steps) == [("remove", 1)]
    assert kinds(plan(sight(B, A, A, alarms=(Alarm(0, CORRUPT),))).steps) == [("remove", 1)]


@pytest.mark.parametrize("hashes", [(A, B), (A, B, None), (A, B, LATER), (A, A, B, B), (None, None, None), ()])
def test_without_a_majority_a_person_decides(hashes: tuple[HashAt | None, ...]) -> None:
    decided = plan(sight(*hashes, alarms=(Alarm(1, CORRUPT),)))
    assert decided.steps == ()
    assert "person" in decided.reason


def test_another_history_is_no_difference() -> None:
    decided = plan(sight(A, A, LATER, alarms=(Alarm(3, CORRUPT),)))
    assert all(step.kind != "remove" for step in decided.steps)


def test_the_alarm_ends_when_those_that_are_left_agree() -> None:
    gone, over = Alarm(7, CORRUPT), Alarm(2, CORRUPT)
    assert [step.alarm for step in plan(sight(A, A, alarms=(gone,))).steps] == [gone]
    assert [step.alarm for step in plan(sight(A, A, A, alarms=(over,))).steps] == [over]
    assert [step.alarm for step in plan(sight(A, A, A, alarms=(Alarm(0, CORRUPT),))).steps] == [Alarm(0, CORRUPT)]
    silent = plan(sight(A, A, None, alarms=(Alarm(3, CORRUPT),)))
    assert silent.steps == ()
    assert "does not answer" in silent.reason
    assert plan(sight(A, A, None, alarms=(Alarm(0, CORRUPT),))).steps == (), "whom it means is not known"


def test_corrupt_comes_before_no_space() -> None:
    alarms = (Alarm(1, NOSPACE), Alarm(3, CORRUPT))
    assert kinds(plan(sight(A, A, B, alarms=alarms)).steps) == [("remove", 3)]


def test_no_removal_costs_the_quorum() -> None:
    """Of all clusters of up to five: who is left after a removal agrees, and is a quorum."""
    for size in range(1, 6):
        for hashes in itertools.product((A, B, LATER, None), repeat=size):
            for step in plan(sight(*hashes, alarms=(Alarm(0, CORRUPT),))).steps:
                if step.kind == "remove":
                    left = [each for number, each in enumerate(hashes, 1) if number != step.member]
                    most = max(left.count(each) for each in left if each is not None)
                    assert most >= len(left) // 2 + 1


def test_a_learner_has_no_vote_in_what_is_right() -> None:
    learners = tuple(Seen(number, f"node-{number}", learner=True, hash=B) for number in (4, 5, 6))
    members = sight(A, A, A, alarms=()).members + learners
    assert minority(members) == (learners, True)


@pytest.mark.parametrize(
    ("text", "alarm"),
    [
        ("memberID:13803658152347727308 alarm:NOSPACE ", Alarm(13803658152347727308, NOSPACE)),
        ("memberID:1 alarm:CORRUPT", Alarm(1, CORRUPT)),
        ("alarm:CORRUPT ", Alarm(0, CORRUPT)),
    ],
)
def test_alarms_are_read_from_a_status(text: str, alarm: Alarm) -> None:
    assert alarms_in(["etcdserver: no leader", text]) == (alarm,)


@given(st.lists(st.text()))
def test_any_complaint_is_no_crash(errors: list[str]) -> None:
    assert all(alarm.kind in (NOSPACE, CORRUPT) for alarm in alarms_in(errors))

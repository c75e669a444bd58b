"""What ends the alarms of etcd: NOSPACE (its database is as large as it may be) and CORRUPT (members have different
data). Pure: :mod:`discovery.repair` looks, and carries it out.

NOSPACE: the history is compacted, each member's file is defragmented, one at a time and the leader's last, and the
alarm ends if that made room. CORRUPT: members that differ from a majority of all voters are removed, one at a time; the
alarm ends when those that are left agree. A member that finds itself removed sets its data aside, and joins as a new
one (docs/discovery.md). Without a majority that agrees, a person has to decide: ``discovery restore``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from etcd.maintenance import CORRUPT, NOSPACE, Alarm, HashAt

ROOM: Final = 0.9
"""The part of the quota that the largest member may have after a repair: with less room the alarm would come back."""
GAIN: Final = 0.05
"""The part of a member's file that a defragmentation must give back to be worth it."""
_ALARM: Final = re.compile(r"(?:memberID:(?P<member>[0-9]{1,20}) )?alarm:(?P<kind>NOSPACE|CORRUPT)\s*")


class Seen(NamedTuple):
    """A member. ``size`` is its file's in bytes, of which ``used`` hold data; ``hash`` that of its keys at the revision
    that all were asked for, None if it did not answer."""

    id: int
    name: str
    learner: bool = False
    size: int = 0
    used: int = 0
    hash: HashAt | None = None


class Sight(NamedTuple):
    """All that is known. ``revision`` is the store's; ``compacted`` the one before which history is gone; ``quota`` is
    what a member's file may have, in bytes, 0 if that is not known."""

    leader: int
    members: tuple[Seen, ...]
    alarms: tuple[Alarm, ...]
    revision: int
    compacted: int = 0
    quota: int = 0


class Step(NamedTuple):
    """``compact`` up to ``revision``; ``defragment`` or ``remove`` the ``member``; ``disarm`` the ``alarm``, after
    NOSPACE only if there is room (:func:`lacks_room`)."""

    kind: Literal["compact", "defragment", "remove", "disarm"]
    member: int = 0
    revision: int = 0
    alarm: Alarm | None = None


class Plan(NamedTuple):
    """``steps`` in their order, each only after the one before has succeeded; ``reason`` is a sentence for people."""

    steps: tuple[Step, ...]
    reason: str


def plan(sight: Sight) -> Plan:
    """What to do now. CORRUPT comes first: while it holds, etcd refuses all else."""
    if any(alarm.kind == CORRUPT for alarm in sight.alarms):
        return _corrupt(sight)
    if full := [alarm for alarm in sight.alarms if alarm.kind == NOSPACE]:
        return _full(sight, full)
    return Plan((), "there is no alarm")


def lacks_room(sizes: Iterable[int], quota: int) -> str:
    """Why NOSPACE would come back at once; empty if it would not."""
    largest = max(sizes, default=0)
    if not quota or largest < ROOM * quota:
        return ""
    return (
        f"etcd's data has {largest >> 20} MiB after a defragmentation, and may have {quota >> 20}: delete keys, or raise "
        "quota-backend-bytes on all members"
    )


def alarms_in(errors: Sequence[str]) -> tuple[Alarm, ...]:
    """The alarms in what a member's status complains of. To ask for them would be a write to raft's log."""
    found = (_ALARM.fullmatch(text) for text in errors)
    return tuple(Alarm(int(each["member"] or 0), each["kind"]) for each in found if each is not None)


def minority(members: Sequence[Seen]) -> tuple[tuple[Seen, ...], bool]:
    """The members that differ from what most voters have, and whether most voters have the same at all.

    Hashes are comparable where history begins at the same revision: others are taken for absent."""
    voters = [each for each in members if not each.learner]
    counts = Counter(each.hash for each in voters if each.hash is not None)
    for common, count in counts.most_common(1):
        if 2 * count > len(voters):
            others = [each for each in members if each.hash is not None and each.hash != common]
            return tuple(each for each in others if each.hash and each.hash.compacted == common.compacted), True
    return (), False


def _corrupt(sight: Sight) -> Plan:
    alarms = [alarm for alarm in sight.alarms if alarm.kind == CORRUPT]
    differing, is_decided = minority(sight.members)
    if not is_decided:
        return Plan((), "no majority of the voters has the same data: 'discovery restore' is for a person")
    if differing:
        first = differing[0]
        reason = (
            f"{first.name or f'{first.id:x}'} has other data than most members: it is removed, and joins again, empty"
        )
        return Plan((Step("remove", first.id),), reason)
    agreed = {each.id for each in sight.members if each.hash is not None and not each.learner}
    known = {each.id for each in sight.members}
    over = [alarm for alarm in alarms if agreed == {each.id for each in sight.members if not each.learner}]
    over = over or [alarm for alarm in alarms if alarm.member and (alarm.member not in known or alarm.member in agreed)]
    if not over:
        return Plan((), "a member that may have other data does not answer")
    return Plan(tuple(Step("disarm", alarm=alarm) for alarm in over), "the members that are left agree")


def _full(sight: Sight, alarms: Sequence[Alarm]) -> Plan:
    """Learners are left alone: they refuse a defragmentation, and what they lack they get whole.

    A defragmentation blocks a member, and an alarm that stays brings us back again and again: without new history to
    forget it has to give something back."""
    voters = [each for each in sight.members if not each.learner]
    absent = [each.name or f"{each.id:x}" for each in voters if each.hash is None]
    if absent:
        return Plan((), f"{', '.join(absent)} does not answer: no other member is blocked by a defragmentation then")
    steps = [Step("compact", revision=sight.revision)] if sight.compacted < sight.revision else []
    worth = [each for each in voters if steps or each.size - each.used > GAIN * each.size]
    ordered = sorted(worth, key=lambda each: (each.id == sight.leader, each.id))
    steps += [Step("defragment", each.id) for each in ordered]
    steps += [Step("disarm", alarm=alarm) for alarm in alarms]
    return Plan(tuple(steps), "etcd is full: history goes, and what it took is given back, followers first")

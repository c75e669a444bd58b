"""Looks for alarms of etcd, and carries out what :mod:`discovery.alarms` decides: by the leader's node, for all.

:func:`once` is for whoever looks every few minutes. While there is no alarm it asks its own member one question, which
writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Final, NamedTuple

from discovery.alarms import Plan, Seen, Sight, Step, alarms_in, lacks_room, minority, plan
from discovery.node import Node, reached_at, tls
from etcd import Client, credentials
from etcd.errors import Compacted, EtcdError
from etcd.maintenance import NOSPACE, Condition, HashAt, Maintenance
from etcd.protocol import Member
from etcd.transport import Tls
from terminal import Failure, table

TIMEOUT_S: Final = 120.0
"""For a member to defragment its file, or to hash it, on an emulated node."""
_SETTLE_S: Final = 1.0
_SETTLE_ROUNDS: Final = 60


class Looked(NamedTuple):
    """What :func:`look` saw. ``here`` is this node's member; ``conditions`` are those of the members that answered."""

    here: Condition
    sight: Sight
    conditions: dict[int, Condition]
    members: tuple[Member, ...]

    @property
    def leads(self) -> bool:
        """Whether this node is the one to repair."""
        return self.here.status.member_id == self.here.status.leader


class Cluster:
    """The members, by way of this node's own, at the URL ``endpoint``. Methods raise EtcdError."""

    def __init__(self, endpoint: str, *, tls: Tls | None = None, timeout: float = TIMEOUT_S) -> None:
        self._tls = tls
        self._timeout = timeout
        self._own = Maintenance(endpoint, timeout=timeout, tls=tls)
        self._endpoint = endpoint

    def has_alarm(self) -> bool:
        """Whether this node's member knows of one; it asks no other."""
        return bool(alarms_in(self._own.condition().status.errors))

    def look(self) -> Looked:
        """Ask every member how it is, and all of them for the hash at one revision."""
        here = self._own.condition()
        with closing(self._client()) as client:
            members = client.members()
        conditions = {each.id: found for each in members if (found := self._condition(each)) is not None}
        revision = min((one.status.revision for one in conditions.values()), default=here.status.revision)
        hashes = {each.id: self._hash(each, revision) for each in members if each.id in conditions}
        seen = tuple(
            Seen(
                each.id,
                each.name,
                each.learner,
                *(_sizes(conditions[each.id]) if each.id in conditions else (0, 0)),
                hashes.get(each.id),
            )
            for each in members
        )
        sight = Sight(
            here.status.leader,
            seen,
            alarms_in(here.status.errors),
            revision,
            max((found.compacted for found in hashes.values() if found is not None), default=0),
            self._own.quota(),
        )
        return Looked(here, sight, conditions, members)

    def carry_out(self, looked: Looked, decided: Plan, say: Callable[[str], None]) -> None:
        """All steps, in their order; it stops at the first that fails. Raises EtcdError, and Failure for no room."""
        for step in decided.steps:
            self._take(looked, step, say)

    def _take(self, looked: Looked, step: Step, say: Callable[[str], None]) -> None:
        if step.kind == "compact":
            self._compact(looked, step.revision)
            say(f"compacted etcd's history up to revision {step.revision}")
        elif step.kind == "defragment":
            member = _member(looked.members, step.member)
            before = self._size(member)
            self._at(member).defragment()
            say(f"{member.name}: defragmented, {before >> 10} KiB before, {self._size(member) >> 10} KiB now")
        elif step.kind == "remove":
            member = _member(looked.members, step.member)
            with closing(self._client()) as client:
                client.remove_member(step.member)
            say(f"removed {member.name or f'{member.id:x}'}, whose data is not that of the others")
        else:
            assert step.alarm is not None
            if step.alarm.kind == NOSPACE and (
                why := lacks_room([self._size(each) for each in looked.members if not each.learner], looked.sight.quota)
            ):
                raise Failure(why, where=self._endpoint, hint="docs/etcd.md, 'Alarms'")
            self._own.disarm(step.alarm)
            say(f"ended the alarm {step.alarm.kind}")

    def _compact(self, looked: Looked, revision: int) -> None:
        with suppress(Compacted):
            self._own.compact(revision)
        # The request waits for this member alone; another's file is not worth defragmenting before it has compacted.
        for each in looked.members:
            used = -1
            for _ in range(_SETTLE_ROUNDS):
                if used == (used := self._at(each).condition().used):
                    break
                time.sleep(_SETTLE_S)

    def _client(self) -> Client:
        return Client([self._endpoint], timeout=self._timeout, tls=self._tls)

    def _size(self, member: Member) -> int:
        return self._at(member).condition().status.db_size

    def _condition(self, member: Member) -> Condition | None:
        """Only if that is the one that answers there."""
        try:
            found = self._at(member).condition()
        except EtcdError:
            return None
        return found if found.status.member_id == member.id else None

    def _hash(self, member: Member, revision: int) -> HashAt | None:
        try:
            return self._at(member).hash_at(revision)
        except EtcdError:
            return None

    def _at(self, member: Member) -> Maintenance:
        urls = reached_at(member)
        if not urls:
            raise EtcdError("the member has not started yet", where=f"{member.id:x}")
        return Maintenance(urls[0], timeout=self._timeout, tls=self._tls)


def once(endpoint: str, *, tls: Tls | None = None, say: Callable[[str], None]) -> Plan | None:
    """Repair what can be, if this node's member (at the URL ``endpoint``) leads and there is an alarm.

    Returns what was done and why, or why nothing; None without an alarm, or where another member leads. ``say`` gets a
    line per step. Raises EtcdError if a member stops to answer, Failure if the data itself is too large.
    """
    cluster = Cluster(endpoint, tls=tls)
    if not cluster.has_alarm():
        return None
    looked = cluster.look()
    if not looked.leads:
        return None
    decided = plan(looked.sight)
    cluster.carry_out(looked, decided, say)
    return decided


def _sizes(found: Condition) -> tuple[int, int]:
    return found.status.db_size, found.used


def _member(members: Sequence[Member], number: int) -> Member:
    return next(each for each in members if each.id == number)


def run(options: argparse.Namespace) -> int:
    """Carry out ``discovery alarms``: 1 if there is an alarm, or members differ, afterwards. Raises Failure."""
    endpoint = options.endpoint
    if not endpoint:
        node = Node.here(options.trust)
        if not node.has_data:
            print("this node is no member of etcd: the members see to their alarms", file=sys.stderr)
            return 0
        endpoint = node.endpoint
    own = tls(credentials.client(options.trust)) if endpoint.startswith("https:") else None
    if options.repair:
        decided = once(endpoint, tls=own, say=lambda line: print(line, file=sys.stderr, flush=True))
        if decided is None:
            return 0
        print(decided.reason, file=sys.stderr)
        return 0 if decided.steps else 1
    looked = Cluster(endpoint, tls=own).look()
    print(json.dumps(as_json(looked)) if options.json else text(looked))
    differing, _ = minority(looked.sight.members)
    return 1 if looked.sight.alarms or differing else 0


def text(looked: Looked) -> str:
    """For people: each member, the alarms, and what is done about them."""
    rows = []
    for each in looked.sight.members:
        state = "learner" if each.learner else "leader" if each.id == looked.sight.leader else "follower"
        found = looked.conditions.get(each.id)
        used = "-" if found is None else f"{found.used / (1 << 20):.1f} MiB"
        size = "-" if found is None else f"{each.size / (1 << 20):.1f} MiB"
        value = "no answer" if each.hash is None else f"{each.hash.value:08x} from {max(each.hash.compacted, 1)}"
        rows.append((each.name or f"{each.id:x}", state, used, size, value))
    lines = [table(rows, ("MEMBER", "ROLE", "USED", "FILE", f"HASH AT {looked.sight.revision}"))]
    names = {each.id: each.name for each in looked.sight.members}
    lines.extend(
        f"alarm {alarm.kind}, raised for {names.get(alarm.member) or f'{alarm.member:x}'}"
        for alarm in looked.sight.alarms
    )
    differing, _ = minority(looked.sight.members)
    if differing and not looked.sight.alarms:
        lines.append(f"{', '.join(each.name for each in differing)} has other data than most members, without an alarm")
    lines.append(plan(looked.sight).reason)
    return "\n".join(lines)


def as_json(looked: Looked) -> dict[str, object]:
    """For machines."""
    decided = plan(looked.sight)
    return {
        "alarms": [{"member": f"{one.member:x}", "kind": one.kind} for one in looked.sight.alarms],
        "members": [
            {
                "id": f"{each.id:x}",
                "name": each.name,
                "learner": each.learner,
                "leads": each.id == looked.sight.leader,
                "answers": each.id in looked.conditions,
                "size": each.size,
                "hash": None if each.hash is None else each.hash.value,
                "compacted": None if each.hash is None else each.hash.compacted,
            }
            for each in looked.sight.members
        ],
        "revision": looked.sight.revision,
        "quota": looked.sight.quota,
        "reason": decided.reason,
        "steps": [one.kind for one in decided.steps],
    }

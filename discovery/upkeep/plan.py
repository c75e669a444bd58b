"""What etcd's membership should be, and the one next step towards it. Pure: time comes in as durations.

:func:`next_step` is asked by the member that leads the others, again and again; between two steps etcd's own list of
members is the only memory. A learner in that list is the change in flight, so that there is one at most. The rules, in
the order of their rank:

1. Voters are changed only while all others are healthy, and never so that fewer than a quorum would be.
2. A voter is removed only if it is certain that it does not come back with its data: it has been absent for long *and*
   its machine's lease is gone *and* the leases of all healthy voters' machines live (else leases prove nothing); or its
   own node has said that the data is gone. Without a node for its place, it stays: a membership does not shrink because
   machines died.
3. A new member is a learner first. One that gains nothing for long is removed again: it would block all others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Literal, NamedTuple

from etcd.protocol import Member

SIZES: Final = (1, 3, 5)
IN_SYNC: Final = 0.9
"""The part of the leader's log that a learner must have to be promoted: readyPercentThreshold in etcd's
server/etcdserver/server.go."""


class Limits(NamedTuple):
    """Seconds. Servers take five minutes to boot: a member that reboots must not be replaced."""

    absent_s: float = 600.0
    stalled_s: float = 300.0


class Seen(NamedTuple):
    """A member as etcd lists it, and how the leader has seen it; the ``name`` is empty until it has started once."""

    id: int
    name: str
    urls: tuple[str, ...]
    learner: bool = False
    healthy: bool = True
    quiet_s: float = 0.0
    """For how long it has not been healthy, as far as this leader has looked."""
    reached: int = 0
    """Of raft's log, as it says itself."""
    still_s: float = 0.0
    """For how long it has not come nearer to being promoted."""


class Node(NamedTuple):
    """A node that runs upkeep, and could be a member: ``urls`` are those that its peers would use."""

    name: str
    urls: tuple[str, ...]
    machine: str
    """What its liveness is known by."""
    lost: int = 0
    """The id of the member that it is in etcd's list, and whose data it does not have any more."""
    failed: int = 0
    """How often it was a learner in vain, as far as this leader has seen."""


class Sight(NamedTuple):
    """All that the leader has seen."""

    leader: int
    members: tuple[Seen, ...]
    nodes: tuple[Node, ...]
    alive: AbstractSet[str] | None
    """The machines whose lease lives; None if that is not known."""
    size: int = 0
    """How many voters there should be; 0 leaves it to the number of nodes."""
    target: int = 0
    """What :func:`wanted` was before, kept where leaders change and members die."""


class Step(NamedTuple):
    """What to do next, and why; or why nothing. The ``reason`` is a phrase that stays the same while it holds."""

    kind: Literal["nothing", "remove", "add", "promote", "evict"]
    reason: str
    member: int = 0
    node: str = ""
    urls: tuple[str, ...] = ()


def size_for(nodes: int) -> int:
    """How many voters a cluster of ``nodes`` should have: so many that the loss of none, one or two stops nothing.

    Two nodes make one: with two voters, the loss of either would stop the cluster."""
    return 5 if nodes >= 10 else 3 if nodes >= 3 else 1


def wanted(sight: Sight) -> int:
    """How many voters there should be. Only a set size makes that fewer than it was."""
    has = max((size for size in SIZES if size <= len(_voters(sight))), default=1)
    return sight.size or max(size_for(len(sight.nodes)), has, sight.target)


def next_step(sight: Sight, limits: Limits) -> Step:
    """The one step that brings the membership nearer to what it should be."""
    voters = _voters(sight)
    healthy = [each for each in voters if each.healthy]
    if len(healthy) < _quorum(len(voters)):
        return Step("nothing", f"{len(healthy)} of {len(voters)} voters are healthy, which is no quorum")
    unwell = [each for each in voters if not each.healthy]
    if learners := [each for each in sight.members if each.learner]:
        return _with_learner(sight, limits, learners, unwell)
    if len(unwell) > 1:
        return Step("nothing", f"{_names(unwell)} are not healthy: no change while more than one is not")
    if unwell:
        return _replace(sight, limits, unwell[0])
    target = wanted(sight)
    if len(voters) < target:
        return _add(sight, target)
    if sight.size and len(voters) > target:
        surplus = max((each for each in voters if each.id != sight.leader), key=lambda each: natural(each.name))
        return Step("remove", f"{len(voters)} voters, and {target} are set", surplus.id, surplus.name, surplus.urls)
    return Step("nothing", f"{len(voters)} voters, as there should be, and all are healthy")


def standing(sight: Sight, member: Seen) -> str:
    """What can be said of one member, without numbers that change all the time."""
    role = "learner" if member.learner else "leader" if member.id == sight.leader else "voter"
    node = _node_of(sight.nodes, member)
    if not member.name:
        return f"{role}, not started yet"
    if member.healthy:
        return f"{role}, healthy"
    if node is not None and node.lost == member.id:
        return f"{role}, its data is gone"
    if node is None or sight.alive is None:
        return f"{role}, does not answer"
    return f"{role}, does not answer, its machine {'is alive' if node.machine in sight.alive else 'has no lease'}"


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """To sort names as people do: node-9 before node-10."""
    pieces = re.split(r"([0-9]+)", name)
    return tuple((int(piece), "") if piece.isascii() and piece.isdigit() else (0, piece) for piece in pieces)


def _with_learner(sight: Sight, limits: Limits, learners: Sequence[Seen], unwell: Sequence[Seen]) -> Step:
    """A change is in flight: end it, well or not."""
    for one in learners:
        node = _node_of(sight.nodes, one)
        if node is not None and node.lost == one.id:
            return Step("evict", f"{_name(one, sight)} has lost its data while it joined", one.id, node.name, one.urls)
    newest = max(each.reached for each in sight.members)
    ready = [each for each in learners if each.name and each.healthy and each.reached >= newest * IN_SYNC]
    if ready and not unwell:
        one = ready[0]
        return Step("promote", f"{one.name} has what the others have", one.id, one.name, one.urls)
    for one in learners:
        if one.still_s >= limits.stalled_s:
            reason = f"{_name(one, sight)} has gained nothing for {limits.stalled_s:g} s"
            return Step("evict", reason, one.id, _name(one, sight), one.urls)
    if ready:
        return Step("nothing", f"{ready[0].name} is promoted when {_names(unwell)} is healthy")
    return Step("nothing", f"waits for {_names(learners, sight)} to have what the others have")


def _replace(sight: Sight, limits: Limits, one: Seen) -> Step:
    """One voter is not healthy, all others are."""
    name = _name(one, sight)
    node = _node_of(sight.nodes, one)
    if node is None or node.lost != one.id:
        doubt = _doubt(sight, limits, one, node)
        if doubt:
            return Step("nothing", f"{name} is not healthy, but {doubt}")
    others = [each for each in sight.members if each.id != one.id]
    if len(others) < wanted(sight) and not _candidates(sight, others):
        return Step("nothing", f"{name} is lost, but no other node could take its place")
    because = "has lost its data" if node is not None and node.lost == one.id else "is gone, and so is its machine"
    return Step("remove", f"{name} {because}", one.id, name, one.urls)


def _doubt(sight: Sight, limits: Limits, one: Seen, node: Node | None) -> str:
    """Why it may come back; empty if it does not."""
    if sight.alive is None:
        return "it is not known which machines are alive"
    if node is None:
        return "its machine is not known"
    if node.machine in sight.alive:
        return "its machine is alive"
    machines = {each.id: _node_of(sight.nodes, each) for each in _voters(sight) if each.healthy}
    for each in _voters(sight):
        found = machines.get(each.id)
        if each.healthy and (found is None or found.machine not in sight.alive):
            return f"{each.name or each.id} is, and its machine has no lease either: leases prove nothing now"
    if one.quiet_s < limits.absent_s:
        return f"it has not been absent for {limits.absent_s:g} s"
    return ""


def _add(sight: Sight, target: int) -> Step:
    voters = len(_voters(sight))
    if not (found := _candidates(sight, sight.members)):
        return Step("nothing", f"{voters} of {target} voters, and no other node is there")
    one = found[0]
    return Step("add", f"{voters} of {target} voters, and {one.name} is there", 0, one.name, one.urls)


def _candidates(sight: Sight, members: Iterable[Seen]) -> list[Node]:
    """The nodes that could be one more of ``members``, best first."""
    taken = {url for each in members for url in each.urls}
    alive = sight.alive or frozenset()
    found = [each for each in sight.nodes if each.urls and each.machine in alive and taken.isdisjoint(each.urls)]
    return sorted(found, key=lambda node: (node.failed, natural(node.name)))


def _voters(sight: Sight) -> list[Seen]:
    return [each for each in sight.members if not each.learner]


def _quorum(voters: int) -> int:
    return voters // 2 + 1


def _node_of(nodes: Iterable[Node], member: Seen) -> Node | None:
    return next((node for node in nodes if not set(node.urls).isdisjoint(member.urls)), None)


def _name(member: Seen, sight: Sight) -> str:
    node = _node_of(sight.nodes, member)
    return member.name or (node.name if node is not None else f"{member.id:x}")


def _names(members: Sequence[Seen], sight: Sight | None = None) -> str:
    return ", ".join(_name(each, sight) if sight is not None else each.name or f"{each.id:x}" for each in members)


class Health(NamedTuple):
    """What one look at a member has shown."""

    healthy: bool
    reached: int = 0


class History:
    """Turns looks into durations. It begins with the leader's first look: a leader knows nothing of the time before."""

    def __init__(self) -> None:
        self._well: dict[int, float] = {}
        self._gained: dict[int, tuple[int, float]] = {}

    def seen(self, members: Iterable[Member], looks: Mapping[int, Health], now: float) -> tuple[Seen, ...]:
        """The ``members`` as the ``looks`` of ``now`` (seconds of a clock that only goes on) show them."""
        listed = tuple(members)
        newest = max((look.reached for look in looks.values()), default=0)
        found = []
        for one in listed:
            look = looks.get(one.id, Health(healthy=False))
            if look.healthy or one.id not in self._well:
                self._well[one.id] = now
            index, at = self._gained.get(one.id, (-1, now))
            if index < look.reached and not (index >= 0 and index >= newest * IN_SYNC):
                at = now
            self._gained[one.id] = max(index, look.reached), at
            found.append(
                Seen(
                    *(
                        one.id,
                        one.name,
                        one.peer_urls,
                        one.learner,
                        look.healthy,
                        now - self._well[one.id],
                        look.reached,
                    ),
                    now - at,
                )
            )
        for gone in self._well.keys() - {one.id for one in listed}:
            del self._well[gone], self._gained[gone]
        return tuple(found)

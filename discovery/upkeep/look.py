"""What the leader sees: whether each member answers and follows it, and which machines are alive."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from discovery.node import reached_at
from discovery.upkeep.plan import Health
from etcd.client import Client
from etcd.errors import EtcdError
from etcd.protocol import Etcd, Member


class Machines(Protocol):
    """Who knows which machines are alive."""

    def alive(self) -> AbstractSet[str] | None:
        """Their ids, as nodes have them in :class:`~discovery.upkeep.desired.Offer`; None if it cannot say now.

        Raises EtcdError."""


class Leased:
    """Machines that have a key below ``prefix``, named after their id, under a lease that they keep alive."""

    def __init__(self, client: Etcd, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def alive(self) -> AbstractSet[str]:
        """See :meth:`Machines.alive`."""
        return frozenset(kv.key.removeprefix(self._prefix) for kv in self._client.range(self._prefix).kvs if kv.lease)


def healths(client: Client, members: Sequence[Member], leader: int) -> dict[int, Health]:
    """One look at each of ``members``, all at the same time: healthy is who answers, and follows ``leader``."""
    with ThreadPoolExecutor(max(1, len(members))) as pool:
        looks = pool.map(lambda one: _health(client, one, leader), members)
        return dict(zip((each.id for each in members), looks, strict=True))


def _health(client: Client, member: Member, leader: int) -> Health:
    for url in reached_at(member):
        try:
            status = client.status(url)
        except EtcdError:
            continue
        if status.member_id == member.id:
            return Health(status.leader == leader, status.raft_index)
    return Health(healthy=False)

"""Looks at what is left: the members, this node's own data, the backups."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from discovery.backup.scratch import Tools, scratch, started
from discovery.backup.shelf import Shelf
from discovery.client import request
from discovery.node import Node, reached_at, tls
from discovery.restore.facts import Facts, Survivor
from etcd import Client, credentials
from etcd.errors import EtcdError, Unavailable
from etcd.maintenance import Maintenance
from etcd.protocol import Member
from etcd.transport import Tls
from terminal import Failure, record

TIMEOUT_S: Final = 5.0
"""For a member to answer: half a dozen may be asked in vain."""
FORCED: Final = "--force-new-cluster"
"""etcd's option to leave the other members out, and what was not yet committed."""


class Survey:
    """Of the cluster of ``node``, which has ``shelf``. ``certificates`` is the folder of the node's."""

    def __init__(self, node: Node, shelf: Shelf, tools: Tools, certificates: Path = credentials.FOLDER) -> None:
        self._node = node
        self._shelf = shelf
        self._tools = tools
        self._certificates = certificates
        self._client = tls(credentials.client(certificates)) if node.endpoint.startswith("https:") else None

    def facts(self) -> Facts:
        """All that can be known now. Raises Failure if this node's files cannot be read."""
        others = [each for each in self._members() if not self._is_own(each)]
        with ThreadPoolExecutor(len(others) + 1) as pool:  # a computer that is gone takes all of the timeout
            asked = pool.submit(self._own_member)
            found = list(pool.map(self._survivor, others))
            own = asked.result()
        trouble = ""
        if own is None:
            try:
                own = self._own_data()
            except Failure as failure:
                trouble = failure.on_one_line
                own = Survivor(self._node.name, self._node.endpoint, is_here=True)
        return Facts((own, *found), tuple(self._shelf.backups()), trouble)

    def _is_own(self, member: Member) -> bool:
        return not set(member.peer_urls).isdisjoint(self._node.peer_urls)

    def _members(self) -> tuple[Member, ...]:
        """As this node's member lists them: at its port for clients, or, before it has found a leader, for peers."""
        client = Client([self._node.endpoint], timeout=TIMEOUT_S, tls=self._client)
        try:
            return client.members()
        except EtcdError:
            return self._listed()
        finally:
            client.close()

    def _listed(self) -> tuple[Member, ...]:
        own = tls(credentials.peer(self._certificates)) if self._node.peer.startswith("https:") else None
        try:
            url = self._node.peer.rstrip("/") + "/members"
            status, body = request("GET", url, timeout=TIMEOUT_S, context=own.context() if own is not None else None)
        except Failure:
            return ()
        return listed_in(body) if status == 200 else ()

    def _own_member(self) -> Survivor | None:
        """By its own account; None if it does not answer."""
        return self._answer(self._node.name, self._node.endpoint, is_here=True)

    def _survivor(self, member: Member) -> Survivor:
        name, urls = member.name or f"{member.id:x}", reached_at(member)
        for url in urls:
            if (found := self._answer(name, url)) is not None:
                return found
        return Survivor(name, ", ".join(urls or member.peer_urls))

    def _answer(self, name: str, url: str, *, is_here: bool = False) -> Survivor | None:
        try:
            status = Maintenance(url, timeout=TIMEOUT_S, tls=self._client).condition().status
        except EtcdError:
            return None
        return Survivor(name, url, status.raft_index, status.revision, is_here, reads(url, self._client))

    def _own_data(self) -> Survivor:
        """What a copy of this node's data has. Raises Failure if that is none, or damaged."""
        with self._shelf.holding(), opened(self._node, self._tools, self._shelf.scratch) as member:
            found = member.condition()
        # The copy's own start has added to raft's log.
        return Survivor(self._node.name, str(self._node.data), found.status.raft_index, found.status.revision, True)


@contextmanager
def opened(node: Node, tools: Tools, folder: Path) -> Iterator[Maintenance]:
    """A scratch etcd, alone, with a copy of the node's data; the folder is made and removed. Raises Failure."""
    if not node.has_data:
        raise Failure("this node has no data of etcd", where=str(node.data))
    with scratch(folder):
        copy(node, folder / "data")
        with started(tools, folder, FORCED) as member:
            yield member


def copy(node: Node, target: Path) -> None:
    """Copy the node's data, with its write-ahead log. Raises Failure."""
    try:
        shutil.copytree(node.data / "member" / "snap", target / "member" / "snap")
        shutil.copytree(node.wal, target / "member" / "wal")
        target.chmod(0o700)
    except (OSError, shutil.Error) as error:
        hint = "is the disk full? 'df' says"
        raise Failure("cannot copy this node's data of etcd", where=str(node.data), hint=hint) from error


def reads(url: str, own: Tls | None) -> bool:
    """Whether the member there reads through a leader that a quorum follows."""
    client = Client([url], timeout=TIMEOUT_S, tls=own)
    try:
        client.get("flotilla")
    except Unavailable:
        return False
    except EtcdError:
        return True  # it refuses, which takes a quorum as well
    finally:
        client.close()
    return True


def listed_in(body: bytes) -> tuple[Member, ...]:
    """The members in an answer to ``GET /members`` on a port for peers; none if it cannot be understood."""
    try:
        return tuple(
            Member(int(one["id"]), str(one.get("name", "")), _strings(one["peerURLs"]), _strings(one.get("clientURLs")))
            for one in record.parse(body)
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        return ()


def _strings(found: Sequence[object] | None) -> tuple[str, ...]:
    return tuple(map(str, found or ()))

"""Members of the cluster's etcd, listed and changed with a node's own etcdctl, for nodes that join or leave."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NotRequired, TypedDict
from urllib.parse import urlsplit

from cluster.client.node import Node
from terminal import Failure, record

PEER_PORT = 2380
ETCDCTL = "etcdctl --dial-timeout=5s --command-timeout={seconds}s {words}"
ANSWER_S = 15.0
"""For etcd to answer, with hardware; times the accelerator's factor."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of etcd: ``id`` is its own name for it; without a ``name`` it was added and has never started."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    learner: bool = False

    def is_on(self, node: Node) -> bool:
        """Whether the others reach it at the node's address."""
        return any(urlsplit(url).hostname == node.address for url in self.peer_urls)


def parse(text: str) -> list[Member]:
    """What ``etcdctl member list -w json`` prints. Raises :class:`Failure` if it is not that."""
    try:
        return [_member(entry) for entry in record.parse(text)["members"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure("etcd's list of members makes no sense", where=text[:100]) from error


class _Entry(TypedDict):
    """A member as etcdctl prints it (3.5); what is empty or false is left out."""

    ID: int
    name: NotRequired[str]
    peerURLs: list[str]
    isLearner: NotRequired[bool]


def _member(entry: _Entry) -> Member:
    learner = bool(entry.get("isLearner", False))
    return Member(int(entry["ID"]), str(entry.get("name", "")), tuple(entry["peerURLs"]), learner)


def members(by: Node) -> list[Member]:
    """The members that the etcd behind the node ``by`` knows. Raises :class:`Failure`."""
    return parse(_etcdctl(by, "member list --write-out=json"))


def add(by: Node, joining: Node) -> tuple[Member, str]:
    """Make ``joining`` a learner; returns it with the ``initial-cluster`` that its etcd must be started with.

    Raises :class:`Failure`.
    """
    scheme = "https" if by.has_certificates else "http"
    url = f"{scheme}://{joining.address}:{PEER_PORT}"
    said = _etcdctl(by, f"member add {joining.name} --learner --peer-urls={url}")
    found = re.search(r'^ETCD_INITIAL_CLUSTER="([^"]+)"$', said, re.MULTILINE)
    added = [member for member in members(by) if member.peer_urls == (url,)]
    if found is None or not added:
        raise Failure(f"etcd did not take {joining.name} in: {said.strip()[:200]}", where=by.name)
    return added[0], found[1]


def promote(by: Node, member: Member) -> None:
    """Let a learner vote, if the nodes' own upkeep has not done so. Raises :class:`Failure` while it has not caught up."""
    try:
        _etcdctl(by, f"member promote {member.id:x}")
    except Failure:
        if not any(each.id == member.id and not each.learner for each in members(by)):
            raise


def forget(by: Node, leaving: Node) -> None:
    """Have the nodes' own upkeep never choose ``leaving`` as a member again. Raises :class:`Failure`.

    Without its offer (docs/discovery.md), which only it makes."""
    if leaving.has_shell:
        leaving.root("systemctl stop etcd-upkeep.timer etcd-upkeep.service", timeout=ANSWER_S * leaving.factor)
    _etcdctl(by, f"del /flotilla/etcd/nodes/{leaving.name}")


def remove(by: Node, member: Member) -> None:
    """Make it no member any more. Raises :class:`Failure`, also if etcd would not be healthy without it."""
    _etcdctl(by, f"member remove {member.id:x}")


def is_healthy(node: Node) -> bool:
    """Whether a member answers from its own data: it is up, with or without a leader."""
    try:
        _etcdctl(node, "endpoint status")
    except Failure:
        return False
    return True


def _etcdctl(node: Node, words: str) -> str:
    seconds = ANSWER_S * node.factor
    result = node.root(ETCDCTL.format(seconds=round(seconds), words=words), timeout=seconds + ANSWER_S)
    if result.rc != 0:
        output = (result.err.strip() or result.out.strip()).splitlines()
        raise Failure(
            f"etcd refuses {words.split(' --')[0]!r}: {_reason(output[-1]) if output else result.rc}", where=node.name
        )
    return result.out


def _reason(line: str) -> str:
    """The message for people in the JSON that etcdctl may write about a failed call."""
    try:
        entry = record.parse(line)
    except ValueError:
        return line.removeprefix("Error: ")
    return str(entry.get("error", line)) if isinstance(entry, dict) else line

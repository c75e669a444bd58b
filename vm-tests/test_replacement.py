"""A member of etcd that is lost with its disk, on nodes as they are: a proxy takes its place, and no person does
anything. Under faults by chance: ``tests/discovery/test_replacement.py``.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.client.cluster import Cluster
from cluster.client.node import Node
from cluster.lifecycle.up import Options, up
from cluster.testing.plugin import clusters_of
from terminal import Failure, Phases

from . import keys
from .conftest import remove, until

pytestmark = [pytest.mark.namespaces, pytest.mark.fast]

NAME = "vm-tests-replacement"
LEASE_S = 18
ABSENT_S = 60
"""Instead of ten minutes, in which servers boot."""
BLOCKED_S = 10 + 5
"""Writes wait no longer: ten seconds, an election timeout of 2 s, and the request that the dead one did not answer."""
WHOLE_S = 300
DROP_IN = "/run/systemd/system/etcd-upkeep.service.d"


@pytest.fixture(scope="module")
def cluster(image: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Three members and a proxy, whose upkeep takes a member for lost after a minute."""
    clusters_of(request.config)
    remove(NAME)
    try:
        options = Options(size=4, name=NAME, image=image, driver="namespaces", agent_ttl=f"{LEASE_S}s")
        cluster = up(options, Phases(sys.__stderr__)).cluster
        for node in cluster.nodes:
            hurry(node)
        yield cluster
    finally:
        remove(NAME)


def hurry(node: Node) -> None:
    node.ask(
        f"mkdir -p {DROP_IN} && printf '[Service]\\nEnvironment=ABSENT={ABSENT_S}\\n' > {DROP_IN}/absent.conf"
        " && systemctl daemon-reload && systemctl restart etcd-upkeep"
    )


def status(node: Node) -> dict[str, Any]:
    """What ``discovery status`` says there."""
    said: dict[str, Any] = json.loads(node.ask("discovery status --json"))
    return said


def voters(node: Node) -> set[str]:
    """The members that vote; empty while etcd does not say."""
    with suppress(Failure, ValueError):
        return {each["name"] for each in status(node)["nodes"] if each["role"] == "voter"}
    return set()


def the_leader(nodes: Sequence[Node]) -> Node:
    """The one that leads, by its own word, once they have elected one."""
    found: list[Node] = []

    def leads() -> bool:
        with suppress(Failure):
            found[:] = [node for node in nodes if keys.member(node).leads]
        return len(found) == 1

    until("one of them leads", leads, 60)
    return found[0]


def reason(node: Node) -> str:
    """Why upkeep does what it does next; empty while etcd does not say."""
    with suppress(Failure, ValueError):
        return str(status(node)["next"]["reason"])
    return ""


class Writer:
    """Writes a key after the other through ``node``, and measures how long none was acknowledged."""

    def __init__(self, node: Node) -> None:
        self.blocked_s = 0.0
        self.written: list[str] = []
        self._node = node
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        last, number = time.monotonic(), 0
        while not self._done.wait(0.1):
            number += 1
            with suppress(Failure):
                keys.put(self._node, f"/written/{number}", "1")
                self.written.append(f"/written/{number}")
                now = time.monotonic()
                self.blocked_s, last = max(self.blocked_s, now - last), now


def test_a_member_that_is_lost_with_its_disk_is_replaced(cluster: Cluster) -> None:
    """Test 8 of thirty: the leader's, at that."""
    *members, proxy = cluster.nodes
    lost = the_leader(members)
    witness, other = (node for node in members if node is not lost)
    until("all say what they are", lambda: len(status(witness)["nodes"]) == 4, 120)
    assert voters(witness) == {node.name for node in members}
    with Writer(witness) as writer:
        until("it writes", lambda: writer.written, 30)
        lost.kill()
        shutil.rmtree(lost.folder / "state")
        begin = time.monotonic()
        until("upkeep says why it waits", lambda: "has not been absent" in reason(witness), ABSENT_S)
        expected = {witness.name, other.name, proxy.name}
        until("full strength", lambda: voters(witness) == expected, WHOLE_S - (time.monotonic() - begin))
        until("the new one takes writes itself", lambda: keys.member(proxy).leader != "0", 60)
    assert writer.blocked_s <= BLOCKED_S
    there = keys.everything(proxy, "/written/")
    assert [key for key in writer.written if key not in there] == []
    assert len({keys.member(node).id for node in (witness, other, proxy)}) == 3, "the proxy is a member of its own"


def test_the_lost_one_comes_back_empty_as_a_proxy(cluster: Cluster) -> None:
    """With another disk, and its old slot at the discovery service."""
    survivors = {each["name"] for each in status(awake(cluster))["nodes"] if each["role"] == "voter"}
    (lost,) = (node for node in cluster.nodes if node.name not in survivors)
    if lost.has_shell:  # no other test has lost it
        lost.kill()
        shutil.rmtree(lost.folder / "state")
    lost.start()
    # By itself that begins two minutes later.
    until("it boots", lambda: lost.has_shell and lost.root("systemctl start etcd-upkeep").rc == 0, 60)
    until("it says that it is there", lambda: role(awake(cluster), lost) == "proxy", 120)
    lost.ask("etcdctl put /by-proxy 1")  # by its root shell: its ssh server has another key
    assert keys.get(awake(cluster), "/by-proxy") == "1"
    assert voters(awake(cluster)) == survivors


def test_a_member_that_was_removed_sets_its_data_aside_and_is_a_proxy(cluster: Cluster) -> None:
    """By a person here. Its upkeep stands still, or it would be chosen again at once."""
    by = awake(cluster)
    one = next(node for node in cluster.nodes if node.name in voters(by) - {by.name})
    one.ask("systemctl stop etcd-upkeep")
    keys.ask(by, "/v3/cluster/member/remove", {"ID": keys.member(one).id})
    until("it is a proxy", lambda: one.root("test -e /var/lib/etcd/data.proxy").rc == 0, 120)
    assert one.root("test -d /var/lib/etcd/data.removed/member/wal").rc == 0
    assert "was removed from its cluster: sets its data aside" in one.journal("etcd")
    one.ask("systemctl start etcd-upkeep")
    until("there are three again", lambda: len(voters(by)) == 3, 180)


def awake(cluster: Cluster) -> Node:
    """A node that votes."""
    return next(node for node in cluster.nodes if node.has_shell and node.name in voters(node))


def role(by: Node, node: Node) -> str:
    with suppress(Failure, ValueError):
        return next((str(each["role"]) for each in status(by)["nodes"] if each["name"] == node.name), "")
    return ""
